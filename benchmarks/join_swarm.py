"""One join of benchmarks/join.py: donors that hold a state and go on with their rounds, and one who joins."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from netlab import Lab
from sync_nodes import publish, start
from sync_peers import Peer, end

from atoll.node.identity import load_or_create
from atoll.optim.digest import tensor_digest
from atoll.protocol.ids import BlobRef, Digest
from atoll.protocol.keys import Key
from atoll.protocol.manifest import Assignment, Manifest, MembershipRules, OuterRules, RoundRules

ROUND_SHARE = 0.6
"""Of the time that the donors' links need for the state: how long a round is meanwhile."""

KILLED_AFTER = 0.5
"""Of the state's bytes, a donor is killed."""

JOIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Asked:
    params: int
    mbit: float
    up_mbit: float
    rtt_ms: float

    @property
    def state_bytes(self) -> int:
        return 8 * self.params

    @property
    def bound_s(self) -> float:
        return self.state_bytes * 8e-6 / self.mbit

    def supply_s(self, donors: int) -> float:
        return self.state_bytes * 8e-6 / min(self.mbit, donors * self.up_mbit)


def join(asked: Asked, folder: Path, lab: Lab, donors: int, kill: bool) -> dict[str, Any]:
    manifest = _publish(asked, folder, donors)
    peers: list[Peer] = []
    try:
        first = start(folder, manifest, lab, None, [])
        peers.append(first)
        bootstrap = _reachable(first, lab, "first")
        rounds = Rounds([])
        if donors > 1:
            for number in range(donors):
                peers.append(start(folder, manifest, lab, number, bootstrap))
            bootstrap = [
                a for number, peer in enumerate(peers[1:]) for a in _reachable(peer, lab, f"p{number}")
            ]
            rounds = Rounds(peers[1:])
            rounds.without(first)
        joiner = start(folder, manifest, lab, donors, bootstrap)
        peers.append(joiner)
        return _joined(asked, lab, rounds, joiner, donors, kill)
    finally:
        end(peers)


def _reachable(peer: Peer, lab: Lab, name: str) -> list[str]:
    return [address for address in peer.hear("ready")["multiaddrs"] if lab.address(name) in address]


def _publish(asked: Asked, folder: Path, donors: int) -> Path:
    """A run whose first state everybody has but the joiner."""
    anchor, momentum = torch.ones(asked.params), torch.zeros(asked.params)
    refs = [BlobRef(Digest(tensor_digest(vector)), 4 * asked.params) for vector in (anchor, momentum)]
    authority = Key.generate()
    manifest = Manifest(
        name="join",
        authority=authority.peer,
        numel=asked.params,
        anchor_blobs=tuple(refs),
        assignment=Assignment(1, 1000),
        rounds=RoundRules(
            start_workers=donors,
            probation_rounds=0,
            bytes_per_s_min=500_000,
            exchange="sparse",
        ),
        outer=OuterRules(codec="topk"),
        membership=MembershipRules(witnesses=(load_or_create(folder / "first").peer,)),
    )
    return publish(manifest, authority, folder, donors, anchor, momentum)


def _heard(peer: Peer, key: str, wait_s: float = 0.05) -> dict[str, Any] | None:
    """The next line with this key, if one comes in so short a time."""
    try:
        return peer.hear(key, wait_s=wait_s)
    except RuntimeError:
        if peer.process.poll() is not None:
            raise
        return None


class Rounds:
    """The donors' rounds, one after the other when told; none where no donor trains."""

    def __init__(self, workers: list[Peer]) -> None:
        self.workers = list(workers)
        self.round = max((int(worker.hear("trains")["trains"]) for worker in workers), default=0)

    def go(self) -> None:
        """End the round in progress; all who live have its state then, and train the next one."""
        for worker in self.workers:
            worker.say(go=True)
        for worker in self.workers:
            worker.hear("applied", self.round)
        for worker in self.workers:
            worker.hear("saved", self.round)
            worker.hear("trains", self.round + 1)
        self.round += 1

    def without(self, first: Peer) -> None:
        """Let the witness go that began the run, so that it serves no state; two updates at least."""
        first.say(finish=True)
        self.go()
        roles: list[str] = []
        while roles != ["WORKER"] * len(self.workers):
            self.go()
            self.workers[0].say(traffic=True)
            roles = self.workers[0].hear("traffic")["roles"]
        first.kill()

    def lose(self) -> None:
        """SIGKILL the last donor."""
        self.workers.pop().kill()


def _joined(asked: Asked, lab: Lab, rounds: Rounds, joiner: Peer, donors: int, kill: bool) -> dict[str, Any]:
    me = f"p{donors}"
    ready = joiner.hear("ready")
    begun = lab.counted()[me].received
    round_s = ROUND_SHARE * asked.supply_s(donors)
    due_s, end_s = time.monotonic() + round_s, time.monotonic() + JOIN_S
    loaded = asks = trains = None
    commits, killed = 0, not kill
    while trains is None:
        assert time.monotonic() < end_s, "no join"
        loaded = loaded or _heard(joiner, "applied")
        asks = asks or (_heard(joiner, "asks") if loaded else None)
        if not killed and lab.counted()[me].received - begun > KILLED_AFTER * asked.state_bytes:
            rounds.lose()
            killed = True
        if asks is not None or (loaded is None and time.monotonic() > due_s):
            rounds.go()
            commits += asks is None and bool(rounds.workers)
            due_s = time.monotonic() + round_s
        trains = _heard(joiner, "trains", 0.2) if asks is not None else None
    received = lab.counted()[me].received - begun
    joiner.say(repeated=True)
    assert loaded is not None
    assert asks is not None
    times = [line["at_s"] for line in (ready, joiner.hear("loading"), loaded, asks, trains)]
    names = ("asking_s", "loading_s", "replaying_s", "admitted_s")
    training_s = times[-1] - times[0]
    return {
        "donors": donors,
        "killed": kill,
        "bound_s": round(asked.bound_s, 2),
        "supply_s": round(asked.supply_s(donors), 2),
        **{name: round(end - start, 2) for name, start, end in zip(names, times, times[1:], strict=False)},
        "training_s": round(training_s, 2),
        "ratio_to_bound": round(training_s / asked.bound_s, 3),
        "ratio_to_supply": round(training_s / asked.supply_s(donors), 3),
        "bytes_vs_state": round(received / asked.state_bytes, 3),
        "repeated_bytes": joiner.hear("repeated")["repeated"],
        "state_round": loaded["applied"],
        "commits_meanwhile": commits,
        "first_round": trains["trains"],
    }
