"""A tree of groups: leaves aggregate their own peers, a root aggregates the leaves.

What a leaf hands up looks like a contribution: a weight, the sum of its peers', and a payload. So the root
is `aggregate` again, and trees of any depth are built of the same two calls. Only the mean is associative:
then tree and flat differ by rounding, and by what the leaf's codec loses. A robust rule at a leaf sees that
leaf's peers only, so each leaf has its own number of liars, and a group of liars can own a leaf; a robust
rule at the root then counts leaves. (LIFL, Qi et al. 2024)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from atoll.optim.codecs.base import Codec, Payload
from atoll.optim.robust import aggregate, tolerated

Contributions = Sequence[tuple[int, Payload]]


@dataclass(frozen=True, slots=True)
class Level:
    """How one level of a tree aggregates: a rule, the share of its inputs that may lie, and the clip."""

    rule: str = "mean"
    share: float = 0.0
    clip: bool = True

    def aggregated(
        self, inputs: Contributions, codec: Codec, numel: int, seed: bytes = b"", out: Tensor | None = None
    ) -> Tensor | None:
        """`aggregate` with f = floor(share * n) of the n inputs that weigh something."""
        faulty = tolerated(self.share, sum(weight > 0 for weight, _ in inputs))
        return aggregate(self.rule, inputs, codec, numel, faulty=faulty, clip=self.clip, seed=seed, out=out)


def leaf(
    level: Level, inputs: Contributions, codec: Codec, numel: int, to: Codec, seed: bytes = b""
) -> tuple[int, bytes]:
    """What a group hands up: the sum of its weights and its aggregate encoded by `to`.

    (0, b"") if nothing in it weighs anything: its parent leaves that out. Raises as `aggregate` does.
    """
    found = level.aggregated(inputs, codec, numel, seed)
    return (0, b"") if found is None else (sum(weight for weight, _ in inputs), to.encode(found))


def tree(
    leaves: Level,
    root: Level,
    groups: Sequence[Contributions],
    codec: Codec,
    numel: int,
    to: Codec,
    seed: bytes = b"",
    out: Tensor | None = None,
) -> Tensor | None:
    """Two levels at once, fp32 [numel]; None if nothing weighs anything. Groups have an order, as inputs do.

    Holds a payload of each group, by the codec `to`, and one vector at a time. Raises as `aggregate` does.
    """
    handed_up = [leaf(leaves, group, codec, numel, to, seed) for group in groups]
    return root.aggregated(handed_up, to, numel, seed, out)
