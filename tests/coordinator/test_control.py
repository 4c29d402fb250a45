"""What a researcher asks of a coordinator: a ledger that may be pruned, and a recovery."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from atoll.cli import boundary
from atoll.cli.main import app
from atoll.coordinator.control import Control
from atoll.coordinator.rpc import control_pb2 as rpc
from atoll.coordinator.rpc.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server
from atoll.node.rpc import admin_pb2
from atoll.node.rpc.admin_pb2_grpc import AdminServicer, add_AdminServicer_to_server
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.commits import Body, Commit, Kind, vote_message
from atoll.protocol.fragments import anchor_digest
from atoll.protocol.ids import BlobRef, PeerId, digest_of
from atoll.protocol.keys import Key
from atoll.protocol.ledger import Ledger
from atoll.protocol.manifest import Assignment, Manifest, MembershipRules, open_manifest, sign
from atoll.protocol.peer import Peer, PeerConfig, Saved
from atoll.protocol.roster import Member, Role

AUTHORITY, WITNESS = Key(b"a" * 32), Key(b"w" * 32)
WORKERS = tuple(sorted((Key(bytes([n]) * 32) for n in range(1, 5)), key=lambda key: key.peer))
BLOBS = tuple(BlobRef(digest_of(name), 16) for name in (b"anchor", b"momentum"))
RULES = MembershipRules(witnesses=(WITNESS.peer,))
MANIFEST = Manifest("a run", AUTHORITY.peer, 4, BLOBS, Assignment(1, 1), membership=RULES)


class Refused(Exception):
    """What `abort` of a gRPC context raises here."""


class Context:
    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Refused(code, details)


class Daemon:
    """The coordinator's peer without a network: of a run with four workers, of whom it heard the first."""

    def __init__(self, authority: Key | None = AUTHORITY) -> None:
        raw = sign(MANIFEST, AUTHORITY).raw
        self.signed = open_manifest(raw, digest_of(raw))
        self.ledger = Ledger(self.signed.genesis)
        everybody = tuple(sorted(self._members(), key=lambda member: member.peer))
        for members in (everybody, everybody):
            self._commit(members)
        config = PeerConfig(
            self.signed.manifest, Role.WITNESS, lambda fragment, parts: (4,) * parts, b"", authority
        )
        self.peer = Peer(config, WITNESS, self.ledger, Saved())
        state = e.StateLoaded(2, anchor_digest(BLOBS), BLOBS)
        self.peer.handle(e.Started(state), 0)
        self.actions: list[Any] = []

    def _members(self) -> Iterator[Member]:
        yield Member(WITNESS.peer, Role.WITNESS)
        yield from (Member(key.peer) for key in WORKERS)

    def _commit(self, members: tuple[Member, ...]) -> None:
        ledger = self.ledger
        body = Body(
            ledger.genesis.run_id,
            ledger.height + 1,
            ledger.head,
            Kind.SKIP,
            anchor_digest(BLOBS),
            ledger.members,
            members,
        )
        message = vote_message(body.place, 0, body.digest)
        voting = [key for key in (WITNESS, *WORKERS) if key.peer in {v.peer for v in ledger.members}]
        ledger.append(Commit(body, 0, tuple((key.peer, key.sign(message)) for key in voting)), WITNESS)

    def hear(self, *keys: Key, now_ms: int) -> None:
        for key in keys:
            self.peer.handle(e.Received(key.peer, m.AskCommits(self.peer.round)), now_ms)

    async def ask(self, event: e.Event) -> None:
        self.actions += self.peer.handle(event, self.peer.now_ms + 1)


def recover(daemon: Daemon, *keep: PeerId, only_tell: bool = False) -> rpc.RecoveryReply:
    asked = rpc.AboutRecovery(keep=keep, only_tell=only_tell)
    return asyncio.run(Control(daemon).Recover(asked, Context()))  # type: ignore[arg-type]


def kept(reply: rpc.RecoveryReply) -> set[str]:
    return {member.peer for member in reply.members if member.kept}


def test_a_recovery_is_told_before_it_is_signed() -> None:
    daemon = Daemon()
    daemon.hear(WORKERS[0], WORKERS[1], now_ms=1_000)
    daemon.hear(WORKERS[0], now_ms=1_000_000)
    told = recover(daemon, only_tell=True)
    assert (told.round, told.epoch, told.digest, daemon.peer.ledger.epoch) == (3, 1, "", 0)
    assert kept(told) == {WITNESS.peer, WORKERS[0].peer}
    heard = {member.peer: member.heard_ms for member in told.members}
    assert [heard[key.peer] for key in (WITNESS, *WORKERS[:3])] == [0, 0, 999_000, -1]


def test_a_signed_recovery_begins_an_epoch_with_those_that_are_kept() -> None:
    daemon = Daemon()
    daemon.hear(WORKERS[0], now_ms=1_000)
    done = recover(daemon, WORKERS[1].peer)
    commit = daemon.ledger.commits[-1]
    assert (done.round, done.epoch, done.digest) == (3, 1, commit.body.digest)
    assert commit.body.kind is Kind.RECOVERY
    assert {member.peer for member in commit.body.members} == {WITNESS.peer, WORKERS[1].peer}
    again = recover(daemon)
    assert (again.round, again.epoch) == (4, 2)


