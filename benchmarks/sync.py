"""One outer sync of N fp32 parameters among P processes: Atoll's whole exchange beside hivemind's all-reduce.

    python benchmarks/sync.py --peers 4 --params 25000000 --codec int8 --json
    python benchmarks/sync.py --peers 4 --params 25000000 --mbit 100 --rtt-ms 40     # needs root, see netlab

Atoll is timed from the moment the trainers hand over (encode, offer, plan, exchange, votes, commit, outer
step, digest of the new anchor) until the last peer has the new state; hivemind from the moment an assembled
group may begin until the last peer has the mean. Both in the same run, on the same vectors, best of some
rounds. At last a peer of each is killed mid-way, where there are three: one of two is no majority, and waits.
Hivemind 1.1.12 lives in an environment of its own, made once under the cache folder. The witness that begins
the run leaves before anything is timed.

Bytes are those of all peers against 2 (P - 1) payloads: on a shaped link by the interfaces' own count, with
TCP, IP and Ethernet in it; `bytes_counted_vs_bound` is the nodes' own, control included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "netlab"))

import sync_rounds
from netlab import Host, Lab, Link, why_not
from sync_peers import hivemind_python
from sync_vectors import exact_mean

CODECS = ("int8", "fp16", "fp32")


@dataclass(frozen=True, slots=True)
class Asked:
    peers: int
    params: int
    codec: str
    rounds: int
    mbit: float
    rtt_ms: float
    loss: float
    kill: bool
    rival: bool


def main() -> None:
    asked, as_json = parse()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atoll-sync-")))
        lab = stack.enter_context(_lab(asked)) if asked.mbit or asked.rtt_ms else None
        result = compare(asked, folder, lab)
    print(json.dumps(result, indent=None if as_json else 1))


def compare(asked: Asked, folder: Path, lab: Lab | None) -> dict[str, Any]:
    exact = exact_mean(asked.peers, asked.params)
    inside: Callable[[str], AbstractContextManager[None]] = lab.inside if lab else lambda _: nullcontext()
    place = sync_rounds.Place(inside, lab.address if lab else lambda _: "127.0.0.1", lab)
    ours = sync_rounds.atoll(asked, folder / "atoll", place, exact)
    result: dict[str, Any] = {
        "peers": asked.peers,
        "params": asked.params,
        "codec": asked.codec,
        "link": f"{asked.mbit:g} Mbit/s, {asked.rtt_ms:g} ms, loss {asked.loss:g}" if lab else "loopback",
        **ours,
    }
    if lab and asked.mbit:
        bound_s = ours["bytes_bound_each"] / (asked.mbit * 1e6 / 8)
        result |= {"bound_s": bound_s, "ratio_to_bound": ours["atoll_s"] / bound_s}
    if asked.rival:
        theirs = sync_rounds.hivemind(asked, folder / "hivemind", hivemind_python(), place, exact)
        result |= theirs
        result["ratio_to_hivemind"] = ours["atoll_s"] / theirs["hivemind_allreduce_s"]
    return result


def _lab(asked: Asked) -> Lab:
    if reason := why_not():
        sys.exit(f"a shaped link needs a netlab: {reason}")
    hosts = [Host("first"), *(Host(f"p{number}") for number in range(asked.peers))]
    return Lab(*hosts, link=Link(asked.mbit, asked.rtt_ms / 2, asked.loss))


def parse() -> tuple[Asked, bool]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--params", type=int, default=25_000_000)
    parser.add_argument("--codec", choices=CODECS, default="int8")
    parser.add_argument("--rounds", type=int, default=3, help="timed, of which the best counts")
    parser.add_argument("--mbit", type=float, default=0.0, help="of each link, both ways; 0 for loopback")
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--no-kill", dest="kill", action="store_false")
    parser.add_argument("--no-hivemind", dest="rival", action="store_false")
    parser.add_argument("--json", action="store_true", help="one line")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    return Asked(**given), as_json


if __name__ == "__main__":
    main()
