"""Each kind of fault does what its name says, and no more."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from atoll.protocol import actions as a
from atoll.protocol.commits import Kind
from atoll.protocol.events import StateLoaded
from atoll.protocol.ids import digest_of
from atoll.simulator.clock import Clock
from atoll.simulator.disk import Disk
from atoll.simulator.links import Cut, Links
from atoll.simulator.run import trial
from atoll.simulator.setting import FAULTS, setting
from atoll.simulator.strikes import Strike
from atoll.simulator.striking import known


def test_a_cut_has_a_direction() -> None:
    links = Links(random.Random(0))
    links.cuts = (Cut(frozenset({"a"}), frozenset({"b", "c"})),)
    assert not links.open("a", "b")
    assert links.open("b", "a")
    assert links.open("b", "c")
    assert not links.both_ways("a", "c")
    links.heal()
    assert links.both_ways("a", "c")


def test_transfers_share_a_host() -> None:
    links = Links(random.Random(0))
    links.bytes_per_ms = {"a": 100, "b": 10_000, "c": 10_000}
    alone = links.transfer_ms("a", "b", 100_000, now_ms=0)
    behind = links.transfer_ms("a", "c", 100_000, now_ms=0)
    assert 1_000 <= alone <= 1_200
    assert 2_000 <= behind <= 2_200
    assert links.transfer_ms("a", "b", 100_000, now_ms=60_000) <= 1_200


def test_only_the_last_write_can_be_torn() -> None:
    disk, commit = Disk(), SimpleNamespace(body=SimpleNamespace(kind=Kind.SKIP))
    disk.write(a.Committed(commit))  # type: ignore[arg-type]
    disk.write(a.Promised(2, 1))
    assert not disk.tear()
    disk.write(a.Committed(commit))  # type: ignore[arg-type]
    assert disk.tear()
    assert not disk.tear()
    assert len(disk.commits) == 1
    assert disk.promised == a.Promised(2, 1)


def test_what_has_rotten_is_not_there_after_a_start() -> None:
    disk, good, bad = Disk(), digest_of(b"good"), digest_of(b"bad")
    disk.save(good, 1)
    disk.save(bad, 1)
    disk.keep(StateLoaded(0, bad, ()))
    disk.rot([bad])
    disk.check()
    assert list(disk.results) == [good]
    assert disk.newest() is None
    disk.save(bad, 2)
    assert not disk.rotten


def test_a_strike_comes_before_all_else_of_its_millisecond() -> None:
    clock, seen = Clock(), list[str]()
    clock.later(5, seen.append, "usual")
    clock.first(5, seen.append, "strike")
    clock.later(5, clock.later, 0, seen.append, "at once")
    assert not clock.run(5, lambda: False)
    assert seen == ["strike", "usual", "at once"]
    assert clock.happened == 3


def test_every_kind_strikes_within_some_seeds() -> None:
    groups = ("crash,wipe,torn,full", "corrupt,freeze,partition,lag", "suspect,churn,burst", "pause,doom")
    rest = ",".join(kind for kind in FAULTS if not any(kind in group.split(",") for group in groups))
    struck: set[str] = set()
    for group in groups:
        for seed in range(4):
            struck.update(hit.kind for hit in trial(seed, setting(6, 8, f"{group},{rest}")).strikes)
    wanted = {"crash", "torn", "wipe", "full", "corrupt", "freeze", "cut", "lag", "suspect", "join", "finish"}
    wanted |= {"pause", "operator"}
    assert wanted | {"loss", "twice", "reorder", "slow", "bandwidth", "skew"} <= struck
    assert all(map(known, struck))


@pytest.mark.parametrize(
    ("strike", "told"),
    [
        (Strike(9_000, "wipe", ("p1",), ("p5",), (500,)), "p1 loses its disk, and comes back as p5"),
        (Strike(9_000, "full", ("p1",), (), (6_000,)), "p1 cannot write"),
        (Strike(9_000, "suspect", ("p1",), ("w", "p2")), "lost p1"),
        (Strike(9_000, "trap-cut", (), (), (500, 3_000), "vote"), "falls into the trap 'vote' (cut)"),
        (Strike(9_000, "pause", ("p1",), (), (8_000,)), " paused"),
        (Strike(9_000, "trap-late", (), (), (0, 6_000), "propose"), "falls into the trap 'propose' (late)"),
    ],
)
def test_a_single_strike_is_survived(strike: Strike, told: str) -> None:
    outcome = trial(1, setting(4, 6, "wipe"), traced=True, strikes=[strike])
    assert (outcome.violation, outcome.stuck) == (None, None)
    assert any(told in line for line in outcome.trace)
    assert outcome.strikes == (strike,)
