"""The final loss where some contributions lie: six attacks, each rule of `optim/robust`, shards alike.

    python benchmarks/attacks.py --quick                # 25 % attackers, two minutes
    python benchmarks/attacks.py --json --plot attacks.png

Twenty workers train a small language model on the standard library's source, for real; attackers know
everybody's pseudo-gradients. Each rule is told how many may lie, not who. `ratio` is the final held-out
loss by that of the plain mean of honest workers; null if training diverged. Rows of "none" are a rule's
clean cost: nobody lies, and it is told the most that may.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from atoll.optim.robust import RULES
from atoll.simulator.timing import text
from atoll.simulator.timing.attacks import ATTACKS, Defence, Field, trained
from atoll.simulator.timing.learner import Learner

WORKERS = 20
SHARES = (0.1, 0.25, 0.4)
DEFENCES = [Defence("mean", clip=False), *(Defence(rule) for rule in RULES)]


def measure(seeds: list[int], shares: list[float], rounds: int, kind: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    clean: dict[int, float | None] = {}
    for seed in seeds:
        learner = Learner(text.load(kind, WORKERS, seed), seed)
        nobody = Field(WORKERS, 0, 0, rounds=rounds)
        clean[seed] = trained(learner, nobody, "none", DEFENCES[0], seed)
        for attack in ATTACKS:
            for share in shares if attack != "none" else [0.0]:
                attackers = round(share * WORKERS)
                told = attackers or round(max(shares) * WORKERS)
                field = Field(WORKERS, attackers, told, rounds=rounds)
                for defence in DEFENCES:
                    loss = trained(learner, field, attack, defence, seed)
                    rows.append(_row(seed, attack, share, defence, loss, clean[seed]))
    return {
        "workers": WORKERS,
        "rounds": rounds,
        "shards": kind,
        "seeds": seeds,
        "shares": shares,
        "rules": [defence.name for defence in DEFENCES],
        "attacks": list(ATTACKS),
        "clean_loss": clean,
        "rows": rows,
    }


def _row(
    seed: int, attack: str, share: float, defence: Defence, loss: float | None, clean: float | None
) -> dict[str, Any]:
    ratio = None if loss is None or clean is None else round(loss / clean, 4)
    return {
        "seed": seed,
        "attack": attack,
        "share": share,
        "rule": defence.name,
        "loss": None if loss is None else round(loss, 4),
        "ratio": ratio,
    }


def cell(rows: list[dict[str, Any]], rule: str, attack: str, share: float) -> float | None:
    """The mean ratio over seeds; None if a seed diverged."""
    found = [r["ratio"] for r in rows if (r["rule"], r["attack"], r["share"]) == (rule, attack, share)]
    return None if None in found else mean(found)


def table(result: dict[str, Any]) -> str:
    lines = [f"seeds {result['seeds']}, loss of honest workers {result['clean_loss']}"]
    columns = [attack for attack in result["attacks"] if attack != "none"]
    for share in result["shares"]:
        lines += ["", f"| {share:.0%} attackers | none | {' | '.join(columns)} |"]
        lines.append("|---|" + "---:|" * (len(columns) + 1))
        for rule in result["rules"]:
            ratios = [cell(result["rows"], rule, "none", 0.0)]
            ratios += [cell(result["rows"], rule, attack, share) for attack in columns]
            told = " | ".join("diverged" if ratio is None else f"{ratio:.3f}" for ratio in ratios)
            lines.append(f"| {rule} | {told} |")
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares, rules = result["shares"], result["rules"]
    columns = [attack for attack in result["attacks"] if attack != "none"]
    figure = Figure(figsize=(12, 0.36 * len(rules) * len(shares) + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, share in zip(figure.subplots(len(shares), 1, squeeze=False)[:, 0], shares, strict=True):
        ratios = [[cell(result["rows"], rule, attack, share) for attack in columns] for rule in rules]
        shown = [[2.0 if ratio is None else min(2.0, ratio) for ratio in row] for row in ratios]
        axes.imshow(shown, vmin=1.0, vmax=2.0, cmap="RdYlGn_r", aspect="auto")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rules)), rules, fontsize="small")
        axes.set_title(f"{share:.0%} attackers: final loss by that of honest workers", fontsize="medium")
        for y, row in enumerate(ratios):
            for x, ratio in enumerate(row):
                axes.text(x, y, "-" if ratio is None else f"{ratio:.2f}", ha="center", va="center")
    figure.savefig(str(path), dpi=110, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, a quarter of attackers, fewer rounds")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--shares", help="of attackers, such as 0.1,0.25,0.4")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--kind", default="iid", choices=text.KINDS)
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--plot", type=Path, help="a PNG of the ratios")
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun_s = time.monotonic()
    shares = [0.25] if given.quick else list(SHARES)
    if given.shares:
        shares = [float(share) for share in given.shares.split(",")]
    seeds = [int(seed) for seed in given.seeds.split(",")]
    result = measure(seeds, shares, given.rounds or (10 if given.quick else 16), given.kind)
    result["seconds"] = round(time.monotonic() - begun_s, 1)
    if given.plot:
        draw(result, given.plot)
    print(json.dumps(result) if given.json else table(result))


if __name__ == "__main__":
    main()
