"""Properties are not timed: a busy machine is no counterexample. 60 examples keep all of them to minutes."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "atoll", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("atoll")
