"""The rule "nesterov" under the name by which a round's code knows it."""

from atoll.optim.rules.nesterov import NesterovRule, step_

__all__ = ["NesterovRule", "step_"]
