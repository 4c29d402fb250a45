"""What a lab found: for each method loss, bytes, and both as a share of the synchronous baseline's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from atoll.simulator.lab.config import SYNC, Lab
from atoll.simulator.lab.pool import Job, Result

Report = dict[str, Any]


def report(lab: Lab, results: Mapping[Job, Result], seconds: float) -> Report:
    """One entry for each method in the order of the file; the first synchronous one is what ratios are to.

    `loss` is the mean over seeds of the last held-out loss, `spread` its largest minus its smallest, and
    `loss_vs_sync` is 1.0 where a method is as good as the baseline. Smaller is better in all of them. A
    ratio that is no number (training diverged, or nothing was sent) is None.
    """
    rows = [_of_method(lab, place, results) for place in range(len(lab.methods))]
    sync = next(row for row in rows if row["algorithm"] == SYNC)
    for row in rows:
        row["loss_vs_sync"] = _ratio(row["loss"], sync["loss"])
        row["loss_vs_sync_by_seed"] = [
            _ratio(*pair) for pair in zip(row["losses"], sync["losses"], strict=True)
        ]
        row["bytes_vs_sync"] = _ratio(row["bytes_per_replica"], sync["bytes_per_replica"])
    return {
        "methods": rows,
        "lab": str(lab.path),
        "replicas": lab.lab.replicas,
        "start_tokens": _start_tokens(lab),
        "seeds": list(lab.lab.seeds),
        "seconds": round(seconds, 1),
    }


def _of_method(lab: Lab, place: int, results: Mapping[Job, Result]) -> Report:
    found = [results[Job(place, seed)] for seed in lab.lab.seeds]
    losses = [result["loss"] for result in found]
    method = lab.methods[place]
    return {
        "method": method.name,
        "algorithm": method.recipe.algorithm,
        "loss": _number(_mean(losses)),
        "loss_vs_sync": None,
        "bytes_per_replica": round(_mean([result["bytes_per_replica"] for result in found])),
        "bytes_vs_sync": None,
        "steps": method.steps,
        "tokens": round(_mean([result["tokens"] for result in found])),
        "seeds": list(lab.lab.seeds),
        "losses": [_number(loss) for loss in losses],
        "spread": _number(max(losses) - min(losses)),
        "seconds": round(_mean([result["seconds"] for result in found]), 1),
        "inner": method.inner.optimizer,
    }


def _start_tokens(lab: Lab) -> int:
    """What one machine trained on before the swarm began."""
    inner = lab.start_inner
    return 0 if inner is None else inner.total_steps * inner.batch_sequences * lab.data.sequence_tokens


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
