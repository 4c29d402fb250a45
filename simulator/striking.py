"""What a strike does to the world: one small function for each kind. Whom it cannot hit it leaves alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from atoll.protocol import events as e
from atoll.protocol.ids import Digest
from atoll.simulator.operator import Operator
from atoll.simulator.strikes import Strike
from atoll.simulator.traps import EFFECTS, Trap

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

TRAPS_MAX = 3
ROTTEN_SHARE = 0.5


def strike(world: World, hit: Strike) -> None:
    _STRIKES[hit.kind](world, hit)


def known(kind: str) -> bool:
    return kind in _STRIKES


def _victims(world: World, hit: Strike) -> list[Host]:
    return [host for name in hit.who if (host := world.named.get(name)) is not None and host.alive]


def _crash(world: World, hit: Strike, torn: bool = False) -> None:
    (down_ms,) = hit.numbers
    for victim in _victims(world, hit):
        victim.crash()
        if torn and victim.disk.tear():
            world.note(victim.name, "finds the last record of its log cut off")
        world.clock.later(down_ms, world.revive, victim)


def _wipe(world: World, hit: Strike) -> None:
    """The disk is lost, and the key with it: the machine comes back as a peer that nobody knows.

    So it cannot vote again where it voted: who copies an old key to an empty disk breaks its promises.
    """
    (down_ms,) = hit.numbers
    for victim in _victims(world, hit):
        world.note(victim.name, f"loses its disk, and comes back as {' '.join(hit.others)}")
        victim.crash()
        victim.finished = True
        _join(world, Strike(0, "join", hit.others), down_ms)


def _join(world: World, hit: Strike, after_ms: int = 0) -> None:
    for name in hit.who:
        newcomer = world.named.get(name)
        if newcomer is not None and newcomer.id in world.waiting_to_join:
            world.waiting_to_join.remove(newcomer.id)
            world.clock.later(after_ms, world.revive, newcomer)


def _finish(world: World, hit: Strike) -> None:
    (now,) = hit.numbers
    for victim in _victims(world, hit):
        world.note(victim.name, f"is asked to finish{' now' if now else ''}")
        victim.act(victim.life, victim.take, e.Finish(bool(now)))


def _pause(world: World, hit: Strike) -> None:
    (for_ms,) = hit.numbers
    for victim in _victims(world, hit):
        world.note(victim.name, f"rests for {for_ms} ms")
        victim.pause(on=True)
        world.clock.later(for_ms, victim.pause, False)


def _operator(world: World, hit: Strike) -> None:
    """From now on somebody watches over the run."""
    (patience_ms,) = hit.numbers
    if world.operator is None:
        world.operator = Operator(world, patience_ms)
        world.operator.look()


def _full(world: World, hit: Strike) -> None:
    (for_ms,) = hit.numbers
    for victim in _victims(world, hit):
        world.note(victim.name, f"has no room on its disk for {for_ms} ms")
        victim.full_until_ms = world.clock.now_ms + for_ms


def _corrupt(world: World, hit: Strike) -> None:
    """Some of what the victim keeps for others is not what it was.

    The last copy on any disk is spared: who accepted an update is bound to it, and bytes that nobody has
    can be neither given nor forgotten. That is a lost disk in mid-round, which only the authority mends.
    """
    (salt,) = hit.numbers
    rng = random.Random(salt)
    for victim in _victims(world, hit):
        kept = sorted({*victim.disk.results, *victim.memory, *(s.anchor for s in victim.disk.states)})
        drawn = [digest for digest in kept if rng.random() < ROTTEN_SHARE]
        rotten = [
            digest for digest in drawn if digest in victim.memory or _kept_elsewhere(world, victim, digest)
        ]
        world.note(victim.name, f"has {len(rotten)} damaged blobs and states")
        victim.disk.rot(rotten)


def _kept_elsewhere(world: World, victim: Host, digest: Digest) -> bool:
    disks = [host.disk for host in world.hosts.values() if host is not victim]
    return any(
        digest not in disk.rotten and (digest in disk.results or disk.state_of(digest) is not None)
        for disk in disks
    )


def _freeze(world: World, hit: Strike) -> None:
    (for_ms,) = hit.numbers
    for victim in _victims(world, hit):
        world.note(victim.name, f"freezes for {for_ms} ms")
        victim.freeze(for_ms)


def _suspect(world: World, hit: Strike) -> None:
    """Some hear of their transport that a peer is gone, which is not."""
    suspects = [host for name in hit.who if (host := world.named.get(name)) is not None]
    for name in hit.others:
        believer = world.named.get(name)
        for suspect in suspects:
            if believer is not None and believer.alive:
                believer.act(believer.life, believer.take, e.PeerLost(suspect.id))


def _trap(effect: str, world: World, hit: Strike) -> None:
    share, for_ms = hit.numbers
    trap = Trap(hit.moment, share / 1000, for_ms, effect)
    world.traps = [*world.traps, trap][-TRAPS_MAX:]


def _cut(world: World, hit: Strike) -> None:
    for_ms, out, into = hit.numbers
    others = frozenset(hit.others) or None
    world.cut_off(frozenset(hit.who), for_ms, out=bool(out), into=bool(into), others=others)


def _lag(world: World, hit: Strike) -> None:
    lag_ms, for_ms = hit.numbers
    for name in hit.who:
        world.note(name, f"is {lag_ms} ms late for {for_ms} ms")
        world.links.lag_ms[name] = lag_ms
        world.clock.later(for_ms, _in_time, world, name)


def _in_time(world: World, name: str) -> None:
    world.links.lag_ms.pop(name, None)


def _slow(world: World, hit: Strike) -> None:
    (per_mille,) = hit.numbers
    for name in hit.who:
        world.note(name, f"is {per_mille / 1000:.1f} times slower")
        world.links.slowness[name] = per_mille / 1000
        if name in world.named:
            world.named[name].step_ms = world.named[name].step_ms * per_mille // 1000


def _bandwidth(world: World, hit: Strike) -> None:
    world.links.bytes_per_ms.update(zip(hit.who, hit.numbers, strict=True))


def _skew(world: World, hit: Strike) -> None:
    per_mille, offset_ms = hit.numbers
    for name in hit.who:
        if name in world.named:
            world.named[name].rate, world.named[name].offset_ms = per_mille / 1000, offset_ms


def _switch(name: str, world: World, hit: Strike) -> None:
    setattr(world.links, name, True)


_STRIKES: dict[str, Callable[[World, Strike], None]] = {
    "crash": _crash,
    "torn": partial(_crash, torn=True),
    "wipe": _wipe,
    "join": _join,
    "finish": _finish,
    "pause": _pause,
    "operator": _operator,
    "full": _full,
    "corrupt": _corrupt,
    "freeze": _freeze,
    "suspect": _suspect,
    "cut": _cut,
    "lag": _lag,
    "slow": _slow,
    "bandwidth": _bandwidth,
    "skew": _skew,
    "loss": partial(_switch, "loss"),
    "twice": partial(_switch, "twice"),
    "reorder": partial(_switch, "reorder"),
    **{f"trap-{effect}": partial(_trap, effect) for effect in EFFECTS},
}
