"""The control API: what a researcher's tools ask of a coordinator, as gRPC on its admin socket.

The run, its newest checkpoint, and the ledger as a contribution record: who took part in each round with
which weight, and who was left out, and why.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import grpc

from atoll.coordinator.publish import INVITE_FILE
from atoll.coordinator.rpc import control_pb2 as rpc
from atoll.coordinator.rpc.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server
from atoll.node.daemon import Daemon
from atoll.protocol.commits import Commit

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
        certified = newest.round < ledger.height
        digest = ledger.commit(newest.round + 1).body.anchor if certified else ""
        held = self._daemon.peer.catchup.state
        if not digest and held is not None and held.round == newest.round:
            digest = held.anchor
        return rpc.CheckpointReply(round=newest.round, anchor_digest=digest, path=str(newest.path))

    async def Ledger(self, request: rpc.AboutLedger, context: grpc.aio.ServicerContext) -> rpc.LedgerReply:
        first, count = max(1, request.from_round), min(COMMITS_MAX, request.count or COMMITS_MAX)
        commits = self._daemon.peer.ledger.commits[first - 1 : first - 1 + count]
        return rpc.LedgerReply(commits=[json.dumps(record(commit)) for commit in commits])


def record(commit: Commit) -> dict[str, Any]:
    """A commit for people and scripts."""
    body = commit.body
    return {
        "round": body.round,
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
