"""`atoll recover`: go on after a majority of the members was lost for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from atoll.cli import places
from atoll.cli.options import StateOption
from atoll.protocol.errors import ConfigError

if TYPE_CHECKING:
    from atoll.coordinator.rpc.control_pb2 import RecoveryReply as Recovery

SUFFIX_MIN = 6


def recover(
    state: StateOption = None,
    keep: Annotated[
        Optional[list[str]],  # noqa: UP045  typer reads this at run time, also on Python 3.10
        typer.Option(
            metavar="PEER", help="Keep this member, and only those named. A peer id, or how it ends."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Go on with the members that are here, when a majority is gone for good.

    Ask the coordinator's daemon: it alone holds the run authority's key. It signs a commit that begins a
    new epoch after the last commit it knows, with the members it heard lately, or those named by --keep.
    Whoever was away follows when it is back. Commits of others that this coordinator does not know are
    undone. A minority that is only cut off, or slow, needs no recovery: its round waits.
    """
    state_dir = places.running(state)
    from atoll.cli.admin import Admin

    with Admin(state_dir) as daemon:
        members = [member["peer"] for member in daemon.status().get("members", [])]
        named = [_member(text, members) for text in keep or []]
        plan = daemon.recover(named, only_tell=True)
        _explain(plan)
        if not yes:
            typer.confirm("Sign it?", abort=True, err=True)
        kept = [member.peer for member in plan.members if member.kept]
        done = daemon.recover(kept, only_tell=False)
    typer.echo(f"signed: round {done.round} is a recovery, {done.digest[:16]}; epoch {done.epoch} begins")


def _member(text: str, members: list[str]) -> str:
    """The one member that this names: its id, or enough of its end."""
    fits = [peer for peer in members if peer == text or (len(text) >= SUFFIX_MIN and peer.endswith(text))]
    if len(fits) != 1:
        what = "no member" if not fits else f"{len(fits)} members"
        raise ConfigError(f"{what} of this run: {text}", "--keep", f"one of {', '.join(members)}")
    return fits[0]


def _explain(plan: Recovery) -> None:
    typer.echo(f"A recovery would be round {plan.round}, and begin epoch {plan.epoch}:", err=True)
    for member in plan.members:
        heard = "never heard" if member.heard_ms < 0 else f"heard {member.heard_ms / 1000:.0f} s ago"
        fate = "stays" if member.kept else "is dropped"
        typer.echo(f"  {member.peer}  {member.role}, {heard}: {fate}", err=True)
    kept = sum(member.kept for member in plan.members)
    if 2 * kept > len(plan.members):
        typer.echo("A majority is here: the run can go on without a recovery.", err=True)
