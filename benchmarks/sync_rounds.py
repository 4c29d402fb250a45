"""The timed rounds of benchmarks/sync.py, by either system."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from netlab import Lab
from numpy.typing import NDArray
from sync_nodes import publish, start
from sync_peers import Peer, end
from sync_vectors import relative_error

from atoll.node.identity import load_or_create
from atoll.optim.codecs import codec
from atoll.optim.digest import tensor_digest
from atoll.protocol.ids import BlobRef, Digest
from atoll.protocol.keys import Key
from atoll.protocol.manifest import Assignment, Manifest, MembershipRules, OuterRules, RoundRules

KILLED_AFTER = 0.4
"""Of an undisturbed round's time."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the peers run: all on loopback, or each on a host of a lab."""

    inside: Callable[[str], AbstractContextManager[None]]
    address: Callable[[str], str]
    lab: Lab | None

    def wire_bytes(self) -> int | None:
        """Sent by the peers' hosts so far, by their interfaces' own count."""
        if self.lab is None:
            return None
        return sum(line.sent for name, line in self.lab.counted().items() if name != "first")


# ---- Atoll ----------------------------------------------------------------------------------------


def atoll(asked: Any, folder: Path, place: Place, exact: NDArray[np.float64]) -> dict[str, Any]:
    """Start, warm up, time, kill; what is to be reported."""
    folder.mkdir()
    manifest = _publish(asked, folder)
    peers: list[Peer] = []
    try:
        first = start(folder, manifest, place, None, [])
        peers.append(first)
        bootstrap = [a for a in first.hear("ready")["multiaddrs"] if place.address("first") in a]
        workers = [start(folder, manifest, place, n, bootstrap) for n in range(asked.peers)]
        peers += workers
        for worker in workers:
            worker.hear("ready")
        round_ = max({_trains(worker) for worker in workers})
        _go(workers, round_)
        mean = -_dumped(workers[0], folder / "anchor.npy")  # the first update to an anchor of zeros
        error = relative_error(mean, exact)
        round_ = _without_witness(workers, first, round_)
        timed = [_timed(workers, round_ + n, place) for n in range(1, asked.rounds + 1)]
        result = _report(asked, timed, error)
        if asked.kill and asked.peers > 2:  # one of two is no majority, and waits
            killed = _killed(workers, round_ + asked.rounds + 1, result["atoll_s"])
            result |= {f"kill_{key}": value for key, value in killed.items()}
        return result
    finally:
        end(peers)


def _publish(asked: Any, folder: Path) -> Path:
    """A run of `numel` zeros that everybody has already, begun by a witness."""
    zeros, authority = torch.zeros(asked.params), Key.generate()
    ref = BlobRef(Digest(tensor_digest(zeros)), 4 * asked.params)
    witness = load_or_create(folder / "first").peer
    manifest = Manifest(
        name="sync",
        authority=authority.peer,
        numel=asked.params,
        anchor_blobs=(ref, ref),
        assignment=Assignment(1, 1000),
        rounds=RoundRules(
            start_workers=asked.peers,
            probation_rounds=0,
            deadline_ms=30_000,
            lease_ms=20_000,
            bytes_per_s_min=1_000_000,
            grace_ms_min=3_000,
        ),
        outer=OuterRules(learning_rate=1.0, momentum=0.0, codec=asked.codec, clip="none"),
        membership=MembershipRules(witnesses=(witness,)),
    )
    return publish(manifest, authority, folder, asked.peers, zeros, zeros.clone())


def _without_witness(workers: Sequence[Peer], first: Peer, round_: int) -> int:
    """Let the witness go, and take the updates that go by until it is no member; the last one's round."""
    first.process.stdin.close()  # type: ignore[union-attr]
    while True:
        round_ += 1
        for worker in workers:
            _trains(worker, round_)
        _go(workers, round_)
        workers[0].say(traffic=True)
        if workers[0].hear("traffic")["roles"] == ["WORKER"] * len(workers):
            first.kill()
            return round_


def _dumped(peer: Peer, path: Path) -> NDArray[np.float32]:
    """The vector that a peer has now."""
    peer.say(dump=str(path))
    peer.hear("dumped")
    vector: NDArray[np.float32] = np.load(path)
    return vector


def _trains(worker: Peer, round_: int | None = None) -> int:
    """Wait until a worker has trained, and has nothing left to write of the round before."""
    found = int(worker.hear("trains", round_)["trains"])
    if round_ is not None:
        worker.hear("saved", round_ - 1)
    worker.say(draw=True)
    worker.hear("drawn")
    return found


def _go(workers: Sequence[Peer], round_: int) -> tuple[float, list[dict[str, Any]]]:
    """Let all hand over what they have; when that was, and what each says of its new state."""
    begun_s = time.monotonic()
    for worker in workers:
        worker.say(go=True)
    applied = [worker.hear("applied", round_) for worker in workers]
    return begun_s, applied


@dataclass(frozen=True, slots=True)
class Timed:
    seconds: float
    cpu_s: float
    bytes_sent: int
    wire_bytes: int | None
    identical: bool


def _timed(workers: Sequence[Peer], round_: int, place: Place) -> Timed:
    for worker in workers:
        _trains(worker, round_)
    os.sync()  # the disk is done with the round before, as it is after minutes of training
    cpu_s, sent, wire = sum(w.cpu_s() for w in workers), _sent(workers), place.wire_bytes()
    begun_s, applied = _go(workers, round_)
    cpu_s = sum(w.cpu_s() for w in workers) - cpu_s
    end_wire, end_sent = place.wire_bytes(), _sent(workers)
    return Timed(
        max(line["at_s"] for line in applied) - begun_s,
        cpu_s,
        end_sent - sent,
        None if wire is None or end_wire is None else end_wire - wire,
        len({line["anchor"] for line in applied}) == 1,
    )


