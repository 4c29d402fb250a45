"""The lab as a picture: held-out loss against tokens, and against the bytes that a replica sent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.simulator.lab.config import Lab
from atoll.simulator.lab.pool import Job, Result

TOKENS, BYTES, LOSS = 1, 2, 3
"""Where they stand in a point of a result's curve; the first is the step."""


def draw(lab: Lab, results: Mapping[Job, Result], path: Path) -> None:
    """Write a PNG: a line for each method, the mean over seeds, in a band from the lowest to the highest."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    by_tokens, by_bytes = figure.subplots(1, 2, sharey=True)
    for place, method in enumerate(lab.methods):
        curves = [results[Job(place, seed)]["curve"] for seed in lab.lab.seeds]
        _line(by_tokens, curves, TOKENS, method.name, f"C{place}")
        _line(by_bytes, curves, BYTES, method.name, f"C{place}")
    by_tokens.set(xlabel="tokens, all replicas", ylabel="held-out loss, nats per token")
    by_bytes.set(xlabel="bytes sent by a replica", xscale="log" if _anything_sent(results) else "linear")
    by_bytes.legend(fontsize="small")
    for axes in (by_tokens, by_bytes):
        axes.grid(alpha=0.3)
    figure.savefig(str(path), dpi=110, format="png")


def _anything_sent(results: Mapping[Job, Result]) -> bool:
    """Whether there is a point to show: a replica alone sends nothing, and no logarithm holds that."""
    return any(point[BYTES] > 0 for result in results.values() for point in result["curve"])


def _line(axes: Any, curves: list[list[list[float]]], of: int, name: str, color: str) -> None:
    """Points at the same place of each seed's curve are averaged; one where nothing was sent is left out."""
    shown = [points for points in zip(*curves, strict=False) if of == TOKENS or points[0][BYTES] > 0]
    x = [sum(point[of] for point in points) / len(points) for points in shown]
    losses = [[point[LOSS] for point in points] for points in shown]
    axes.plot(x, [sum(each) / len(each) for each in losses], label=name, color=color, linewidth=1.3)
    axes.fill_between(x, list(map(min, losses)), list(map(max, losses)), color=color, alpha=0.15, linewidth=0)
