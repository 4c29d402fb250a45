"""`atoll simulate training`: the lab. P replicas in one process, any list of methods, one table."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from atoll.cli.boundary import PromiseBroken
from atoll.protocol.errors import ConfigError

if TYPE_CHECKING:
    from atoll.simulator.lab.config import Lab

SEEDS_MAX = 1000
WORKERS_MAX = 1024


def training(
    lab: Annotated[Path, typer.Argument(metavar="LAB.toml", show_default=False, help="What is compared.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045  typer reads this at run time, also on Python 3.10
        typer.Option("--out", metavar="DIR", help="Results, picture, states.", show_default="LAB-results"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier call was ended.")] = False,
    workers: Annotated[
        int, typer.Option(metavar="N", min=0, max=WORKERS_MAX, help="Trials at a time; 0: one for each core.")
    ] = 0,
    tokens: Annotated[
        int, typer.Option(metavar="N", min=0, help="Tokens of each trial; 0: as the file says.")
    ] = 0,
    seeds: Annotated[
        str, typer.Option(metavar="A:B", help="Seeds A to B-1, or one seed; none: as the file says.")
    ] = "",
) -> None:
    """Compare training methods by loss and by bytes, before anyone joins a network.

    Every method trains the same replicas on the same text: same first parameters, same windows, same tokens.
    The baseline is synchronous data parallelism, whose bytes are an fp32 all-reduce in every step. Bytes are
    those of real payloads, as the protocol moves them. examples/lab-small.toml is a lab to start from, and
    docs/lab.md says how to read what comes out.

    It can be ended at any time, and goes on with --resume to the same numbers.
    """
    from atoll.simulator.lab import config

    chosen = config.read(lab, tokens or None, _seeds(seeds))
    folder = out or Path(f"{lab.stem}-results")
    _check_folder(folder)

    from atoll.cli import training_view
    from atoll.workload.quick_imports import quick_imports

    with quick_imports():
        from atoll.simulator.lab import pool  # it loads the model library, which takes seconds

    began = time.perf_counter()
    try:
        with training_view.Watching(chosen, quiet=as_json) as watching:
            count = workers or pool.workers_by_default(chosen)
            results = pool.run(chosen, folder, count, resume, watching.news, watching.done)
    except pool.TrialDied as error:
        raise PromiseBroken(f"{error}; --resume goes on from the last saved states") from None
    except KeyboardInterrupt:
        print(f"ended; --resume goes on from the states in {folder}", file=sys.stderr)
        raise
    found = _written(chosen, results, folder, time.perf_counter() - began)
    if as_json:
        print(json.dumps(found))
    else:
        training_view.show(found)


def _seeds(text: str) -> tuple[int, ...] | None:
    if not text:
        return None
    from atoll.cli.simulate import seeds_of

    chosen = seeds_of(text)
    if len(chosen) > SEEDS_MAX:
        raise ConfigError(f"{len(chosen)} seeds", "--seeds", f"at most {SEEDS_MAX}")
    return tuple(chosen)


def _check_folder(folder: Path) -> None:
    """Find out now, not after a quarter of an hour, that nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make it: {error.strerror}", str(folder), "a folder for results") from None


def _written(lab: Lab, results: dict[Any, Any], folder: Path, seconds: float) -> dict[str, Any]:
    """The report; it, every curve and the picture are in the folder."""
    from atoll.simulator.lab.plot import draw
    from atoll.simulator.lab.report import report

    picture = folder / "loss.png"
    draw(lab, results, picture)
    found = report(lab, results, seconds) | {"results": str(folder / "results.json"), "plot": str(picture)}
    curves = [
        {"method": lab.methods[job.method].name, "seed": job.seed, "curve": result["curve"]}
        for job, result in results.items()
    ]
    (folder / "results.json").write_text(json.dumps(found | {"curves": curves}, indent=1), encoding="utf8")
    return found
