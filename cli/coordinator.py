"""`atoll coordinator`: publish a run, vote in it as a witness, and invite others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli import places
from atoll.cli.options import LogJsonOption, MetricsOption, StateOption

if TYPE_CHECKING:
    from atoll.coordinator.publish import Published
    from atoll.coordinator.runfile import RunFile
    from atoll.node.config import NodeConfig


def coordinator(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="As `atoll init` writes it.")],
    state: StateOption = None,
    metrics: MetricsOption = "",
    log_json: LogJsonOption = False,
) -> int:
    """Start a run and invite others into it.

    Signs the run that RUN.toml describes, prints one invite line on stdout, and then votes as a witness:
    it checks and keeps every update, contributes nothing, and nobody waits for it. Training goes on while
    it is away. Started again with the same RUN.toml it resumes the same run; a changed RUN.toml needs a
    new --state folder, since a signed run cannot change.
    """
    from atoll.coordinator import runfile

    run = runfile.read(run_file)
    from atoll.cli import daemon, logs
    from atoll.workload.quick_imports import quick_imports

    with quick_imports():
        from atoll.coordinator.publish import publish

    state_dir = (state or places.of_coordinator(run.name)).absolute()
    published = publish(run, state_dir)
    logs.configure(state_dir, log_json)
    from atoll.coordinator.control import attach

    config, announce = _config(run, state_dir, metrics), _announcer(run, published)
    return daemon.serve(config, published.signed, None, announce, (attach,), published.authority)


def _config(run: RunFile, state_dir: Path, metrics: str) -> NodeConfig:
    from atoll.node.config import NodeConfig
    from atoll.protocol.roster import Role

    here = run.coordinator
    return NodeConfig(
        state_dir=state_dir,
        role=Role.WITNESS,
        listen=here.listen,
        dht_listen=here.dht_listen,
        threads=here.threads,
        evaluate_windows=here.evaluate_windows,
        metrics=metrics,
    )


def _announcer(run: RunFile, published: Published) -> Any:
    """What to do once others can reach this peer: print the invite, and keep it for later."""

    def announce(status: dict[str, Any]) -> None:
        from atoll.coordinator.publish import INVITE_FILE, make_invite
        from atoll.node.identity import write_private

        hours = run.coordinator.invite_expires_hours
        line = str(make_invite(published, status["multiaddrs"], time.time(), hours))
        write_private(published.state_dir / INVITE_FILE, f"{line}\n".encode())
        typer.echo(line)

    return announce
