"""`atoll demo`: play the story, judge it, and leave nothing running."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from atoll.cli.demo.script import ROUNDS_MIN, Script
from atoll.protocol.errors import ConfigError

if TYPE_CHECKING:
    from atoll.cli.demo.evidence import Evidence
    from atoll.cli.demo.swarm import Swarm

    Seen = Callable[[Swarm], None]


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print only one JSON object.")] = False,
    rounds: Annotated[int, typer.Option(min=ROUNDS_MIN, max=1000, help="Outer rounds.")] = Script().rounds,
    keep: Annotated[
        Optional[Path],  # noqa: UP045  typer reads this at run time, also on Python 3.10
        typer.Option(metavar="DIR", help="A new folder that keeps everything: states, logs, model."),
    ] = None,
) -> None:
    """Watch a whole swarm on this machine: it loses a peer, takes in another, and agrees on every bit.

    Starts a coordinator and four peers as processes of their own, over loopback, and trains a Llama-style
    byte model of a million parameters on the Python standard library's source. By round 4 a peer that
    leads or owns a part of the round is killed; later a new one joins and catches up. The end shows
    held-out loss, bytes against the lower bound, every peer's anchor digest, and the exported model.

    Exits with 1, and says why, if anything that it promises did not happen. Takes a minute or two.
    """
    import json
    from dataclasses import asdict

    script = Script(rounds=rounds, patience_s=Script().patience_s * rounds / Script().rounds)
    with _folder(keep) as folder, _terminable():
        evidence, text = _play(script, folder, as_json)
        if as_json:
            typer.echo(json.dumps(asdict(evidence)))
        else:
            _print(evidence, text)
        _judge(evidence, rounds)


def _play(script: Script, folder: Path, as_json: bool) -> tuple[Evidence, str]:
    from atoll.cli.demo import story
    from atoll.cli.demo.results import collect
    from atoll.cli.demo.swarm import Swarm

    with _screen(as_json) as seen:
        swarm = Swarm(folder / "state", seen)
        try:
            story.play(script, swarm)
        finally:
            swarm.close()
    return collect(script, swarm, folder)


def _judge(evidence: Evidence, rounds: int) -> None:
    from atoll.cli.boundary import PromiseBroken
    from atoll.cli.demo.evidence import broken

    missing = broken(evidence, rounds)
    if missing:
        raise PromiseBroken("not kept: " + "; ".join(missing))


def _print(evidence: Evidence, text: str) -> None:
    from rich.console import Console

    from atoll.cli.demo.table import result

    Console().print(result(evidence, text))


@contextlib.contextmanager
def _screen(as_json: bool) -> Iterator[Seen]:
    """Where a look at the swarm is shown."""
    if as_json:
        yield lambda swarm: None
        return
    from rich.console import Console
    from rich.live import Live

    from atoll.cli.demo.table import live

    with Live(console=Console(), refresh_per_second=4) as screen:
        yield lambda swarm: screen.update(live(swarm))


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The demo's folder. After a success only results remain in a folder of ours; after a failure all."""
    import shutil
    import tempfile

    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError("this folder is not empty", str(keep), "the name of a new folder")
    folder = (keep or Path(tempfile.mkdtemp(prefix="atoll-demo-"))).absolute()
    (folder / "state").mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except KeyboardInterrupt:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:
        print(f"atoll: the peers' logs are in {folder / 'state'}", file=sys.stderr)
        raise
    if keep is None:
        shutil.rmtree(folder / "state", ignore_errors=True)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, with all its processes."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
