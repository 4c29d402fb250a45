"""The ways to lie, by the names that a setting gives them.

Lives here: what a liar does to the messages and blobs of its own honest peer. Does not live here: the machine
that lies (`simulator/liars.py`). Start at `base`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from atoll.simulator.lies import agreement, blobs, speech
from atoll.simulator.lies.base import Lie

if TYPE_CHECKING:
    from atoll.simulator.liars import Liar


LIES: dict[str, Callable[[Liar], Lie]] = {
    "two stories": agreement.TwoStories,
    "silent": speech.Silent,
    "selective": speech.Selective,
    "wrong sums": blobs.WrongSums,
    "yes-sayer": agreement.YesSayer,
    "false promises": agreement.FalsePromises,
    "unjustified": agreement.Unjustified,
    "replays": speech.Replays,
    "absurd": agreement.Absurd,
    "flood": speech.Flood,
    "bumps": speech.Bumps,
    "false states": blobs.FalseStates,
    "withholds": blobs.Withholds,
    "slanders": agreement.Slanders,
    "usurps": speech.Usurps,
}
LIES_EACH = 3


def kinds_of(lies: Sequence[str], chance: random.Random) -> list[str]:
    """What one liar does: these, or a few of all."""
    return list(lies) or chance.sample(list(LIES), chance.randint(1, LIES_EACH))
