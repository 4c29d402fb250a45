"""The control API: what a researcher's tools ask of a coordinator, as gRPC on its admin socket.

The run, its newest checkpoint, and the ledger as a contribution record: who took part in each round with
which weight, and who was left out, and why. And the one thing that only the run authority can do: go on
with those that are here, after a majority was lost for good.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import grpc

from atoll.coordinator.publish import INVITE_FILE
from atoll.coordinator.rpc import control_pb2 as rpc
from atoll.coordinator.rpc.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server
from atoll.node.daemon import Daemon
from atoll.protocol import events as e
from atoll.protocol.commits import Commit
from atoll.protocol.duties.recovery import present
from atoll.protocol.ids import PeerId
from atoll.protocol.peer import Peer

COMMITS_MAX = 1000


def attach(server: grpc.aio.Server, daemon: Daemon) -> None:
    """Serve the control API of this daemon's run."""
    add_ControlServicer_to_server(Control(daemon), server)


class Control(ControlServicer):  # type: ignore[misc]
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def Run(self, request: rpc.AboutRun, context: grpc.aio.ServicerContext) -> rpc.RunReply:
        signed, path = self._daemon.signed, self._daemon.disk.folder / INVITE_FILE
        return rpc.RunReply(
            run_id=signed.run_id,
            manifest=signed.manifest.to_json(),
            authority=signed.manifest.authority,
            invite=path.read_text().strip() if path.exists() else "",
        )

    async def Checkpoint(
        self, request: rpc.AboutCheckpoint, context: grpc.aio.ServicerContext
    ) -> rpc.CheckpointReply:
        states = self._daemon.disk.states()
        if not states:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no state is saved yet")
        newest, ledger = states[0], self._daemon.peer.ledger
        certified = ledger.begin <= newest.round < ledger.height
        digest = ledger.commit(newest.round + 1).body.anchor if certified else ""
        held = self._daemon.peer.catchup.state
        if not digest and held is not None and held.round == newest.round:
            digest = held.anchor
        return rpc.CheckpointReply(round=newest.round, anchor_digest=digest, path=str(newest.path))

    async def Ledger(self, request: rpc.AboutLedger, context: grpc.aio.ServicerContext) -> rpc.LedgerReply:
        ledger, count = self._daemon.peer.ledger, min(COMMITS_MAX, request.count or COMMITS_MAX)
        first = max(request.from_round - 1 - ledger.begin, 0)
        commits = [json.dumps(record(commit)) for commit in ledger.commits[first : first + count]]
        return rpc.LedgerReply(commits=commits, first_round=ledger.begin + 1)

    async def Recover(
        self, request: rpc.AboutRecovery, context: grpc.aio.ServicerContext
    ) -> rpc.RecoveryReply:
        peer, keep = self._daemon.peer, tuple(PeerId(named) for named in request.keep)
        if fault := recovery_fault(peer, keep):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, fault)
        epoch, members = peer.ledger.epoch + 1, planned(peer, keep)
        if request.only_tell:
            return rpc.RecoveryReply(round=peer.round, epoch=epoch, members=members)
        kept = tuple(PeerId(member.peer) for member in members if member.kept)
        await self._daemon.ask(e.Recover(kept))
        if peer.ledger.epoch != epoch:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, peer.why)
        began = peer.ledger.first_after(epoch - 1)
        digest = peer.ledger.digest_of_round(began)
        return rpc.RecoveryReply(round=began, epoch=epoch, members=members, digest=digest)


def recovery_fault(peer: Peer, keep: Sequence[PeerId]) -> str | None:
    """Why this daemon cannot sign a recovery now that keeps these, or None."""
    if peer.config.authority is None:
        return "the run authority's key is not here: ask the coordinator's daemon"
    if peer.terms.complete:
        return "the run is complete"
    if not peer.ready or peer.catchup.anchor is None:
        return "this daemon is still catching up with its ledger: try again when it has"
    unknown = [who for who in keep if who not in peer.terms.places]
    return f"no member of round {peer.round}: {', '.join(unknown)}"[:300] if unknown else None


def planned(peer: Peer, keep: tuple[PeerId, ...]) -> list[rpc.Kept]:
    """The members, and who of them a recovery would keep."""
    kept = {member.peer for member in present(peer, keep)}
    now_ms = peer.now_ms
    return [
        rpc.Kept(
            peer=member.peer,
            role=member.role.name.lower(),
            kept=member.peer in kept,
            heard_ms=0 if member.peer == peer.me else now_ms - peer.heard.get(member.peer, now_ms + 1),
        )
        for member in peer.terms.members
    ]


def record(commit: Commit) -> dict[str, Any]:
    """A commit for people and scripts."""
    body = commit.body
    return {
        "round": body.round,
        "epoch": body.epoch,
        "fragment": body.fragment,
        "kind": body.kind.name.lower(),
        "digest": body.digest,
        "parent": body.parent,
        "anchor": body.anchor,
        "view": commit.view,
        "contributors": [dataclasses.asdict(contributor) for contributor in body.contributors],
        "rejected": [dataclasses.asdict(rejection) for rejection in body.rejected],
        "members": [dataclasses.asdict(member) for member in body.members],
        "voters": [peer for peer, _ in commit.votes],
    }
