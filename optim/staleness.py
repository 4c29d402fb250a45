"""Updates that are merged as they come, from anchors that are older than the one they meet.

A buffer collects K of them and makes one step: nobody waits for anybody, and yet no single stale push moves
the anchor alone. Weights are whole numbers in units of 1/`unit` (`protocol/weights.py`: (1 + s)^(-1/2)); they
are not divided by their sum, so a buffer of stale updates makes a shorter step. Delayed Nesterov, the other
way to take pushes one by one, is an outer rule: `optim/rules/delayed_nesterov.py`. (FedBuff, Nguyen et al.
2022)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt

import torch
from torch import Tensor

from atoll.optim.flat import VALUE_MAX, floats
from atoll.optim.mean import TOTAL_WEIGHT_MAX, check_weight


class Buffer:
    """Pushes since the last step: their weighted sum, their number and the total of their weights.

    fp32, one rounding per operation, in the order that they came: the order is part of the result. With K = 1
    and weight `unit`, which must be a power of two, what comes out is what went in, bit for bit.
    """

    def __init__(self, numel: int, size: int, unit: int) -> None:
        if size < 1 or unit < 1 or unit & (unit - 1) or size * unit > TOTAL_WEIGHT_MAX:
            raise ValueError(f"a buffer of {size} with weights in units of 1/{unit}")
        self.size, self.unit = size, unit
        self.count, self.total = 0, 0
        self.summed, self._scratch = torch.zeros(numel), torch.empty(numel)

    def push(self, weight: int, update: Tensor) -> Tensor | None:
        """Take in a pseudo-gradient, fp32 [numel]; sum(weight * update) / (K * unit) if it is the Kth.

        One of weight 0 is too stale to count, and takes no place. The result is new, clamped to VALUE_MAX,
        and the buffer is empty again. Raises ValueError for another shape or a weight that is negative or
        above `unit`; nothing is changed then.
        """
        floats("update", update, self.summed.numel())
        check_weight(weight, TOTAL_WEIGHT_MAX - self.unit)
        if weight == 0:
            return None
        with torch.no_grad():
            self.summed.add_(torch.mul(update, float(weight), out=self._scratch))
        self.count, self.total = self.count + 1, self.total + weight
        if self.count < self.size:
            return None
        found = self.summed.div(float(self.size * self.unit)).clamp_(-VALUE_MAX, VALUE_MAX)
        self.summed.zero_()
        self.count, self.total = 0, 0
        return found


def reallocated(workers: int, spreads: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """How many of the workers each of several models gets, from (variance, |mean|^2) of its last updates.

    In proportion to sqrt(variance / |mean|^2): where updates disagree, averaging more of them helps most.
    Each gets one at least if there are enough; the rest by largest remainder, of equals the first. A model
    whose mean is zero counts as the noisiest of the others; if nothing is known of any, all are alike. Raises
    ValueError for negative numbers or no model. (FedAST, Askin et al. 2024)
    """
    if workers < 0 or not spreads or any(min(v, m) < 0 or not isfinite(v + m) for v, m in spreads):
        raise ValueError("workers, variances and squared means are 0 or more, of one model at least")
    known = [sqrt(variance / square) for variance, square in spreads if square > 0]
    most = max((ratio for ratio in known if isfinite(ratio)), default=1.0)
    ratios = [sqrt(v / m) if m > 0 else most if v > 0 else 0.0 for v, m in spreads]
    ratios = [min(ratio, most) for ratio in ratios]
    if not any(ratios):
        ratios = [1.0] * len(ratios)
    if workers < len(ratios):
        order = sorted(range(len(ratios)), key=lambda place: (-ratios[place], place))
        return tuple(int(order.index(place) < workers) for place in range(len(ratios)))
    total = sum(ratios)
    free = workers - len(ratios)
    exact = [free * ratio / total for ratio in ratios]
    given = [1 + int(share) for share in exact]
    by_rest = sorted(range(len(ratios)), key=lambda place: (int(exact[place]) - exact[place], place))
    for place in by_rest[: workers - sum(given)]:
        given[place] += 1
    return tuple(given)