@pytest.mark.parametrize(
    ("authority", "keep", "said"),
    [(None, (), "key is not here"), (AUTHORITY, (AUTHORITY.peer,), "no member of round 3")],
)
def test_a_recovery_is_refused_with_a_reason(
    authority: Key | None, keep: tuple[PeerId, ...], said: str
) -> None:
    daemon = Daemon(authority)
    with pytest.raises(Refused, match=said):
        recover(daemon, *keep)
    assert daemon.ledger.epoch == 0


def test_no_recovery_without_a_state() -> None:
    daemon = Daemon()
    daemon.peer.catchup.state = None
    with pytest.raises(Refused, match="catching up"):
        recover(daemon)


def test_the_ledger_is_told_as_far_as_it_is_kept() -> None:
    daemon = Daemon()

    def told(first: int, count: int = 0) -> tuple[int, list[int]]:
        asked = rpc.AboutLedger(from_round=first, count=count)
        reply = asyncio.run(Control(daemon).Ledger(asked, Context()))  # type: ignore[arg-type]
        return reply.first_round, [json.loads(text)["round"] for text in reply.commits]

    assert told(0) == told(1) == (1, [1, 2])
    assert told(2) == (1, [2])
    assert told(1, 1) == (1, [1])
    snapshot = daemon.ledger.snapshot(1)
    signature = AUTHORITY.sign(snapshot.message(daemon.signed.run_id))
    daemon.ledger.rebase(dataclasses.replace(snapshot, signature=signature))
    assert told(0) == told(1) == told(2) == (2, [2])
    assert told(3) == (2, [])


def test_a_checkpoint_is_certified_by_the_commit_after_it_if_that_is_kept() -> None:
    daemon = Daemon()
    state = SimpleNamespace(round=1, path=Path("state-1.safetensors"))
    daemon.disk = SimpleNamespace(states=lambda: [state])  # type: ignore[attr-defined]

    def digest() -> str:
        asked = Control(daemon).Checkpoint(rpc.AboutCheckpoint(), Context())  # type: ignore[arg-type]
        return asyncio.run(asked).anchor_digest

    assert digest() == anchor_digest(BLOBS)
    snapshot = daemon.ledger.snapshot(2)
    daemon.ledger.rebase(snapshot)
    assert digest() == ""


# ---- the verb -------------------------------------------------------------------------------------


class Served(AdminServicer, ControlServicer):  # type: ignore[misc]
    """A coordinator's services around that daemon, on a real unix socket."""

    def __init__(self, daemon: Daemon, socket: Path) -> None:
        self.daemon = daemon
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        add_AdminServicer_to_server(self, self.server)
        add_ControlServicer_to_server(self, self.server)
        self.server.add_insecure_port(f"unix:{socket}")
        self.server.start()

    def Status(self, request: Any, context: Any) -> admin_pb2.StatusReply:
        members = [{"peer": member.peer} for member in self.daemon.peer.terms.members]
        return admin_pb2.StatusReply(json=json.dumps({"members": members}))

    def Recover(self, request: Any, context: Any) -> Any:
        try:
            return asyncio.run(Control(self.daemon).Recover(request, Context()))  # type: ignore[arg-type]
        except Refused as error:
            context.abort(*error.args)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    daemon = Daemon()
    daemon.hear(WORKERS[0], now_ms=1_000)
    served = Served(daemon, tmp_path / "admin.sock")
    yield served
    served.server.stop(0).wait(5)


def verb(tmp_path: Path, *arguments: str) -> int:
    command = ["recover", "--state", str(tmp_path), *arguments]
    return boundary.run(lambda: app(command, prog_name="atoll", standalone_mode=False))


def test_recover_explains_and_signs(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(tmp_path, "--yes") == 0
    said = capsys.readouterr()
    assert "epoch 1 begins" in said.out
    for key, fate in ((WITNESS, "stays"), (WORKERS[0], "stays"), (WORKERS[1], "never heard: is dropped")):
        assert any(key.peer in line and fate in line for line in said.err.splitlines())
    assert "A majority is here" not in said.err
    assert served.daemon.ledger.epoch == 1


def test_recover_keeps_who_is_named(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [part for key in WORKERS[1:3] for part in ("--keep", key.peer[-8:])]
    assert verb(tmp_path, "--yes", *named) == 0
    members = {member.peer for member in served.daemon.ledger.members}
    assert members == {WITNESS.peer, WORKERS[1].peer, WORKERS[2].peer}
    assert "A majority is here" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "epoch"), [("n", 0), ("y", 1)])
def test_recover_asks_first(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, epoch: int
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{answer}\n"))
    assert verb(tmp_path) == (boundary.OK if epoch else boundary.INTERRUPTED)
    assert served.daemon.ledger.epoch == epoch


def test_recover_knows_no_strangers(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(tmp_path, "--yes", "--keep", "nobody") == boundary.USER
    assert "no member of this run: nobody" in capsys.readouterr().err
    assert served.daemon.ledger.epoch == 0
