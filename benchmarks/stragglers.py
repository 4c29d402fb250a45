"""Time to a target loss where workers straggle: nine policies, five traces, shards alike and of topics each.

    python benchmarks/stragglers.py --quick --json      # in under a minute
    python benchmarks/stragglers.py --plot stragglers.png

Twelve workers train a small language model on the standard library's source. Time is virtual: a step takes
a second at full speed, a slow worker's takes longer, and a round takes an exchange beside. What a round
includes is trained for real, so what a policy leaves out, delays or does twice shows in the loss. The
target is what waiting for all reaches without stragglers after some rounds, and 1 % (mean over shards of
the held-out loss). Sequential codes work on as many models as a job has rounds, side by side, and their
time is by that number; `one_model` is theirs with one model, to which each update comes late.

`waiting_share` is the share of the possible tokens that was lost to waiting where a third of the workers
each is 1, 2 and 4 times slower. `behind` is how much worse, at the end, the worst shard's loss is than with
waiting for all, which is 1 to 3 % by the target itself: where it is more, a policy has left somebody's data
out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from atoll.optim.coding.bursts import Bursts
from atoll.simulator.timing import coded, policies, text, traces
from atoll.simulator.timing.buffered import Buffered
from atoll.simulator.timing.learner import Learner
from atoll.simulator.timing.rounds import History, Policy, Run, Setting
from atoll.simulator.timing.traces import Trace

WORKERS, STEPS = 12, 8
BURSTS = Bursts(1, 2, 2)
SLOTS, SLOT_S = 4000, 8.0
TOLERANCE, PATIENCE = 1.01, 3

POLICIES: dict[str, Callable[[Trace], Policy | None]] = {
    "wait_all": lambda _: policies.wait_all(WORKERS, STEPS),
    "quorum": lambda _: policies.Quorum(WORKERS, STEPS),
    "dbw": lambda _: policies.BackupWorkers(WORKERS, STEPS, Setting().outer.lr),
    "dynamic": lambda trace: policies.Dynamic(STEPS, trace, Setting().exchange_s),
    "compass": lambda _: policies.Compass(WORKERS, STEPS),
    "merge": lambda _: None,
    "frc": lambda _: coded.Repetition(WORKERS, STEPS),
    "sr_sgc": lambda _: coded.sr_sgc(WORKERS, STEPS, BURSTS),
    "m_sgc": lambda _: coded.m_sgc(WORKERS, STEPS, BURSTS),
}
"""None: rounds that are not begun by all at once, `Buffered`."""
ONE_MODEL: dict[str, Callable[[], Policy]] = {
    "sr_sgc": lambda: coded.sr_sgc(WORKERS, STEPS, BURSTS, side_by_side=False),
    "m_sgc": lambda: coded.m_sgc(WORKERS, STEPS, BURSTS, side_by_side=False),
}


def all_traces(seed: int) -> list[Trace]:
    return [
        traces.calm(WORKERS),
        traces.random(WORKERS, SLOTS, SLOT_S, seed, mean=1.0),
        traces.bursty(WORKERS, SLOTS, SLOT_S, seed),
        traces.persistent(WORKERS, seed),
        traces.mix(WORKERS),
    ]


class Measured:
    """One kind of shards under one seed: the learner, the target, and runs against it."""

    def __init__(self, kind: str, seed: int, rounds: int) -> None:
        self.kind, self.seed, self.rounds = kind, seed, rounds
        self.learner = Learner(text.load(kind, WORKERS, seed), seed)
        all_of_them, calm = policies.wait_all(WORKERS, STEPS), traces.calm(WORKERS)
        run = Run(all_of_them, calm, self.learner, Setting(rounds_max=rounds))
        self.reference = run.until().points[-1]
        self.target = TOLERANCE * self.reference.loss

    def row(self, name: str, policy: Policy | None, trace: Trace) -> dict[str, Any]:
        limit = Setting(rounds_max=PATIENCE * self.rounds * (policy.chains if policy else 1))
        run = Run(policy, trace, self.learner, limit) if policy else Buffered(trace, self.learner, limit)
        history = run.until(self.target)
        reached_s = history.time_to(self.target)
        return {
            "policy": name,
            "shards": self.kind,
            "trace": trace.name,
            "seed": self.seed,
            "time_to_target": None if reached_s is None else round(reached_s, 1),
            "rounds": history.rounds,
            "behind": round(self._behind(history), 4),
            **{share: round(value, 4) for share, value in history.spent.shares().items()},
        }

    def _behind(self, history: History) -> float:
        pairs = zip(history.points[-1].losses, self.reference.losses, strict=True)
        return max(loss / wanted for loss, wanted in pairs) - 1


def summary(rows: list[dict[str, Any]], policy: str) -> dict[str, Any]:
    """Of one policy, by shards and trace: mean and range over seeds; None where a seed did not reach it."""
    found: dict[str, dict[str, Any]] = {}
    for row in (row for row in rows if row["policy"] == policy):
        found.setdefault(row["shards"], {}).setdefault(row["trace"], []).append(row["time_to_target"])
    return {
        shards: {
            trace: None
            if None in times
            else {"mean": round(mean(times), 1), "lowest": min(times), "highest": max(times)}
            for trace, times in by_trace.items()
        }
        for shards, by_trace in found.items()
    }


def behind(rows: list[dict[str, Any]], policy: str) -> dict[str, dict[str, float]]:
    """Of one policy, by shards and trace: the mean over seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in (row for row in rows if row["policy"] == policy):
        found.setdefault(row["shards"], {}).setdefault(row["trace"], []).append(row["behind"])
    return {
        shards: {trace: round(mean(each), 4) for trace, each in by_trace.items()}
        for shards, by_trace in found.items()
    }


