"""`atoll simulate`: the protocol under faults in virtual time, and the training lab."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from atoll.cli.boundary import PromiseBroken
from atoll.cli.simulate_training import training
from atoll.protocol.errors import ConfigError

if TYPE_CHECKING:
    from atoll.simulator.setting import Setting

SEEDS_MAX = 100_000
FAILURES_SHOWN = 10

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def simulate() -> None:
    """Try the protocol against faults in virtual time (network), or compare training methods (training)."""


Faults = Annotated[
    str,
    typer.Option(
        metavar="LIST",
        help="Some of crash, wipe, torn, full, corrupt, freeze, loss, twice, reorder, partition, "
        "bandwidth, lag, slow, skew, suspect, churn, burst, pause, doom; heavy is all, none is none.",
    ),
]
Mode = Annotated[
    str,
    typer.Option(
        metavar="MODE",
        help="dense, fragments, streaming, sparse or sparse-streaming; if none, the seed chooses.",
    ),
]
Liars = Annotated[int, typer.Option(metavar="N", help="Workers that lie; fewer than a third of all members.")]
Votes = Annotated[str, typer.Option(metavar="RULE", help="What certifies a commit: majority or two-thirds.")]
Shrink = Annotated[
    Optional[Path],  # noqa: UP045  typer reads this at run time, also on Python 3.10
    typer.Option(metavar="FILE", help="Make the first failure small, and write it there as a transcript."),
]
Replay = Annotated[
    Optional[Path],  # noqa: UP045  typer reads this at run time, also on Python 3.10
    typer.Option(metavar="FILE", help="Run a transcript again, traced; it decides all but --json."),
]


@app.command()
def network(
    peers: Annotated[int, typer.Option(metavar="P", help="Workers; a witness comes on top.")] = 16,
    rounds: Annotated[int, typer.Option(metavar="N", help="Outer updates under faults.")] = 10,
    seeds: Annotated[str, typer.Option(metavar="A:B", help="Seeds A to B-1, or one seed.")] = "0:20",
    faults: Faults = "crash,loss,reorder",
    mode: Mode = "",
    liars: Liars = 0,
    votes: Votes = "majority",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Write every event of one seed to stderr.")] = False,
    shrink: Shrink = None,
    replay: Replay = None,
) -> None:
    """Check safety and liveness over many seeds.

    Every peer runs the same protocol code as a real node. While faults happen, checkers watch that there is
    one history, that anchors are equal, that each commit has the votes of a majority, each update is held by
    one, and each contribution counts once. Then the faults stop, and every peer must go on within 24
    deadlines, and 12 more for each liar; liars never stop.

    Exit code 1 if any seed fails: it is named, with the command that shows every event of it.
    """
    from atoll.simulator.setting import setting

    those, chosen = seeds_of(seeds), setting(peers, rounds, faults, mode, liars, votes)
    if replay is not None:
        report = _replayed(replay)
    elif trace:
        if len(those) != 1:
            raise ConfigError(f"--trace with {len(those)} seeds", "--seeds", "one seed, such as 7:8")
        report = _traced(those[0], chosen)
    else:
        report = _tried(those, chosen)
    print(json.dumps(report) if as_json else _told(report))
    if failures := report["failures"]:
        if shrink is not None and replay is None:
            _shrunk(failures[0]["seed"], chosen, shrink)
        raise PromiseBroken(_complaint(failures, report["seeds"]))


app.command()(training)


def seeds_of(text: str) -> range:
    """`A:B` or `A` as a range; ConfigError says what would be right."""
    first, colon, end = text.partition(":")
    try:
        chosen = range(int(first), int(end) if colon else int(first) + 1)
    except ValueError:
        raise ConfigError(f"seeds {text!r}", "--seeds", "A:B, such as 0:200") from None
    if not 0 < len(chosen) <= SEEDS_MAX or chosen.start < 0:
        raise ConfigError(f"seeds {text!r}", "--seeds", f"A:B with 0 <= A < B, at most {SEEDS_MAX} of them")
    return chosen


def _tried(seeds: range, chosen: Setting) -> dict[str, Any]:
    """All seeds, with a bar on stderr for a person who waits."""
    from rich.console import Console
    from rich.progress import Progress

    from atoll.simulator.run import try_seeds

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("seeds", total=len(seeds))
        return try_seeds(seeds, chosen, lambda outcome: bar.advance(task))


def _traced(seed: int, chosen: Setting) -> dict[str, Any]:
    import time

    from atoll.simulator.run import summary, trial

    began = time.perf_counter()
    outcome = trial(seed, chosen, traced=True)
    for line in outcome.trace:
        print(line, file=sys.stderr)
    return summary([outcome], chosen, time.perf_counter() - began)


def _shrunk(seed: int, chosen: Setting, path: Path) -> None:
    from atoll.simulator import transcript
    from atoll.simulator.shrink import shrink

    case = shrink(seed, chosen)
    transcript.write(path, case)
    print(
        f"seed {case.seed} with {case.setting.peers} peers, {case.setting.rounds} rounds and "
        f"{len(case.strikes)} strikes fails likewise: atoll simulate network --replay {path}",
        file=sys.stderr,
    )


def _replayed(path: Path) -> dict[str, Any]:
    """A transcript's run, and whether it went as it did when the transcript was written."""
    import time

    from atoll.simulator import transcript
    from atoll.simulator.run import summary

    case, began = transcript.read(path), time.perf_counter()
    outcome = case.run(traced=True)
    for line in outcome.trace:
        print(line, file=sys.stderr)
    report = summary([outcome], case.setting, time.perf_counter() - began)
    for failure in report["failures"]:
        failure["replay"] = f"atoll simulate network --replay {path}"
    return report | {"same_trace": transcript.digest_of_trace(outcome.trace) == case.trace}


def _told(report: dict[str, Any]) -> str:
    return (
        f"{report['seeds']} seeds: {report['violations']} violations, {report['stuck']} stuck\n"
        f"{report['commits']} commits, {report['updates']} of them updates; "
        f"at most {report['view_max']} leaders were replaced in a round\n"
        f"per peer and round: {report['messages_per_peer_round']} messages, "
        f"{report['control_bytes_per_peer_round']} bytes besides the updates\n"
        f"{report['events']} events in {report['seconds']} s"
    )


def _complaint(failures: list[dict[str, Any]], seeds: int) -> str:
    """The failures, each with its seed, and how to see the first again. The others go to stderr as well."""
    for failure in failures[1:FAILURES_SHOWN]:
        print(f"FAIL seed={failure['seed']}: {failure['what']}", file=sys.stderr)
    first = failures[0]
    return (
        f"{len(failures)} of {seeds} seeds failed; FAIL seed={first['seed']}: {first['what']}; "
        f"to see it: {first['replay']}"
    )
