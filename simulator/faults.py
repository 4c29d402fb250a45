"""What goes wrong, when and to whom: one small process for each kind of fault, all drawn from one seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from atoll.protocol import events as e
from atoll.protocol.ids import PeerId
from atoll.protocol.ledger import Role
from atoll.simulator.traps import Trap

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

CRASH_EVERY_MS, DOWN_MS = 2_500, (300, 12_000)
CUT_EVERY_MS, CUT_MS = 8_000, (500, 8_000)
FREEZE_EVERY_MS, FREEZE_MS = 6_000, (500, 10_000)
CHURN_EVERY_MS = 6_000
SLOW_FACTOR = (3.0, 10.0)
TRAPS_MAX = 3


class Faults:
    """`start` sets the chosen kinds going; `stop` ends all faults and repairs what can be repaired.

    The more kinds of timed faults there are, the rarer each of them: rounds must go on for faults to matter.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = random.Random(f"{world.seed} faults")
        self.going = False
        self.asked_to_go: set[PeerId] = set()

    def start(self) -> None:
        self.going = True
        kinds, links = self.world.setting.faults, self.world.links
        links.loss, links.reorder = "loss" in kinds, "reorder" in kinds
        if "slow" in kinds:
            self._slow_down()
        timed = {
            "crash": (CRASH_EVERY_MS, self._crash),
            "partition": (CUT_EVERY_MS, self._cut),
            "freeze": (FREEZE_EVERY_MS, self._freeze),
            "churn": (CHURN_EVERY_MS, self._churn),
        }
        chosen = [timed[kind] for kind in sorted(kinds & timed.keys())]
        for every_ms, strike in chosen:
            self._again(every_ms * (1 + len(chosen)) // 2, strike)

    def stop(self) -> None:
        self.going = False
        self.world.note("", "the faults stop")
        self.world.links.heal()
        self.world.traps.clear()
        for host in self.world.hosts.values():
            host.recover()
            if host.life:
                self.world.revive(host)

    def _again(self, every_ms: int, strike: Callable[[], None]) -> None:
        wait_ms = 1 + int(self.rng.expovariate(1 / every_ms))
        self.world.clock.later(wait_ms, self._strike, every_ms, strike)

    def _strike(self, every_ms: int, strike: Callable[[], None]) -> None:
        if self.going:
            strike()
            self._again(every_ms, strike)

    def _between(self, bounds: tuple[int, int]) -> int:
        return self.rng.randint(*bounds)

    def _victim(self) -> Host | None:
        """Anybody, or rather often the leader."""
        leader = self.world.leader()
        if leader is not None and leader.alive and self.rng.random() < 0.35:
            return leader
        alive = self.world.alive
        return self.rng.choice(alive) if alive else None

    def _may_die(self) -> bool:
        """Whether a majority stays alive; now and then it need not."""
        members = self.world.members(self.world.height + 1)
        living = sum(self.world.hosts[member.peer].alive for member in members)
        needed = self.world.signed.genesis.needed(len(members))
        return living - 1 >= needed or self.rng.random() < 0.1

    def _may_go(self) -> bool:
        """Those who go do not come back: a majority must remain, and enough workers for the run to go on.

        A majority of all members, and of those alive: the dead may be no members any more when it has gone.
        """
        world, gone = self.world, self.asked_to_go
        members = [member.peer for member in world.members(world.height + 1)]
        alive = [peer for peer in members if world.hosts[peer].alive]
        workers = sum(host.role is Role.WORKER and host.id not in gone for host in world.hosts.values())
        needed = world.signed.genesis.needed
        return (
            world.updates > 0
            and workers > 1 + world.setting.peers // 2
            and all(len(set(some) - gone) > needed(len(some)) for some in (members, alive))
        )

    # ---- kinds ----------------------------------------------------------------------------------

    def _crash(self) -> None:
        down_ms, victim = self._between(DOWN_MS), self._victim()
        if not self._may_die() or victim is None:
            return
        if self.rng.random() < 0.5:
            self._set_trap(down_ms, frost=False)
        else:
            victim.crash()
            self.world.clock.later(down_ms, self.world.revive, victim)

    def _cut(self) -> None:
        """A group is cut off, sometimes in one direction only."""
        links, names = self.world.links, sorted(host.name for host in self.world.hosts.values())
        count = self.rng.randint(1, max(1, len(names) // 2))
        group = set(self.rng.sample(names, count))
        leader = self.world.leader()
        if leader is not None and self.rng.random() < 0.5:
            group.add(leader.name)
        links.cut, links.one_way = frozenset(group), self.rng.random() < 0.3
        self.world.note("", f"cut off: {' '.join(sorted(group))}{' (one way)' if links.one_way else ''}")
        self.world.clock.later(self._between(CUT_MS), self._heal, links.cut)

    def _heal(self, group: frozenset[str]) -> None:
        if self.world.links.cut is group:
            self.world.links.cut = frozenset()
            self.world.note("", "the cut heals")

    def _freeze(self) -> None:
        for_ms, victim = self._between(FREEZE_MS), self._victim()
        if self.rng.random() < 0.5:
            self._set_trap(for_ms, frost=True)
        elif victim is not None:
            self.world.note(victim.name, f"freezes for {for_ms} ms")
            victim.freeze(for_ms)

    def _set_trap(self, for_ms: int, frost: bool) -> None:
        trap = Trap(self.rng.choice(self.world.setting.moments), self.rng.random(), for_ms, frost)
        self.world.traps = [*self.world.traps, trap][-TRAPS_MAX:]

    def _slow_down(self) -> None:
        victim = self.rng.choice(sorted(self.world.hosts.values(), key=lambda host: host.name))
        factor = self.rng.uniform(*SLOW_FACTOR)
        self.world.note(victim.name, f"is {factor:.1f} times slower")
        victim.step_ms = int(victim.step_ms * factor)
        self.world.links.slowness = {victim.name: factor}

    def _churn(self) -> None:
        """A new worker comes, or one goes: after its contribution, or at once."""
        world = self.world
        if world.waiting_to_join and self.rng.random() < 0.5:
            world.revive(world.hosts[world.waiting_to_join.pop(0)])
            return
        alive = [h for h in world.alive if h.role is Role.WORKER and h.id not in self.asked_to_go]
        if alive and self._may_go():
            victim, now = self.rng.choice(alive), self.rng.random() < 0.3
            self.asked_to_go.add(victim.id)
            world.note(victim.name, f"is asked to finish{' now' if now else ''}")
            victim.act(victim.life, victim.take, e.Finish(now))