def _sent(workers: Sequence[Peer]) -> int:
    """Bytes that the nodes count as sent, control included."""
    for worker in workers:
        worker.say(traffic=True)
    kinds = [worker.hear("traffic")["traffic"] for worker in workers]
    return sum(line["sent"] for kind in kinds for name, line in kind.items() if name != "dht")


def _report(asked: Any, timed: Sequence[Timed], error: float) -> dict[str, Any]:
    best = min(timed, key=lambda each: each.seconds)
    payload = codec(asked.codec).payload_bytes(asked.params)
    bound = 2 * (asked.peers - 1) * payload
    moved = best.bytes_sent if best.wire_bytes is None else best.wire_bytes
    return {
        "atoll_s": best.seconds,
        "atoll_rounds_s": [each.seconds for each in timed],
        "atoll_cpu_s": best.cpu_s,
        "identical": all(each.identical for each in timed),
        "bytes_bound_each": bound / asked.peers,
        "bytes_vs_bound": moved / bound,
        "bytes_counted_vs_bound": best.bytes_sent / bound,
        "error": error,
    }


def _killed(workers: Sequence[Peer], round_: int, usual_s: float) -> dict[str, Any]:
    """SIGKILL the last worker in the middle of an exchange; how the others end."""
    for worker in workers:
        _trains(worker, round_)
    victim, others = workers[-1], workers[:-1]
    begun_s = time.monotonic()
    for worker in workers:
        worker.say(go=True)
    time.sleep(max(0.0, begun_s + KILLED_AFTER * usual_s - time.monotonic()))
    victim.kill()
    applied = [worker.hear("applied") for worker in others]
    return {
        "atoll_s": max(line["at_s"] for line in applied) - begun_s,
        "identical": len({(line["applied"], line["anchor"]) for line in applied}) == 1,
    }


# ---- hivemind -------------------------------------------------------------------------------------


def hivemind(
    asked: Any, folder: Path, python: str, place: Place, exact: NDArray[np.float64]
) -> dict[str, Any]:
    """The same by hivemind, with the codec asked for."""
    folder.mkdir()
    peers: list[Peer] = []
    told = {
        "params": asked.params,
        "peers": asked.peers,
        "codec": asked.codec,
        "matchmaking_s": 3.0 + asked.rtt_ms / 50,
        "timeouts": {},
    }
    try:
        with place.inside("first"):
            first = Peer(
                python,
                "sync_hivemind.py",
                {**told, "peer": None, "bootstrap": [], "host": place.address("first")},
                folder / "hivemind-first.log",
            )
        peers.append(first)
        bootstrap = [a for a in first.hear("ready")["multiaddrs"] if place.address("first") in a]
        for number in range(asked.peers):
            name = f"p{number}"
            mine = {**told, "peer": number, "bootstrap": bootstrap, "host": place.address(name)}
            with place.inside(name):
                peers.append(Peer(python, "sync_hivemind.py", mine, folder / f"hivemind-{name}.log"))
        workers = peers[1:]
        for worker in workers:
            worker.hear("up")
        timed = [_averaged(workers, place) for _ in range(asked.rounds)]
        best = min(timed, key=lambda each: each.seconds)
        payload = {"int8": 1, "fp16": 2, "fp32": 4}[asked.codec] * asked.params
        result = {
            "hivemind_allreduce_s": best.seconds,
            "hivemind_rounds_s": [each.seconds for each in timed],
            "hivemind_cpu_s": best.cpu_s,
            "hivemind_identical": all(each.identical for each in timed),
            "hivemind_error": relative_error(_dumped(workers[0], folder / "mean.npy"), exact),
        }
        if best.wire_bytes is not None:
            result["hivemind_bytes_vs_bound"] = best.wire_bytes / (2 * (asked.peers - 1) * payload)
        if asked.kill and asked.peers > 2:
            killed = _averaged(workers, place, victim=workers[-1], after_s=KILLED_AFTER * best.seconds)
            result |= {"kill_hivemind_s": killed.seconds, "kill_hivemind_identical": killed.identical}
        return result
    finally:
        end(peers)


def _averaged(
    workers: Sequence[Peer], place: Place, victim: Peer | None = None, after_s: float = 0.0
) -> Timed:
    """One all-reduce of a group that has assembled."""
    while True:
        for worker in workers:
            worker.say(match=True)
        matched = [worker.hear("matched")["matched"] for worker in workers]  # every answer is taken
        if all(matched):
            break
    cpu_s, wire = sum(w.cpu_s() for w in workers), place.wire_bytes()
    begun_s = time.monotonic()
    for worker in workers:
        worker.say(go=True)
    if victim is not None:
        time.sleep(after_s)
        victim.kill()
    answers = [worker.hear("at_s") for worker in workers if worker is not victim]
    ended = place.wire_bytes()
    return Timed(
        max(line["at_s"] for line in answers) - begun_s,
        sum(w.cpu_s() for w in workers) - cpu_s,
        0,
        None if wire is None or ended is None else ended - wire,
        all(line.get("averaged") for line in answers) and len({line.get("digest") for line in answers}) == 1,
    )
