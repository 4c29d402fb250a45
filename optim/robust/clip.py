"""The median-norm clip: no contribution is longer than the middle one. Before every rule, on by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from atoll.optim.robust.evidence import Evidence, median


def clip_factors(norms: Sequence[float]) -> list[float]:
    """min(1, median / norm) for each length, exactly 1 up to the median; there must be a length.

    A liar can then be wrong in direction but not loud: with fewer liars than half, the median is a length
    between two honest ones. If most contributions are zero, all become zero. (SparseLoCo, Sarfi et al. 2025;
    without their 1e-8 below the fraction, which shrinks every contribution that is not far longer than that)
    """
    middle = median(norms)
    return [1.0 if norm <= middle else middle / norm for norm in norms]


def clipped(evidence: Evidence) -> tuple[Evidence, list[float], str]:
    """The evidence as it is after the clip, the factor of each row (1 for the previous update), and why."""
    norms = evidence.norms()
    factors = clip_factors(norms)
    changed = sum(factor < 1 for factor in factors)
    why = f"clipped {changed} of {len(factors)} to the median norm {median(norms):.4g}"
    factors += [1.0] * evidence.has_previous
    scale = np.array(factors)
    return replace(evidence, gram=evidence.gram * scale * scale[:, None]), factors, why
