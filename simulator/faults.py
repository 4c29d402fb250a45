"""What goes wrong, when and to whom: one small process for each kind of fault, all drawn from one seed.

A kind draws strikes; striking.py carries them out, and each is noted. Of many kinds each seed picks some, and
how often: a fault shows more among few others than a little of everything does in every seed. (Swarm testing,
Groce et al. 2012)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from atoll.protocol.ids import PeerId
from atoll.protocol.roster import Role, majority
from atoll.simulator.strikes import Strike
from atoll.simulator.striking import strike

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

DOWN_MS, SOON_MS = (300, 12_000), (200, 1_500)
CUT_MS, FREEZE_MS, FULL_MS = (500, 8_000), (500, 10_000), (500, 8_000)
LAG_MS, LATE_MS, AWAY_MS = (300, 4_000), (1_000, 15_000), (4_000, 15_000)
PAUSE_MS, LOST_MS, PATIENCE_MS = (1_000, 12_000), (30_000, 90_000), (12_000, 25_000)
SLOW_PER_MILLE, RATE_PER_MILLE, OFFSET_MS_MAX = (3_000, 10_000), (900, 1_100), 1 << 30
HOST_BYTES_PER_MS = (250, 4_000)
ROTTEN_HOSTS_SHARE = 0.34
FEW_KINDS = 4
WEIGHTS = (0.0, 0.5, 1.0, 2.0)


class Faults:
    """`start` sets the chosen kinds going; `stop` ends all faults and repairs what can be repaired.

    The more kinds of timed faults there are, the rarer each of them: rounds must go on for faults to matter.
    """

    def __init__(self, world: World, given: Sequence[Strike] | None = None) -> None:
        self.world, self.given = world, given
        self.rng = random.Random(f"{world.seed} faults")
        self.going = False
        self.struck: list[Strike] = []
        self.gone: set[PeerId] = set()
        self.wiped_at = -1
        self.rotten: set[PeerId] = set()

    def start(self) -> None:
        self.going = True
        if self.given is not None:
            for hit in self.given:
                self.world.clock.first(hit.at_ms, self._hit, hit)
            return
        kinds = self.world.setting.faults
        for kind in sorted(kinds & _STANDING.keys()):
            self.world.clock.first(0, self._draw, _STANDING[kind])
        timed = sorted(kinds & _TIMED.keys())
        weights = dict.fromkeys(timed, 1.0)
        if len(timed) > FEW_KINDS:
            weights = {kind: self.rng.choice(WEIGHTS) for kind in timed}
        rarer = (1 + sum(weights.values())) / 2
        for kind, weight in weights.items():
            if weight:
                every_ms, draw = _TIMED[kind]
                self._again(every_ms * rarer / weight, draw)

    def stop(self) -> None:
        world, self.going = self.world, False
        world.note("", "the faults stop")
        world.links.heal()
        world.traps.clear()
        if world.operator is not None:
            world.operator.calm = True
        for host in world.hosts.values():
            host.recover()
            host.pause(on=False)
            if host.life:
                world.revive(host)

    def _again(self, every_ms: float, draw: _Draw) -> None:
        at_ms = self.world.clock.now_ms + 1 + int(self.rng.expovariate(1 / every_ms))
        self.world.clock.first(at_ms, self._timed, every_ms, draw)

    def _timed(self, every_ms: float, draw: _Draw) -> None:
        if self.going:
            self._draw(draw)
            self._again(every_ms, draw)

    def _draw(self, draw: _Draw) -> None:
        for hit in draw(self):
            self._hit(hit)

    def _hit(self, hit: Strike) -> None:
        if self.going:
            self.struck.append(hit)
            strike(self.world, hit)

    def strike(self, kind: str, who: Iterable[str], *numbers: int, others: Iterable[str] = ()) -> Strike:
        return Strike(self.world.clock.now_ms, kind, tuple(who), tuple(others), numbers)

    # ---- whom -----------------------------------------------------------------------------------

    def between(self, bounds: tuple[int, int]) -> int:
        return self.rng.randint(*bounds)

    def names(self) -> list[str]:
        return sorted(host.name for host in self.world.hosts.values() if not host.finished)

    def victim(self) -> Host | None:
        """Anybody, or rather often the leader."""
        leader = self.world.leader()
        if leader is not None and leader.alive and self.rng.random() < 0.35:
            return leader
        alive = self.world.alive
        return self.rng.choice(alive) if alive else None

    def may_die(self, count: int = 1) -> bool:
        """Whether enough of the members, and of those who vote, stay alive; now and then they need not."""
        members, voters = self.world.in_progress()
        groups, needed = [[member.peer for member in members], voters], self.world.signed.genesis.needed
        stays = all(
            sum(self.world.hosts[peer].alive for peer in group) - count >= needed(len(group))
            for group in groups
        )
        return stays or self.rng.random() < 0.1

    def may_go(self) -> bool:
        """Those who go do not come back: enough workers must remain for the run to go on, and one more."""
        world, gone = self.world, self.gone
        workers = sum(host.role is Role.WORKER and host.id not in gone for host in world.alive)
        return world.updates > 0 and workers > 1 + world.setting.peers // 2 and self.spares(gone) > 0

    def spares(self, gone: Collection[PeerId]) -> int:
        """How many more members may be lost for good so that, whoever votes, a majority of them remains.

        Of all members, or of those alive: the dead may be no members any more by then. A liar may be silent
        to some for ever, so it is as good as lost.
        """
        world = self.world
        lost = {*gone, *(liar.id for liar in world.liars)}
        members = [member.peer for member in world.members(world.height + 1)]
        alive = [peer for peer in members if world.hosts[peer].alive]
        genesis = world.signed.genesis
        return min(
            count - genesis.needed(count) - sum(peer in lost for peer in some)
            for some in (members, alive)
            for count in (min(len(some), genesis.voters_max),)
        )

    def stayers(self) -> list[Host]:
        """Workers that are alive and were not asked to go."""
        return [host for host in self.world.alive if host.role is Role.WORKER and host.id not in self.gone]

    def spare(self) -> list[str]:
        """The next machine that may come."""
        return [self.world.hosts[peer].name for peer in self.world.waiting_to_join[:1]]


_Draw = Callable[[Faults], list[Strike]]


def _trap(faults: Faults, effect: str, bounds: tuple[int, int]) -> list[Strike]:
    rng, now_ms = faults.rng, faults.world.clock.now_ms
    moment = rng.choice(faults.world.setting.moments)
    numbers = (rng.randint(0, 1000), rng.randint(*bounds))
    return [Strike(now_ms, f"trap-{effect}", numbers=numbers, moment=moment)]


def _crash(faults: Faults) -> list[Strike]:
    """Half of them are started again at once, as a service is, so that they find their round unfinished."""
    victim, bounds = faults.victim(), faults.rng.choice((DOWN_MS, SOON_MS))
    if not faults.may_die() or victim is None:
        return []
    if faults.rng.random() < 0.5:
        return _trap(faults, "crash", bounds)
    return [faults.strike("crash", [victim.name], faults.between(bounds))]


def _torn(faults: Faults) -> list[Strike]:
    victim = faults.victim()
    if not faults.may_die() or victim is None:
        return []
    return [faults.strike("torn", [victim.name], faults.between(DOWN_MS))]


def _full(faults: Faults) -> list[Strike]:
    victim = faults.victim()
    if not faults.may_die() or victim is None:
        return []
    return [faults.strike("full", [victim.name], faults.between(FULL_MS))]


def _wipe(faults: Faults) -> list[Strike]:
    """One worker, not twice before the next commit: who is gone must be out of the members first."""
    world, stayers, spare = faults.world, faults.stayers(), faults.spare()
    if not spare or not stayers or world.height <= faults.wiped_at or not faults.may_go():
        return []
    victim = faults.rng.choice(stayers)
    faults.gone.add(victim.id)
    faults.wiped_at = world.height
    return [faults.strike("wipe", [victim.name], faults.between(DOWN_MS), others=spare)]


def _corrupt(faults: Faults) -> list[Strike]:
    """The same third of the hosts at most, once all have the state: what was held is to be had somewhere.

    Not the witness's where majorities are lost: after a recovery it may be the only one that has the state.
    """
    victim = faults.victim()
    if (
        victim is None
        or not faults.world.updates
        or (victim.role is Role.WITNESS and "doom" in faults.world.setting.faults)
        or len({*faults.rotten, victim.id}) > ROTTEN_HOSTS_SHARE * faults.world.setting.peers
        or faults.spares({*faults.gone, *faults.rotten, victim.id}) < 0
    ):
        return []
    faults.rotten.add(victim.id)
    return [faults.strike("corrupt", [victim.name], faults.rng.randrange(1 << 16))]


def _freeze(faults: Faults) -> list[Strike]:
    for_ms, victim = faults.between(FREEZE_MS), faults.victim()
    if faults.rng.random() < 0.5:
        return _trap(faults, "frost", FREEZE_MS)
    return [faults.strike("freeze", [victim.name], for_ms)] if victim is not None else []


def _partition(faults: Faults) -> list[Strike]:
    """A trap, two that do not reach each other, or a group cut off; one direction of it, or both."""
    rng, names, leader = faults.rng, faults.names(), faults.world.leader()
    chance, for_ms = rng.random(), faults.between(CUT_MS)
    if chance < 0.35:
        return _trap(faults, "cut", CUT_MS)
    out, into = rng.choice(((1, 1), (1, 1), (1, 0), (0, 1)))
    if chance < 0.55 and len(names) > 1:
        one, other = rng.sample(names, 2)
        return [faults.strike("cut", [one], for_ms, out, into, others=[other])]
    group = set(rng.sample(names, rng.randint(1, max(1, len(names) // 2))))
    if leader is not None and rng.random() < 0.5:
        group.add(leader.name)
    return [faults.strike("cut", sorted(group), for_ms, out, into)]


def _lag(faults: Faults) -> list[Strike]:
    """What the leader, or another, says comes late; or one message does, when its view is long over."""
    if faults.rng.random() < 0.5:
        return _trap(faults, "late", LATE_MS)
    victim = faults.world.leader() if faults.rng.random() < 0.6 else faults.victim()
    if victim is None:
        return []
    return [faults.strike("lag", [victim.name], faults.between(LAG_MS), faults.between(CUT_MS))]


def _suspect(faults: Faults) -> list[Strike]:
    """Some believe that the leader, or another, is gone."""
    victim = faults.world.leader() if faults.rng.random() < 0.7 else faults.victim()
    names = [host.name for host in faults.world.alive if host is not victim]
    if victim is None or not names:
        return []
    believers = faults.rng.sample(names, faults.rng.randint(1, len(names)))
    return [faults.strike("suspect", [victim.name], others=sorted(believers))]


def _finish(faults: Faults) -> list[Strike]:
    stayers = faults.stayers()
    if not stayers or not faults.may_go():
        return []
    victim, now = faults.rng.choice(stayers), faults.rng.random() < 0.3
    faults.gone.add(victim.id)
    return [faults.strike("finish", [victim.name], int(now))]


def _churn(faults: Faults) -> list[Strike]:
    """A new worker comes, or one goes: after its contribution, or at once."""
    spare = faults.spare()
    if spare and faults.rng.random() < 0.5:
        return [faults.strike("join", spare)]
    return _finish(faults)


def _burst(faults: Faults) -> list[Strike]:
    """Evening or morning: up to a third go together, with a word or without, and others come with them."""
    rng, stayers = faults.rng, faults.stayers()
    together = max(1, len(stayers) // 3)
    coming = [faults.world.hosts[p].name for p in faults.world.waiting_to_join[:together]]
    strikes = [faults.strike("join", coming)] if coming and rng.random() < 0.7 else []
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, together)):
            strikes += _finish(faults)
    elif stayers and faults.may_die(together):
        away = sorted(host.name for host in rng.sample(stayers, together))
        strikes.append(faults.strike("crash", away, faults.between(AWAY_MS)))
    return strikes


def _pause(faults: Faults) -> list[Strike]:
    """A volunteer rests for some rounds; at least half of the workers train."""
    workers = [host for host in faults.stayers() if host.peer is not None and not host.peer.paused]
    if 2 * (len(workers) - 1) < faults.world.setting.peers:
        return []
    return [faults.strike("pause", [faults.rng.choice(workers).name], faults.between(PAUSE_MS))]


def _doom(faults: Faults) -> list[Strike]:
    """A majority is lost at once and stays away, or is out of sight; the authority goes on with the others.

    The witness is back first if it is among the lost. A trap takes a leader whose commit nobody else has.
    """
    rng, world, watched = faults.rng, faults.world, faults.world.operator is not None
    strikes = [] if watched else [faults.strike("operator", (), faults.between(PATIENCE_MS))]
    members, voters = world.in_progress()
    group = [member.peer for member in members] if rng.random() < 0.5 else list(voters)
    if not world.updates or len(group) < 3:
        return []
    count, away_ms = rng.randint(majority(len(group)), len(group) - 1), faults.between(LOST_MS)
    lost = sorted(world.hosts[peer].name for peer in rng.sample(group, count))
    chance, others = rng.random(), sorted({*faults.names()} - {*lost, "w"})
    if chance < 0.4:
        moment = rng.choice(("commits", "write committed", "propose"))
        share = rng.choice((0, 500, 1000))
        return [*strikes, Strike(world.clock.now_ms, "trap-doom", numbers=(share, away_ms), moment=moment)]
    if chance < 0.6:
        return [*strikes, faults.strike("cut", [name for name in lost if name != "w"], away_ms, 1, 1)]
    if "w" in lost:
        strikes.append(faults.strike("crash", ["w"], away_ms // 3))
    if others and rng.random() < 0.5:
        away = rng.sample(others, rng.randint(1, len(others)))
        strikes.append(faults.strike("cut", sorted(away), away_ms, 1, 1))
    return [*strikes, faults.strike("crash", lost, away_ms)]


def _slow(faults: Faults) -> list[Strike]:
    return [faults.strike("slow", [faults.rng.choice(faults.names())], faults.between(SLOW_PER_MILLE))]


def _bandwidth(faults: Faults) -> list[Strike]:
    """Some have just what the rules ask for, others more than ten times that."""
    names = faults.names()
    return [faults.strike("bandwidth", names, *(faults.between(HOST_BYTES_PER_MS) for _ in names))]


def _skew(faults: Faults) -> list[Strike]:
    draw = [
        (name, faults.between(RATE_PER_MILLE), faults.rng.randrange(OFFSET_MS_MAX)) for name in faults.names()
    ]
    return [faults.strike("skew", [name], rate, offset_ms) for name, rate, offset_ms in draw]


_STANDING: dict[str, _Draw] = {
    "loss": lambda faults: [faults.strike("loss", ())],
    "twice": lambda faults: [faults.strike("twice", ())],
    "reorder": lambda faults: [faults.strike("reorder", ())],
    "slow": _slow,
    "bandwidth": _bandwidth,
    "skew": _skew,
}

_TIMED: dict[str, tuple[int, _Draw]] = {
    "crash": (2_500, _crash),
    "wipe": (8_000, _wipe),
    "torn": (5_000, _torn),
    "full": (6_000, _full),
    "corrupt": (6_000, _corrupt),
    "freeze": (6_000, _freeze),
    "partition": (6_000, _partition),
    "lag": (5_000, _lag),
    "suspect": (4_000, _suspect),
    "churn": (6_000, _churn),
    "burst": (12_000, _burst),
    "pause": (6_000, _pause),
    "doom": (12_000, _doom),
}