def waiting(rows: list[dict[str, Any]], policy: str) -> float:
    shares = [row["waiting"] for row in rows if (row["policy"], row["trace"]) == (policy, "mix")]
    return round(mean(shares), 4)


def measure(seeds: list[int], rounds: int, one_model: bool, kinds: tuple[str, ...]) -> dict[str, Any]:
    rows, late, targets = [], [], {}
    for seed in seeds:
        for kind in kinds:
            measured = Measured(kind, seed, rounds)
            targets[f"{kind}, seed {seed}"] = round(measured.target, 4)
            for trace in all_traces(seed):
                rows += [measured.row(name, make(trace), trace) for name, make in POLICIES.items()]
                if one_model:
                    late += [measured.row(name, make(), trace) for name, make in ONE_MODEL.items()]
    return {
        "policies": list(POLICIES),
        "seeds": seeds,
        "workers": WORKERS,
        "target_rounds": rounds,
        "targets": targets,
        "waiting_share": {name: waiting(rows, name) for name in POLICIES},
        "time_to_target": {name: summary(rows, name) for name in POLICIES},
        "behind": {name: behind(rows, name) for name in POLICIES},
        "one_model": {name: summary(late, name) for name in ONE_MODEL} if one_model else {},
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    lines = [f"seeds {result['seeds']}, targets {result['targets']}"]
    names = [trace.name for trace in all_traces(0)]
    times = {**result["time_to_target"]}
    times |= {f"{name}, one model": found for name, found in result["one_model"].items()}
    for kind in dict.fromkeys(row["shards"] for row in result["rows"]):
        lines += ["", f"| {kind} | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
        for policy, found in times.items():
            lines.append(f"| {policy} | {' | '.join(_cell(found[kind][name]) for name in names)} |")
        lines += [
            "",
            f"| {kind}, worst shard behind by | {' | '.join(names)} |",
            "|---|" + "---:|" * len(names),
        ]
        for policy, by_kind in result["behind"].items():
            lines.append(f"| {policy} | {' | '.join(f'{by_kind[kind][name]:.1%}' for name in names)} |")
    shares = ", ".join(f"{name} {share:.1%}" for name, share in result["waiting_share"].items())
    return "\n".join([*lines, "", f"lost to waiting with speeds 1:2:4: {shares}"])


def _cell(found: dict[str, float] | None) -> str:
    if found is None:
        return "not reached"
    if found["lowest"] == found["highest"]:
        return f"{found['mean']:.0f}"
    return f"{found['mean']:.0f} ({found['lowest']:.0f} to {found['highest']:.0f})"


def draw(result: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(row["shards"] for row in result["rows"]))
    names = [trace.name for trace in all_traces(0)]
    figure = Figure(figsize=(13, 4.5 * len(kinds)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(len(kinds), 1, squeeze=False)[:, 0], kinds, strict=True):
        for place, (policy, found) in enumerate(result["time_to_target"].items()):
            cells = [found[kind][name] for name in names]
            heights = [cell["mean"] if cell else 0 for cell in cells]
            axes.bar([at + 0.09 * (place - 4) for at in range(len(names))], heights, 0.08, label=policy)
        axes.set_xticks(range(len(names)), names)
        axes.set(ylabel="virtual seconds to the target", title=f"{kind} shards; no bar: not reached")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(fontsize="small", ncols=9)
    figure.savefig(str(path), dpi=110, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, an earlier target")
    parser.add_argument("--seeds", help="such as 0,1,2; --quick takes 0")
    parser.add_argument("--rounds", type=int, help="after how many rounds the target is reached by all")
    parser.add_argument("--kinds", default=",".join(text.KINDS))
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--plot", type=Path, help="a PNG of the times")
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun_s = time.monotonic()
    seeds = [int(seed) for seed in (given.seeds or ("0" if given.quick else "0,1,2")).split(",")]
    rounds = given.rounds or (20 if given.quick else 32)
    result = measure(seeds, rounds, not given.quick, tuple(given.kinds.split(",")))
    result["seconds"] = round(time.monotonic() - begun_s, 1)
    if given.plot:
        draw(result, given.plot)
    print(json.dumps(result) if given.json else table(result))


if __name__ == "__main__":
    main()
