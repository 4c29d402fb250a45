"""What audits make of free riders: whose weight is left after some rounds, and what it does to the loss.

    python benchmarks/audits.py --quick                 # four kinds of riders, one seed, half a minute
    python benchmarks/audits.py --seeds 0,1,2 --json

Twenty workers train a small language model on the standard library's source, for real; a quarter of them do
not train, or not what they were assigned. Each round five auditors, drawn by a hash, score eight
contributions, and `protocol/audit.py` makes reputations of that. `honest` and `riders` are the means over
peers of the factor that reputations leave of their weights at the end, `late` over the last half of the
rounds; `ratio` is the final held-out loss by that of the honest ones alone, `unaudited` without audits.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import mean
from typing import Any

import torch

from atoll.protocol.audit import AuditRules
from atoll.simulator.timing import text
from atoll.simulator.timing.attacks import Field
from atoll.simulator.timing.audits import RIDERS, Audit, Run
from atoll.simulator.timing.learner import Learner

WORKERS, ATTACKERS = 20, 5
STRETCH = 2
NOBODY = "nobody"
QUICK = ("copy", "zeros", "quarter", "labels")


def measure(
    seeds: list[int], riders: list[str], rounds: int, kind: str, rules: AuditRules, liars: int
) -> dict[str, Any]:
    rows = []
    for seed in seeds:
        learner = Learner(text.load(kind, WORKERS, seed), seed)
        alone = Field(WORKERS - ATTACKERS, 0, 0, rounds=rounds)
        clean = Run(learner, alone, NOBODY, seed, None).trained().loss
        for rider in (NOBODY, *riders):
            count = 0 if rider == NOBODY else ATTACKERS
            given = Field(WORKERS, count, count, rounds=rounds)
            unaudited = Run(learner, given, rider, seed, None).trained().loss
            for stretch in (0, STRETCH):
                run = Run(learner, given, rider, seed, Audit(rules, stretch=stretch), min(liars, count))
                rows.append(_row(run, clean, unaudited))
    return {
        "workers": WORKERS,
        "attackers": ATTACKERS,
        "rounds": rounds,
        "shards": kind,
        "seeds": seeds,
        "auditors": rules.auditors,
        "targets": rules.targets,
        "liars": liars,
        "rows": rows,
    }


def _row(run: Run, clean: float | None, unaudited: float | None) -> dict[str, Any]:
    found = run.trained()
    end, late = found.factors[-1], found.factors[len(found.factors) // 2 :].mean(0)
    honest, riders = slice(0, run.honest), slice(run.honest, None)
    row = {
        "seed": run.seed,
        "rider": run.rider,
        "replay": run.how is not None and run.how.stretch > 0,
        "honest": float(end[honest].mean()),
        "honest_least": float(end[honest].min()),
        "honest_late": float(late[honest].mean()),
        "ratio": _ratio(found.loss, clean),
        "unaudited": _ratio(unaudited, clean),
    }
    if run.field.attackers:
        row |= {"riders": float(end[riders].mean()), "riders_most": float(end[riders].max())}
        row["riders_late"] = float(late[riders].mean())
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def _ratio(loss: float | None, clean: float | None) -> float | None:
    return None if loss is None or clean is None else loss / clean


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['attackers']} of {result['workers']} ride, {result['shards']} shards, "
        f"{result['rounds']} rounds, seeds {result['seeds']}, {result['liars']} riders lie as auditors",
        "| riders | replay | honest | least | riders | most | honest late | riders late | loss | unaudited |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for replay in (False, True):
        for rider in dict.fromkeys(row["rider"] for row in result["rows"]):
            rows = [r for r in result["rows"] if (r["rider"], r["replay"]) == (rider, replay)]
            cells = [
                _percent(rows, "honest", mean),
                _percent(rows, "honest_least", min),
                _percent(rows, "riders", mean),
                _percent(rows, "riders_most", max),
                _percent(rows, "honest_late", mean),
                _percent(rows, "riders_late", mean),
                _mean(rows, "ratio"),
                _mean(rows, "unaudited"),
            ]
            lines.append(f"| {rider} | {'yes' if replay else 'no'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(rows: list[dict[str, Any]], name: str, over: Any) -> str:
    return f"{over(row[name] for row in rows):.1%}" if name in rows[0] else ""


def _mean(rows: list[dict[str, Any]], name: str) -> str:
    found = [row[name] for row in rows]
    return "diverged" if None in found else f"{mean(found):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, fewer kinds and rounds")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--riders", help=f"of {', '.join(RIDERS)}; separated by commas")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--kind", default="iid", choices=text.KINDS)
    parser.add_argument("--auditors", type=int, default=AuditRules().auditors)
    parser.add_argument("--targets", type=int, default=AuditRules().targets)
    parser.add_argument("--liars", type=int, default=0, help="so many riders tell lies when they audit")
    parser.add_argument("--json", action="store_true", help="one line")
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun_s = time.monotonic()
    riders = list(QUICK if given.quick else RIDERS)
    if given.riders:
        riders = given.riders.split(",")
    if unknown := set(riders) - set(RIDERS):
        parser.error(f"no riders are called {', '.join(sorted(unknown))}")
    rules = AuditRules(auditors=given.auditors, targets=given.targets)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    rounds = given.rounds or (24 if given.quick else 32)
    result = measure(seeds, riders, rounds, given.kind, rules, given.liars)
    result["seconds"] = round(time.monotonic() - begun_s, 1)
    print(json.dumps(result) if given.json else table(result))


if __name__ == "__main__":
    main()
