"""What must never happen, and what must. Each checker is a file of its own and watches every peer at once.

A watcher has any of `on_decided(host, commit)`, `on_commit(host, commit)`, `on_state(host, state)`,
`on_send(host, action)` and `on_rebase(host, snapshot)`, and gets its `world` before the first event. It
trusts nothing that a peer says about itself where the world knows better. What it finds wrong it says by
`world.require`: the trial ends.
"""

from __future__ import annotations

from typing import Any

from atoll.simulator.checkers.bounded import Bounded
from atoll.simulator.checkers.certificates import Certificates
from atoll.simulator.checkers.counted_once import CountedOnce
from atoll.simulator.checkers.equal_anchors import EqualAnchors
from atoll.simulator.checkers.held_by_majority import HeldByMajority
from atoll.simulator.checkers.majority_promised import MajorityPromised
from atoll.simulator.checkers.newest_epoch import NewestEpoch
from atoll.simulator.checkers.nobody_pushed_out import NobodyPushedOut
from atoll.simulator.checkers.one_history import OneHistory
from atoll.simulator.checkers.promises import PromisesKept
from atoll.simulator.checkers.right_start import RightStart
from atoll.simulator.checkers.snapshots import Snapshots
from atoll.simulator.checkers.weighed import Weighed


def all_checkers() -> list[Any]:
    """Safety, the cheapest first."""
    return [
        OneHistory(),
        NewestEpoch(),
        EqualAnchors(),
        PromisesKept(),
        MajorityPromised(),
        Certificates(),
        CountedOnce(),
        Weighed(),
        RightStart(),
        Snapshots(),
        HeldByMajority(),
        NobodyPushedOut(),
        Bounded(),
    ]
