"""The lab as it is watched, and its table as it is read."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from atoll.cli.status_view import bytes_text

if TYPE_CHECKING:
    from atoll.simulator.lab.config import Lab
    from atoll.simulator.lab.pool import Job


class Watching:
    """Bars on stderr for a person who waits: one for all, one for each trial that runs.

    Where stderr is no terminal, a line for each trial that is done, unless it is to be quiet.
    """

    def __init__(self, lab: Lab, quiet: bool) -> None:
        self._lab, terminal = lab, sys.stderr.isatty()
        self._lines = not terminal and not quiet
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal)
        trials = len(lab.methods) * len(lab.lab.seeds)
        self._all = self._bars.add_task("all trials", total=trials, loss="")
        self._tasks: dict[Job, TaskID] = {}
        self._shares: dict[Job, float] = {}

    def __enter__(self) -> Watching:
        self._bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.__exit__(kind, error, trace)

    def news(self, job: Job, steps: float, loss: float) -> None:
        """A trial went on."""
        task = self._tasks.get(job)
        if task is None:
            task = self._tasks[job] = self._bars.add_task(self._name(job), total=1.0, loss="")
        self._shares[job] = steps / self._lab.methods[job.method].steps
        self._bars.update(task, completed=self._shares[job], loss=f"{loss:.3f}")
        self._bars.update(self._all, completed=sum(self._shares.values()))

    def done(self, job: Job, result: dict[str, Any]) -> None:
        """A trial has its result."""
        self._shares[job] = 1.0
        self._bars.update(self._all, completed=sum(self._shares.values()))
        if job in self._tasks:
            self._bars.remove_task(self._tasks[job])
        if self._lines:
            sent = bytes_text(result["bytes_per_replica"])
            line = f"{self._name(job)}: loss {result['loss']:.4f}, {sent} sent by a replica"
            print(f"{line}, {result['seconds']:.0f} s", file=sys.stderr, flush=True)

    def _name(self, job: Job) -> str:
        return f"{self._lab.methods[job.method].name}, seed {job.seed}"


def show(report: dict[str, Any]) -> None:
    """The table, on stdout."""
    console = Console()
    seeds = len(report["seeds"])
    table = Table(
        "method", "loss", "of sync's", *(("spread",) if seeds > 1 else ()), "sent by a replica", "fewer", "s"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report["methods"]:
        spread = (_number(row["spread"], "{:.4f}"),) if seeds > 1 else ()
        fewer = row["bytes_vs_sync"] and 1 / row["bytes_vs_sync"]
        table.add_row(
            row["method"],
            _number(row["loss"], "{:.4f}"),
            _number(row["loss_vs_sync"], "{:.4f}"),
            *spread,
            bytes_text(row["bytes_per_replica"]),
            _number(fewer, "{:,.0f} ×"),
            f"{row['seconds']:.0f}",
        )
    console.print(table)
    tokens, start = report["methods"][0]["tokens"], report["start_tokens"]
    alone = f", after {start:,} by one machine alone" if start else ""
    console.print(
        f"{report['replicas']} replicas, {tokens:,} tokens for each method{alone}; "
        f"seeds {', '.join(map(str, report['seeds']))}; {report['seconds']:.0f} s in all",
        highlight=False,
    )
    console.print(f"{report['plot']}, {report['results']}", highlight=False, soft_wrap=True)


def _number(value: float | None, form: str) -> str:
    """A number, or that there is none: training diverged, or nothing was sent."""
    return "-" if value is None else form.format(value)
