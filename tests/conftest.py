"""Properties are not timed: a busy machine is no counterexample. 30 examples keep all of them to minutes."""

from __future__ import annotations

import gc

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "atoll", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("atoll")
gc.disable()  # what tests import stays: see workload/quick_imports.py

SLOWEST_FIRST = (
    "swarm/test_swarm",
    "swarm/test_faults",
    "optim/test_codecs",
    "simulator/",
    "swarm/",
    "netlab/",
    "optim/test_library",
)
"""Files that take longest: begun last, they would keep one processor waiting for the other. And one that
compiles every codec, so that others find them compiled."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((n for n, at in enumerate(SLOWEST_FIRST) if at in item.nodeid), 99))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
