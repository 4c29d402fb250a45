"""The inner learning rate as a function of the run's global step, so that a joiner trains at everybody's."""

from __future__ import annotations

import math

from atoll.workload.config import InnerConfig


def learning_rate(inner: InnerConfig, step: int) -> float:
    """Warm up linearly, then follow the schedule by name, down to `min_learning_rate_ratio` of the peak."""
    if step < inner.warmup_steps:
        return inner.learning_rate * (step + 1) / inner.warmup_steps
    if inner.schedule == "constant":
        return inner.learning_rate
    low = inner.min_learning_rate_ratio
    share = _cosine(inner, step) if inner.schedule == "cosine" else _stable_then_decay(inner, step)
    return inner.learning_rate * (low + (1 - low) * share)


def _cosine(inner: InnerConfig, step: int) -> float:
    span = inner.total_steps - inner.warmup_steps
    done = min(1.0, (step - inner.warmup_steps) / span)
    return 0.5 * (1 + math.cos(math.pi * done))


def _stable_then_decay(inner: InnerConfig, step: int) -> float:
    """Flat, then a straight line over the last `decay_steps`. (WSD; INTELLECT-1, Jaghouar et al. 2024)"""
    return min(1.0, max(0.0, (inner.total_steps - step) / inner.decay_steps))
