"""The table of phases is true: nothing happens that is not in it, and all that is in it happens."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from phase_watch import Change, PhaseWatch
from transcripts import play

from atoll.protocol import events as e
from atoll.protocol.phases import PHASES, TRANSITIONS, Transitions, row_of
from atoll.protocol.roster import Role
from atoll.simulator.faults import Faults
from atoll.simulator.host import Host
from atoll.simulator.run import trial
from atoll.simulator.setting import setting
from atoll.simulator.world import World

SEEDS = range(300, 360)
SEEDS_MIN = 4
FAULTS = "crash,loss,partition,lag,freeze,churn"
SCENARIOS = Path(__file__).parent.parent / "scenarios"
STORIES = sorted(
    path for word in ("catch", "committee", "recovery") for path in SCENARIOS.glob(f"*{word}*.txt")
)
WISH_MS = (2, 40)
RECOVERY_SHARE, LEAVE_SHARE, PLUG_SHARE, PAUSE_SHARE = 0.002, 0.006, 0.1, 0.05


class Volunteers:
    """People at their machines: they pause, go on, leave and pull the plug at moments when that is awkward.

    Now and then the researcher begins a new epoch, though nothing is lost. In the end everybody leaves.
    """

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, random.Random(f"{world.seed} volunteers")

    def wish(self) -> None:
        hosts = [host for host in self.world.alive if not host.frozen]
        if hosts:
            self._wish(self.rng.choice(hosts))
        self.world.clock.later(self.rng.randint(*WISH_MS), self.wish)

    def _wish(self, host: Host) -> None:
        peer, chance = host.peer, self.rng.random()
        assert peer is not None
        encodes = any(work.encoding and not work.parts for work in peer.working.work.values())
        if chance < RECOVERY_SHARE:
            host.take(e.Recover())
        elif chance < PLUG_SHARE and peer.phase == "gathering" and host.disk.newest() is None:
            host.crash()
            self.world.clock.later(100, self.world.revive, host)
        elif (
            chance < LEAVE_SHARE and peer.phase in ("exchanging", "catching up") and host.role is Role.WORKER
        ):
            host.take(e.Finish(now=True))
        elif encodes or chance < PAUSE_SHARE:
            host.take(e.Pause(not peer.paused))

    def leave(self) -> None:
        for host in self.world.alive:
            host.take(e.Finish(now=True))


def live(seed: int) -> None:
    """A run with faults and volunteers. Nothing is checked here but the phases."""
    world = World(seed, setting(4 + seed % 3, 6, FAULTS), [])
    volunteers, faults = Volunteers(world), Faults(world)
    world.boot()
    faults.start()
    world.clock.later(100, volunteers.wish)
    world.clock.run(25_000 + 200 * seed, lambda: False)
    volunteers.leave()


def undone() -> None:
    """The witness is out of sight when the run has its last update, and the authority recovers without it."""
    world = World(3, setting(3, 1, "none"), [])
    world.boot()
    witness = world.hosts[next(iter(world.hosts))]
    world.clock.run(60_000, lambda: world.updates == 2)
    world.clock.run(world.clock.now_ms + 400, lambda: False)
    world.cut_off(frozenset({witness.name}), 30_000, out=True, into=True)
    world.clock.run(world.clock.now_ms + 20_000, lambda: world.updates == 3)
    world.clock.run(world.clock.now_ms + 1_000, lambda: False)
    witness.take(e.Recover())
    world.clock.run(world.clock.now_ms + 60_000, lambda: False)


def unseen(row: Transitions, seen: Counter[Change]) -> set[str]:
    """What of a row has never been shown."""
    shown = [change for change in seen if row_of(*change) is row]
    before = {f"before: {word}" for word in {*row.before} - {change[0] for change in shown}}
    return before | {f"after: {word}" for word in {*row.after} - {change[2] for change in shown}}


@pytest.fixture(scope="module")
def seen() -> Counter[Change]:
    """Some changes are rare: as many seeds as it takes to see all that the table knows, within bounds."""
    with pytest.MonkeyPatch.context() as patch:
        watch = PhaseWatch(patch)
        for story in STORIES:
            play(story.read_text(encoding="utf-8"))
        undone()
        for done, seed in enumerate(SEEDS):
            if done >= SEEDS_MIN and not any(unseen(row, watch.seen) for row in TRANSITIONS):
                break
            live(seed)
            trial(seed, setting(5 + seed % 3, 6, "heavy"), checkers=[])
    return watch.seen


def test_no_phase_follows_another_that_the_table_does_not_know(seen: Counter[Change]) -> None:
    assert [change for change in seen if row_of(*change) is None] == []


@pytest.mark.parametrize("row", TRANSITIONS, ids=lambda row: f"{row.by} {row.before[0]}")
def test_all_that_the_table_knows_happens(row: Transitions, seen: Counter[Change]) -> None:
    assert unseen(row, seen) == set()


def test_every_phase_is_in_the_table() -> None:
    words = {phase.word for phase in PHASES}
    assert {word for row in TRANSITIONS for word in row.after} == words
    assert {word for row in TRANSITIONS for word in row.before} == words
