"""Robust aggregation: one update from contributions of which some may be wrong.

Lives here: the rules that may stand where the weighted mean does, and the clip before them. Does not live
here: who may contribute, how many liars a run expects, what becomes of the update. Pure functions over a
fixed contributor order; equal lists give equal bits on every machine, and memory is a piece of each
contribution, whatever the model's size.
A rule decides from small numbers (`evidence`): coefficient rules from weights and the Gram matrix (`gram`)
give a factor for each contribution, coordinate rules say which sorted values to keep. The decision is then
carried out in one more pass (`combine`, `coordinate`). Rules are told n contributions of which f may lie.
Start at `aggregate` below, then `evidence`, then a rule: `krum` is short. `hierarchy` is the tree of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Protocol

import numpy as np
from torch import Tensor

from atoll.optim.codecs.base import Codec, Payload
from atoll.optim.mean import check_weight, weighted_mean
from atoll.optim.robust.centered import CenteredClipping
from atoll.optim.robust.clip import clip_factors, clipped
from atoll.optim.robust.combine import combined
from atoll.optim.robust.coordinate import Median, TrimmedMean, sorted_mean
from atoll.optim.robust.evidence import Combination, Decision, Evidence, Sorting, tolerated
from atoll.optim.robust.fedld import FedLD
from atoll.optim.robust.flag import Flag
from atoll.optim.robust.gram import Rows, gram, squares
from atoll.optim.robust.krum import Krum
from atoll.optim.robust.mean import Mean
from atoll.optim.robust.performance import performance
from atoll.optim.robust.prioritizer import Prioritizer
from atoll.protocol.errors import ConfigError

__all__ = [
    "RULES",
    "CenteredClipping",
    "Combination",
    "Decision",
    "Evidence",
    "FedLD",
    "Flag",
    "Krum",
    "Mean",
    "Median",
    "Prioritizer",
    "Rows",
    "Rule",
    "Sorting",
    "TrimmedMean",
    "aggregate",
    "carried_out",
    "clip_factors",
    "decide",
    "evidence_of",
    "performance",
    "robust_rule",
    "tolerated",
]


class Rule(Protocol):
    """One aggregation rule with its knobs."""

    @property
    def name(self) -> str:
        """What a run manifest calls it."""

    @property
    def needs(self) -> str:
        """What of the Gram matrix it looks at: "nothing" or all of it, "gram"."""

    def decide(self, evidence: Evidence) -> Decision:
        """What to do with at least one contribution, and why."""


RULES: dict[str, Rule] = {
    each.name: each
    for each in (
        Mean(),
        Median(),
        TrimmedMean(),
        Krum(),
        Krum(several=True),
        CenteredClipping(),
        Flag(),
        Prioritizer(),
        FedLD(),
    )
}


def robust_rule(name: str, where: str = "") -> Rule:
    """The rule of that name. Raises ConfigError, with the nearest name, if there is none."""
    found = RULES.get(name)
    if found is None:
        nearest = get_close_matches(name, RULES, n=1, cutoff=0.0)[0]
        names = ", ".join(RULES)
        raise ConfigError(
            f"unknown aggregation rule {name!r}", where, f"did you mean {nearest!r}? One of: {names}"
        )
    return found


def aggregate(
    rule: str | Rule,
    contributions: Sequence[tuple[int, Payload]],
    codec: Codec,
    numel: int,
    *,
    faulty: int = 0,
    clip: bool = True,
    previous: Tensor | None = None,
    seed: bytes = b"",
    out: Tensor | None = None,
) -> Tensor | None:
    """The update by a rule, fp32 [numel], in `out` if given; None if the weights sum to 0.

    `contributions` are (weight, payload) of one part, or of the whole vector, in contributor order; they are
    read once for a mean or a coordinate rule, and once more for the clip or the Gram matrix. First the
    median-norm clip, if `clip`, then the rule, told that `faulty` of those that weigh something may lie (see
    `tolerated`). Of a part, the clip and the rule look at that part only. `previous` is the last update,
    within VALUE_MAX, for the rules that begin from it; `seed` for those that draw.

    Weights count in a mean of those that a rule keeps, not in what it keeps, and not at all in coordinate
    rules. The mean without a clip is `weighted_mean`, to the bit. Raises RemoteProtocolError if a payload is
    not one of `numel` elements by `codec`, ConfigError for an unknown rule, ValueError for weights or vectors
    that `weighted_mean` would refuse.
    """
    chosen = robust_rule(rule) if isinstance(rule, str) else rule
    if isinstance(chosen, Mean) and not clip:
        return weighted_mean(contributions, codec, numel, out)
    total, weighing = 0, []
    for weight, payload in contributions:
        check_weight(weight, total)
        total += weight
        if weight:
            weighing.append((weight, payload))
    if not weighing:
        return None
    rows = Rows([payload for _, payload in weighing], codec, numel, previous)
    evidence = evidence_of(chosen, rows, [weight for weight, _ in weighing], faulty, clip, seed)
    return carried_out(decide(chosen, evidence, clip), rows, out)


def evidence_of(
    rule: Rule, rows: Rows, weights: Sequence[int], faulty: int, clip: bool, seed: bytes = b""
) -> Evidence:
    """What the rule has to know of these rows, measured in one pass over them, or in none.

    Gram matrices of the parts of a vector may be added, in the order of the parts, and decided on as one.
    """
    if rule.needs == "gram":
        found = gram(rows)
    else:
        found = squares(rows) if clip else np.zeros((len(rows), len(rows)))
    return Evidence(found, tuple(weights), faulty, seed)


def decide(rule: Rule, evidence: Evidence, clip: bool = True) -> Decision:
    """The rule's decision after the median-norm clip, if `clip`, as factors of the vectors before it."""
    if not clip:
        return rule.decide(evidence)
    seen, factors, why = clipped(evidence)
    found = rule.decide(seen)
    both = tuple(one * two for one, two in zip(factors, found.factors, strict=False))
    return replace(found, factors=both, why=f"{why}; {found.why}")


def carried_out(decision: Decision, rows: Rows, out: Tensor | None = None) -> Tensor:
    """The vector that a decision stands for, fp32 [numel], in `out` if given. Raises as `Rows.tiles` does."""
    if isinstance(decision, Combination):
        return combined(rows, decision.factors, decision.total, out)
    return sorted_mean(rows, decision.factors, decision.kept, out)
