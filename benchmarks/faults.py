"""What it costs the others when a process is killed, frozen or restarted at an exact step of a round.

    python benchmarks/faults.py --json
    python benchmarks/faults.py --faults freeze --roles leader,owner

Five real processes on loopback: a coordinator and four workers, two of which own a part. Each strike waits
until all five have recovered from the last one. Exits with 1 if a strike cost more than one deadline. The
whole matrix takes a quarter of an hour on two cores: nearly all of it is processes starting again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "swarm"))

from faults import FAULTS, Outcome, Strike, fault_swarm, one_history, strike
from story import wait_same

from atoll.node.breakpoints import STEPS

ROLES = {
    "offer": ("leader", "worker"),
    "plan": ("leader", "owner"),
    "scatter": ("leader", "owner"),
    "reduce": ("leader", "owner"),
    "gather": ("leader", "owner", "worker", "witness"),
    "propose": ("leader", "owner", "worker", "witness"),
    "vote": ("leader", "owner", "worker", "witness"),
    "commit": ("leader", "owner", "worker", "witness"),
}
"""Who comes to which step."""


def row(outcome: Outcome, same_digests: bool) -> dict[str, object]:
    back = outcome.back_seconds
    return {
        **asdict(outcome.strike),
        "victim": outcome.victim,
        "round": outcome.round,
        "views": outcome.decided_view - outcome.view + 1,
        "deadlines_lost": outcome.deadlines_lost,
        "seconds": round(outcome.seconds, 2),
        "back_seconds": back if back is None else round(back, 2),
        "equal_digests": same_digests,
    }


def strikes(faults: list[str], steps: list[str], roles: list[str]) -> Iterator[Strike]:
    for fault in faults:
        for step in steps:
            for role in ROLES[step]:
                if role in roles:
                    yield Strike(step, role, fault)


def line(found: dict[str, object]) -> str:
    return (
        f"{found['fault']:8} {found['step']:8} {found['role']:8} views {found['views']}  "
        f"deadlines lost {found['deadlines_lost']}  decided after {found['seconds']:6.2f} s  "
        f"back after {found['back_seconds']:6.2f} s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--roles", default="leader,owner,worker,witness")
    parser.add_argument("--json", action="store_true", help="one JSON object for each strike")
    given = parser.parse_args()
    dear = 0
    with tempfile.TemporaryDirectory(prefix="atoll-faults-") as folder, fault_swarm(Path(folder)) as swarm:
        for planned in strikes(given.faults.split(","), given.steps.split(","), given.roles.split(",")):
            outcome = strike(swarm, planned)
            same = bool(wait_same(swarm)) and one_history(swarm) >= outcome.round
            found = row(outcome, same)
            dear += outcome.deadlines_lost > 1
            print(json.dumps(found) if given.json else line(found), flush=True)
    return int(dear > 0)


if __name__ == "__main__":
    sys.exit(main())
