"""Rounds of a sparse run with one slow uplink: before and after the leader passes on what came from it.

    sudo python benchmarks/relay.py --json

Contributions are the update itself, so everybody needs all of them. Until a node has measured its uplink
nobody knows that it is slow, and all fetch from it: those are the rounds "apart", and those that it leads
itself. In the others the leader takes its contribution once and passes it on. The bound is what must leave
the slow uplink, once, at its rate. Real nodes on shaped links (root, see tests/netlab), drawn vectors in the
trainers' place.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "netlab"))

import torch
from netlab import Host, Lab, Link, why_not
from sync_nodes import name_of, publish, start
from sync_peers import Peer, end

from atoll.node.identity import load_or_create
from atoll.optim.codecs import codec
from atoll.optim.digest import tensor_digest
from atoll.protocol.ids import BlobRef, Digest
from atoll.protocol.keys import Key
from atoll.protocol.manifest import Assignment, Manifest, MembershipRules, OuterRules, RoundRules

CODEC = "topk"
SETTLING = 1
"""Rounds that are not counted: the witness and connections are new."""


@dataclass(frozen=True, slots=True)
class Asked:
    peers: int
    params: int
    mbit: float
    slow_mbit: float
    rtt_ms: float
    rounds: int


def main() -> None:
    asked, as_json = parse()
    if reason := why_not():
        sys.exit(f"a shaped link needs a netlab: {reason}")
    names = [name_of(None), *map(name_of, range(asked.peers))]
    link = Link(asked.mbit, asked.rtt_ms / 2)
    with (
        tempfile.TemporaryDirectory(prefix="atoll-relay-") as folder,
        Lab(*map(Host, names), link=link) as lab,
    ):
        lab.link(names[-1], Link(asked.slow_mbit, asked.rtt_ms / 2, down_mbit=asked.mbit))
        result = relay(asked, Path(folder), lab)
    print(json.dumps(result, indent=None if as_json else 1))


def relay(asked: Asked, folder: Path, lab: Lab) -> dict[str, Any]:
    manifest = _publish(asked, folder)
    peers: list[Peer] = []
    try:
        peers.append(start(folder, manifest, lab, None, []))
        bootstrap = peers[0].hear("ready")["multiaddrs"]
        bootstrap = [address for address in bootstrap if lab.address(name_of(None)) in address]
        peers += [start(folder, manifest, lab, number, bootstrap) for number in range(asked.peers)]
        workers = peers[1:]
        round_ = max(int(worker.hear("trains")["trains"]) for worker in workers)
        timed = [_round(workers, round_ + place, lab) for place in range(SETTLING + asked.rounds)]
    finally:
        end(peers)
    return _report(asked, timed[SETTLING:])


def _publish(asked: Asked, folder: Path) -> Path:
    """A run whose first state everybody has already, begun by a witness."""
    anchor, momentum = torch.ones(asked.params), torch.zeros(asked.params)
    refs = tuple(BlobRef(Digest(tensor_digest(vector)), 4 * asked.params) for vector in (anchor, momentum))
    authority = Key.generate()
    manifest = Manifest(
        name="relay",
        authority=authority.peer,
        numel=asked.params,
        anchor_blobs=refs,
        assignment=Assignment(1, 1000),
        rounds=RoundRules(
            start_workers=asked.peers,
            probation_rounds=0,
            deadline_ms=60_000,
            bytes_per_s_min=100_000,
            grace_ms_min=5_000,
            exchange="sparse",
        ),
        outer=OuterRules(codec=CODEC),
        membership=MembershipRules(witnesses=(load_or_create(folder / name_of(None)).peer,)),
    )
    return publish(manifest, authority, folder, asked.peers, anchor, momentum)


def _round(workers: list[Peer], round_: int, lab: Lab) -> dict[str, float]:
    """Let all hand over: how long until the last one has the new state, and what the slow one sent."""
    before = lab.counted()[name_of(len(workers) - 1)].sent
    begun_s = time.monotonic()
    for worker in workers:
        worker.say(go=True)
    seconds = max(worker.hear("applied", round_)["at_s"] for worker in workers) - begun_s
    for worker in workers:
        worker.hear("saved", round_)
        worker.hear("trains", round_ + 1)
    return {"seconds": seconds, "slow_sent": lab.counted()[name_of(len(workers) - 1)].sent - before}


def _report(asked: Asked, timed: list[dict[str, float]]) -> dict[str, Any]:
    """A round in which the slow uplink sent less than two contributions is one that was passed on."""
    blob = len(codec(CODEC).encode(torch.ones(asked.params)))
    bound_s = blob * 8e-6 / asked.slow_mbit
    kinds = {
        "apart": [one["seconds"] for one in timed if one["slow_sent"] >= 2 * blob],
        "passed_on": [one["seconds"] for one in timed if one["slow_sent"] < 2 * blob],
    }
    result: dict[str, Any] = {
        "peers": asked.peers,
        "params": asked.params,
        "links": f"{asked.mbit:g} Mbit/s, one uplink {asked.slow_mbit:g}, {asked.rtt_ms:g} ms",
        "contribution_bytes": blob,
        "bound_s": round(bound_s, 2),
        "rounds": [{key: round(value, 2) for key, value in one.items()} for one in timed],
    }
    for name, seconds in kinds.items():
        if seconds:
            result |= {f"{name}_s": median(seconds), f"{name}_to_bound": median(seconds) / bound_s}
    if all(kinds.values()):
        result["ratio"] = result["passed_on_s"] / result["apart_s"]
    return result


def parse() -> tuple[Asked, bool]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=int, default=5)
    parser.add_argument("--params", type=int, default=8_000_000)
    parser.add_argument("--mbit", type=float, default=20.0)
    parser.add_argument("--slow-mbit", type=float, default=2.0)
    parser.add_argument("--rtt-ms", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="one line")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    return Asked(**given), as_json


if __name__ == "__main__":
    main()
