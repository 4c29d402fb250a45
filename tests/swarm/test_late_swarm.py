"""Real processes at speeds of 4 : 4 : 2 : 1, in rounds that wait for half of them and merge what is late."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from story import COORDINATOR, START_S, Anchors, join, publish, updates, wait_same, wait_updates

from atoll.cli.demo.swarm import Swarm
from atoll.node.disk import read_ledger
from atoll.protocol.commits import Kind
from atoll.protocol.keys import Key

pytestmark = [pytest.mark.long, pytest.mark.swarm, pytest.mark.timeout(300)]
EFFORTS = {"w1": 0.2, "w2": 0.2, "w3": 0.1, "w4": 0.05}
RULES = 'late = "merge"\ngrace_share = 0.0\n'
UPDATES = 20


def test_the_slow_are_merged_as_they_come_and_anchors_are_the_same(tmp_path: Path) -> None:
    swarm, anchors = Swarm(tmp_path, Anchors()), {}
    try:
        invite = publish(swarm, rounds=10_000, steps=16, workers=len(EFFORTS), rules=RULES)
        for name, effort in EFFORTS.items():
            join(swarm, name, invite, ("--listen", "127.0.0.1:0", "--effort", str(effort)))
        swarm.until(lambda: updates(swarm) >= 1, START_S, "the first update")
        wait_updates(swarm, UPDATES)
        assert wait_same(swarm)
        names = {swarm.statuses[name]["peer"]: name for name in (COORDINATOR, *EFFORTS)}
        anchors = {name: status["anchor_digest"] for name, status in swarm.statuses.items()}
        ledgers = [read_ledger(child.state_dir, Key.generate()) for child in swarm.children.values()]
    finally:
        swarm.close()
    assert len(anchors) == 1 + len(EFFORTS)
    shared = min(ledger.height for ledger in ledgers)
    assert len({ledger.digest_of_round(shared) for ledger in ledgers}) == 1
    done = [c.body for c in ledgers[0].commits if c.body.kind is Kind.UPDATE]
    given = [(names[c.peer], c.staleness, c.weight / c.tokens) for body in done for c in body.contributors]
    counts, late = Counter(name for name, _, _ in given), {s: w for _, s, w in given}
    print(f"{len(done)} updates, contributions {dict(counts)}, weights by staleness {late}")
    assert counts["w4"] >= len(done) // 8, "a quarter as fast as the fastest"
    assert counts["w3"] > counts["w4"]
    assert min(counts["w1"], counts["w2"]) > counts["w3"]
    assert max(late) >= 2
    assert all(weight == pytest.approx((1 + s) ** -0.5, rel=1e-3) for s, weight in late.items())
