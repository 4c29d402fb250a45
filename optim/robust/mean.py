"""The weighted mean as a rule, so that a clip can come before it."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.optim.robust.evidence import Combination, Evidence


@dataclass(frozen=True, slots=True)
class Mean:
    """By tokens, of everybody. The best rule where nobody lies; a single loud liar decides it without the
    clip. (FedAvg, McMahan et al. 2017)
    """

    name: str = "mean"
    needs: str = "nothing"

    def decide(self, evidence: Evidence) -> Combination:
        factors = tuple(float(weight) for weight in evidence.weights) + (0.0,) * evidence.has_previous
        return Combination(factors, float(evidence.total), f"the mean of {evidence.contributions}")
