"""What a round costs each kind of member, in messages and bytes besides the updates, as a swarm grows.

    python benchmarks/scale.py --peers 8,64,512,4096 --json

Whole swarms in virtual time, every peer the real protocol core; nothing fails. What is counted is sent and
received by one member in one outer update, after all have joined: the leader, the owners of parts, those who
vote, and everybody else. `growth` compares the largest swarm with the smallest, beside the growth of the
logarithm of the number of peers, which is the bound for who does not lead. The bytes are those of the encoded
messages and an estimate of their envelope.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from typing import Any

from atoll.protocol import actions as a
from atoll.protocol import messages as m
from atoll.protocol.ids import PeerId
from atoll.protocol.wire.convert import encode
from atoll.simulator.host import Host
from atoll.simulator.setting import setting
from atoll.simulator.traffic import ENVELOPE_BYTES
from atoll.simulator.world import World

ROUND_MS_MAX = 600_000
ROLES = ("leader", "owner", "voter", "other")


class Ledgers:
    """Messages and bytes that each peer sent and received, for one round after the other."""

    world: World

    def __init__(self) -> None:
        self.counting = False
        self.costs: dict[PeerId, list[int]] = defaultdict(lambda: [0, 0])
        self.owners: set[PeerId] = set()
        self.leader: PeerId | None = None
        self._sizes: dict[object, int] = {}

    def on_send(self, host: Host, action: a.Send) -> None:
        receivers, message = action.to, action.message
        if isinstance(message, m.Plan):
            self.owners.update(receivers)
        elif isinstance(message, m.Propose):
            self.leader = host.id
        if self.counting:
            size = self._size(message)
            for who, times in ((host.id, len(receivers)), *((receiver, 1) for receiver in receivers)):
                self.costs[who][0] += times
                self.costs[who][1] += times * size

    def _size(self, message: Any) -> int:
        """Commits of one round differ in nothing that matters here, and are large."""
        commits = getattr(message, "commits", ())
        key = ("commits", *(commit.body.digest for commit in commits)) if commits else None
        if key is None:
            return len(encode(message)) + ENVELOPE_BYTES
        if key not in self._sizes:
            self._sizes[key] = len(encode(message)) + ENVELOPE_BYTES
        return self._sizes[key]


def measure(peers: int, rounds: int) -> dict[str, Any]:
    """One swarm: costs by role, averages and the largest, for one peer and one update."""
    ledgers = Ledgers()
    world = World(0, setting(peers, rounds + 2, "none", "dense"), [ledgers])
    began = time.process_time()
    world.boot()
    world.clock.run(ROUND_MS_MAX, lambda: world.updates >= 1)
    sums: dict[str, list[list[int]]] = {role: [] for role in ROLES}
    for update in range(2, rounds + 2):
        ledgers.counting, ledgers.costs, ledgers.owners = True, defaultdict(lambda: [0, 0]), set()
        world.clock.run(ROUND_MS_MAX, lambda wanted=update: world.updates >= wanted)  # type: ignore[misc]
        _by_role(world, ledgers, sums)
    seconds = time.process_time() - began
    rows = {role: _row(costs) for role, costs in sums.items() if costs}
    return {
        "peers": peers,
        "events": world.clock.happened,
        "cpu_seconds": round(seconds, 1),
        "events_per_s": round(world.clock.happened / seconds),
        "roles": rows,
    }


def _by_role(world: World, ledgers: Ledgers, sums: dict[str, list[list[int]]]) -> None:
    commit = world.history.chain[-1]
    voters = set(world.voters(commit.body.round))
    for host in world.alive:
        if host.id == ledgers.leader:
            role = "leader"
        elif host.id in ledgers.owners:
            role = "owner"
        else:
            role = "voter" if host.id in voters else "other"
        sums[role].append(ledgers.costs[host.id])


def _row(costs: list[list[int]]) -> dict[str, float]:
    return {
        "messages": round(sum(c[0] for c in costs) / len(costs), 1),
        "bytes": round(sum(c[1] for c in costs) / len(costs)),
        "bytes_max": max(c[1] for c in costs),
    }


def growth(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How much more a member pays in the largest swarm than in the smallest, beside the logarithm."""
    first, last = rows[0], rows[-1]
    shared = [role for role in ROLES if role in first["roles"] and role in last["roles"]]
    small = "other" if "other" in first["roles"] else "voter" if "voter" in first["roles"] else "owner"
    return {
        "logarithm": round(math.log2(last["peers"]) / math.log2(first["peers"]), 2),
        "everybody_else": round(last["roles"]["other"]["bytes"] / first["roles"][small]["bytes"], 2)
        if "other" in last["roles"]
        else None,
        **{role: round(last["roles"][role]["bytes"] / first["roles"][role]["bytes"], 2) for role in shared},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers", default="8,16,64,256,1024,4096")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = [measure(int(count), given.rounds) for count in given.peers.split(",")]
    result = {"rows": rows, "growth": growth(rows)}
    if given.json:
        print(json.dumps(result))
        return
    for row in rows:
        told = "; ".join(f"{r}: {c['messages']} messages, {c['bytes']} B" for r, c in row["roles"].items())
        print(f"{row['peers']:>5} peers: {told}")
    print(f"growth: {result['growth']}")


if __name__ == "__main__":
    main()
