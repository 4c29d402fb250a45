"""Two-thirds runs with one rule broken at a time: liars must get through, and the checkers must say so.

The liars of these trials tell the lies that the broken rule is there for; the other tests draw from all.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from atoll.protocol import justify, ledger, peer, proven, terms
from atoll.protocol import messages as m
from atoll.protocol.duties import chain, rounds, stages, voter
from atoll.protocol.leading import Leading
from atoll.simulator.host import Host
from atoll.simulator.run import trial
from atoll.simulator.setting import setting

SEEDS = 36


def findings(
    *what: str, lies: tuple[str, ...], peers: int = 7, liars: int = 2, faults: str = "none", seeds: int = SEEDS
) -> str:
    """What the first seed that fails has to say; it must be one of `what`."""
    chosen = dataclasses.replace(setting(peers, 3, faults, liars, "two-thirds"), lies=lies)
    for seed in range(seeds):
        outcome = trial(seed, chosen)
        found = outcome.violation or outcome.stuck
        if found is not None:
            assert any(words in found for words in what), f"seed {seed} finds something else: {found}"
            return found
    raise AssertionError(f"none of {seeds} seeds found it")
