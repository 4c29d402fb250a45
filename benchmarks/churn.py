"""Goodput where machines fail: useful tokens by possible tokens, of Atoll's rounds and of data-parallel.

    python benchmarks/churn.py                      # a table, in under a minute
    python benchmarks/churn.py --json --plot churn.png

The rounds are those of docs/protocol.md (quorum, grace, overlap, missed rounds, probation, take-over), with a
failure costing a peer what no commit had taken, its restart, and loading the newest state. Data-parallel
takes each step together: a failure of one machine stops all, elastic or from checkpoints.

The first rows are Decoupled DiLoCo's setting: 1.2 and 2.4 million machines, each failing once a year. It
publishes 88 % (8 learners) against 58 % of elastic and 27 % of other data-parallel, and 80 % (86 % of 16
learners) against 40 % and 18 %, but not what a failure costs. Here it stops all it stops for 19 s: with
that the elastic baseline comes to the published 58 % and 40 %. An island of machines is stopped by any of
them, as a learner is. The other rows are volunteers, who leave at any time and come back later.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from atoll.protocol.manifest import RoundRules
from atoll.simulator.timing.goodput import DataParallel, Rounds, Simulation, Swarm
from atoll.simulator.timing.traces import Failures

YEAR_S, HOUR_S = 365.25 * 86400, 3600.0
DATACENTRE = Rounds(3.0, 1.0, RoundRules(fragments=8, overlap=2, missed_max=8, deadline_ms=4_000))
VOLUNTEERS = Rounds(300.0, 30.0, RoundRules(fragments=4, overlap=2))
BLOCKING = Rounds(300.0, 30.0, RoundRules())


@dataclass(frozen=True, slots=True)
class Case:
    """A row: who, in which rounds, against which data-parallel, and for how long."""

    name: str
    swarm: Swarm
    rounds: Rounds
    elastic: DataParallel
    saved: DataParallel
    hours: float
    published: dict[str, float] = field(default_factory=dict)


def datacentre(machines: float, islands: int, hours: float, **published: float) -> Case:
    swarm = Swarm(islands, Failures(YEAR_S, 0.0), int(machines / islands), stopped_s=19.0, join_s=5.0)
    name = f"{machines / 1e6:g}M machines, {islands} islands"
    return Case(name, swarm, DATACENTRE, DataParallel(19, 1), DataParallel(19, 30), hours, published)


def volunteers(peers: int, half_life_h: float, hours: float, rounds: Rounds = VOLUNTEERS) -> Case:
    failures = Failures.half_life(half_life_h * HOUR_S, 0.5 * HOUR_S)
    kind = "" if rounds is VOLUNTEERS else ", blocking rounds"
    name = f"{peers:,} volunteers, half-life {half_life_h:g} h{kind}"
    swarm = Swarm(peers, failures, load_s=30.0, join_s=120.0)
    return Case(name, swarm, rounds, DataParallel(60, 1), DataParallel(60, 600), hours)


def cases(scale: float) -> list[Case]:
    """All rows; `scale` is by how much shorter than usual they are simulated."""
    hours = 3 * scale
    found = [
        datacentre(1.2e6, 8, hours, atoll=0.88, elastic=0.58, saved=0.27),
        datacentre(1.2e6, 16, hours, elastic=0.58, saved=0.27),
        datacentre(1.2e6, 64, hours, elastic=0.58, saved=0.27),
        datacentre(2.4e6, 8, hours, atoll=0.80, elastic=0.40, saved=0.18),
        datacentre(2.4e6, 16, hours, atoll=0.86, elastic=0.40, saved=0.18),
        datacentre(1.2e5, 16, hours),
    ]
    for peers, days in ((16, 3), (64, 3), (1000, 1)):
        found += [volunteers(peers, half_life_h, 24 * days * scale) for half_life_h in (168, 24, 8, 1)]
    return [*found, volunteers(64, 1, 72 * scale, BLOCKING)]


def measure(case: Case, seeds: list[int]) -> dict[str, Any]:
    runs = [Simulation(case.swarm, case.rounds, seed).until(case.hours * HOUR_S) for seed in seeds]
    shares = [run.share for run in runs]
    failure_s = case.swarm.up_s / case.swarm.peers
    return {
        "name": case.name,
        "failure_every_s": round(failure_s, 2),
        "atoll": round(mean(shares), 4),
        "range": [round(min(shares), 4), round(max(shares), 4)],
        "elastic_data_parallel": round(case.elastic.goodput(failure_s), 4),
        "data_parallel_from_checkpoints": round(case.saved.goodput(failure_s), 4),
        "published": case.published,
        "rounds": sum(run.rounds for run in runs),
        "skipped": sum(run.skipped for run in runs),
        "take_overs": sum(run.take_overs for run in runs),
    }


def parameters() -> dict[str, Any]:
    """What was assumed, as it was used."""
    kept = ("quorum", "grace_share", "grace_ms_min", "deadline_ms", "missed_max", "probation_rounds", "late")
    told: dict[str, Any] = {}
    for name, rounds in (("islands", DATACENTRE), ("volunteers", VOLUNTEERS), ("blocking", BLOCKING)):
        rules = asdict(rounds.rules)
        timing = {key: value for key, value in asdict(rounds).items() if key != "rules"}
        told[name] = timing | {key: rules[key] for key in (*kept, "fragments", "overlap")}
    for name, case in (("islands", datacentre(1.2e6, 8, 1)), ("volunteers", volunteers(64, 1, 1))):
        swarm = case.swarm
        told[name] |= {"stopped_s": swarm.stopped_s, "load_s": swarm.load_s, "join_s": swarm.join_s}
        told[name] |= {"away_s": swarm.failures.away_s, "elastic": asdict(case.elastic)}
        told[name] |= {"from_checkpoints": asdict(case.saved)}
    return told


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.42 * len(rows) + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    kinds = ("atoll", "elastic_data_parallel", "data_parallel_from_checkpoints")
    for place, kind in enumerate(kinds):
        heights = [row_place + (place - 1) * 0.27 for row_place in range(len(rows))]
        axes.barh(heights, [100 * row[kind] for row in rows], 0.26, label=kind.replace("_", " "))
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize="small")
    axes.invert_yaxis()
    axes.set(xlabel="goodput, per cent of the possible tokens", xlim=(0, 100))
    axes.legend(fontsize="small", loc="lower left")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(str(path), dpi=110, format="png")


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| | failure every | Atoll | range | elastic data-parallel | from checkpoints | published |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        told = ", ".join(f"{name} {share:.0%}" for name, share in row["published"].items())
        low, high = row["range"]
        lines.append(
            f"| {row['name']} | {row['failure_every_s']:,.0f} s | {row['atoll']:.1%} "
            f"| {low:.1%} to {high:.1%} | {row['elastic_data_parallel']:.1%} "
            f"| {row['data_parallel_from_checkpoints']:.1%} | {told} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--scale", type=float, default=1.0, help="simulated time, as a share of the usual")
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--plot", type=Path, help="a PNG of the table")
    given = parser.parse_args()
    begun_s = time.monotonic()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    rows = [measure(case, seeds) for case in cases(given.scale)]
    if given.plot:
        draw(rows, given.plot)
    took_s = round(time.monotonic() - begun_s, 1)
    result = {"seeds": seeds, "parameters": parameters(), "rows": rows, "seconds": took_s}
    if given.json:
        print(json.dumps(result))
        return
    print(f"seeds {given.seeds}\nparameters {json.dumps(parameters(), indent=1)}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
