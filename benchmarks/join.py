"""How long a joiner takes to be training, against its state's bytes by its link's rate; 1, 2 and 4 donors.

    sudo python benchmarks/join.py --json

Real nodes on shaped links (tests/netlab: Linux and root). The donors are the workers of a run, their
uplinks half of the joiner's downlink, so one alone cannot fill it. Rounds go on while the state is fetched:
then the joiner has commits to replay before it is current. One donor is the witness that begins a run, and
the joiner its first worker: one of two members could not be told to leave. At last four donors serve, and
one is killed mid-way.

The clock runs from the moment that the joiner is on the network (its interpreter has started, it has joined
the DHT) until it is told to train its first round: it asks for the ledger (`asking_s`), fetches the state
that it is offered (`loading_s`), replays commits until it asks to be a member (`replaying_s`), and is named
one by the next (`admitted_s`). Trainers are stood in for by drawn vectors (sync_atoll.py); they hand over
as soon as the joiner asks, so no inner steps are in the time. The codec is a sparse one, so rounds take
little of the links. `bound_s` is the state's bytes by the joiner's downlink; `supply_s` by what the donors'
uplinks carry together, if that is less.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "netlab"))

import join_swarm
from join_swarm import Asked
from netlab import Host, Lab, Link, why_not


def main() -> None:
    asked, scenarios, as_json = parse()
    if reason := why_not():
        sys.exit(f"a shaped link needs a netlab: {reason}")
    result: dict[str, Any] = {
        "params": asked.params,
        "state_bytes": asked.state_bytes,
        "link": f"{asked.mbit:g} Mbit/s down, {asked.up_mbit:g} up for each donor, {asked.rtt_ms:g} ms",
        "joins": [measure(asked, donors, kill) for donors, kill in scenarios],
    }
    print(json.dumps(result, indent=None if as_json else 1))


def measure(asked: Asked, donors: int, kill: bool) -> dict[str, Any]:
    hosts = ["first", *(f"p{number}" for number in range(donors + 1))]
    with tempfile.TemporaryDirectory(prefix="atoll-join-") as folder, Lab(*map(Host, hosts)) as lab:
        delay_ms = asked.rtt_ms / 2
        lab.link("first", Link(delay_ms=delay_ms))
        for donor in hosts[1:-1] if donors > 1 else hosts[:1]:
            lab.link(donor, Link(asked.up_mbit, delay_ms, down_mbit=asked.mbit))
        lab.link(f"p{donors}", Link(asked.mbit, delay_ms))
        return join_swarm.join(asked, Path(folder), lab, donors, kill)


def parse() -> tuple[Asked, list[tuple[int, bool]], bool]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=int, default=5_000_000)
    parser.add_argument("--mbit", type=float, default=20.0, help="the joiner's downlink")
    parser.add_argument("--up-mbit", type=float, default=None, help="each donor's uplink; half of that")
    parser.add_argument("--rtt-ms", type=float, default=40.0)
    parser.add_argument("--donors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--no-kill", dest="kill", action="store_false")
    parser.add_argument("--json", action="store_true", help="one line")
    given = parser.parse_args()
    up_mbit = given.mbit / 2 if given.up_mbit is None else given.up_mbit
    scenarios = [(donors, False) for donors in given.donors]
    if given.kill and max(given.donors) > 2:
        scenarios.append((max(given.donors), True))
    return Asked(given.params, given.mbit, up_mbit, given.rtt_ms), scenarios, given.json


if __name__ == "__main__":
    main()
