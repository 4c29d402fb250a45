"""Nothing that a peer keeps grows without bound: every container in it, its queue, and its pending timers.

Containers are found by walking the peer, so that a new one cannot be forgotten here. The ledger alone may
grow with the rounds; everything else with the members of the run and the rounds that are kept.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from atoll.protocol.commits import Commit
from atoll.protocol.ledger import Ledger
from atoll.protocol.manifest import Manifest

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

TIMERS_MAX = 64
EVERY = 8


class Bounded:
    world: World

    def __init__(self) -> None:
        self.seen = 0

    def on_commit(self, host: Host, commit: Commit) -> None:
        """In a large network one host in each round or so: a walk costs as much as its peer keeps."""
        self.seen += 1
        if self.seen % max(EVERY, len(self.world.hosts)) == 0 or self.seen == EVERY:
            self.look(host)

    def look(self, host: Host) -> None:
        world, most = self.world, self.bound()
        for where, size in containers(host.peer, "peer", set()):
            world.require(size <= most, f"{where} of {host.name} has {size} entries, {most} are too many")
        queued = len(host.queue)
        world.require(queued <= most, f"{queued} actions of {host.name} wait for its disk")
        world.require(host.timers <= TIMERS_MAX, f"{host.timers} timers of {host.name} are pending")

    def bound(self) -> int:
        """Blobs are most: a contribution and a result of each part, for each peer and each kept round."""
        peers, kept = len(self.world.hosts), self.world.signed.manifest.rounds.keep_rounds
        return 64 + (kept + 1) * 2 * peers * peers


def containers(thing: Any, where: str, seen: set[int]) -> Iterator[tuple[str, int]]:
    """Every container reachable from `thing` through its attributes, with its size."""
    if id(thing) in seen or isinstance(thing, (str, bytes, Ledger, Manifest)):
        return
    seen.add(id(thing))
    if isinstance(thing, (dict, set, frozenset, list, tuple, deque)):
        yield where, len(thing)
        for item in thing.values() if isinstance(thing, dict) else thing:
            yield from containers(item, f"{where}[]", seen)
    elif type(thing).__module__.startswith("atoll.protocol"):
        for name in _attributes(thing):
            yield from containers(getattr(thing, name, None), f"{where}.{name}", seen)


def _attributes(thing: Any) -> list[str]:
    if dataclasses.is_dataclass(thing):
        return [field.name for field in dataclasses.fields(thing)]
    return list(getattr(thing, "__dict__", {}))
