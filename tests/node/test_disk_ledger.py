"""A ledger on disk: what a recovery rewinds and a snapshot prunes, also when the process dies in between."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from atoll.node.disk import Disk, read_ledger
from atoll.protocol import actions as a
from atoll.protocol.commits import Body, Commit, Kind, Snapshot, vote_message
from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import BlobRef, digest_of
from atoll.protocol.keys import Key
from atoll.protocol.ledger import Ledger
from atoll.protocol.manifest import Assignment, Manifest, MembershipRules, SignedManifest, open_manifest, sign
from atoll.protocol.peer import Saved
from atoll.protocol.roster import Member, Role

AUTHORITY, WITNESS, WORKER = Key(b"a" * 32), Key(b"w" * 32), Key(b"v" * 32)
ANCHOR = digest_of(b"an anchor")
HEIGHT = 6


def signed_manifest() -> SignedManifest:
    blobs = tuple(BlobRef(digest_of(name), 16) for name in (b"anchor", b"momentum"))
    membership = MembershipRules(witnesses=(WITNESS.peer,))
    signed = sign(
        Manifest("a run", AUTHORITY.peer, 4, blobs, Assignment(1, 1), membership=membership), AUTHORITY
    )
    return open_manifest(signed.raw, signed.run_id)


def skip(ledger: Ledger) -> Commit:
    """The next commit, voted for by all members."""
    body = Body(
        ledger.genesis.run_id,
        ledger.height + 1,
        ledger.head,
        Kind.SKIP,
        ANCHOR,
        ledger.members,
        ledger.members,
    )
    body = dataclasses.replace(body, epoch=ledger.epoch)
    message = vote_message(body.place, 0, body.digest)
    members = {member.peer for member in ledger.members}
    return Commit(body, 0, tuple((k.peer, k.sign(message)) for k in (WITNESS, WORKER) if k.peer in members))


def recovery(ledger: Ledger, round_: int) -> Commit:
    """A recovery in the place of commit `round_`, with another member more."""
    before = ledger.members_of(round_)
    more = Member(WORKER.peer, Role.WORKER, round_ + 1)
    members = tuple(sorted((*before, more), key=lambda member: member.peer))
    parent = ledger.digest_of_round(round_ - 1)
    run = ledger.genesis.run_id
    body = Body(run, round_, parent, Kind.RECOVERY, ANCHOR, before, members, epoch=ledger.epoch + 1)
    signature = AUTHORITY.sign(vote_message(body.place, 0, body.digest))
    return Commit(body, 0, ((AUTHORITY.peer, signature),))


def snapshot(ledger: Ledger, round_: int) -> Snapshot:
    unsigned = ledger.snapshot(round_)
    return dataclasses.replace(unsigned, signature=AUTHORITY.sign(unsigned.message(ledger.genesis.run_id)))


class Node:
    """A disk and the ledger that was loaded from it."""

    def __init__(self, folder: Path) -> None:
        self.disk = Disk(folder)
        self.signed = signed_manifest()
        self.disk.save_manifest(self.signed)
        self.ledger = self.disk.load_ledger(self.signed, WITNESS)

    def commit(self, commit: Commit) -> None:
        self.ledger.append(commit, WITNESS)
        self.disk.persist(a.Committed(commit), Saved())

    def save_state(self, round_: int) -> None:
        self.disk.save_state(round_, self.signed.run_id, torch.zeros(4), torch.zeros(4))

    def rebase(self, round_: int) -> None:
        taken = snapshot(self.ledger, round_)
        self.ledger.rebase(taken)
        self.disk.persist(a.Rebased(taken, tuple(self.ledger.commits)), Saved())

    def restarted(self) -> Node:
        self.disk.close()
        return Node(self.disk.folder)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    for _ in range(HEIGHT):
        made.commit(skip(made.ledger))
    yield made
    made.disk.close()


def same(ledger: Ledger, other: Ledger) -> bool:
    return (ledger.begin, ledger.height, ledger.epoch, ledger.head, ledger.members, ledger.updates) == (
        other.begin,
        other.height,
        other.epoch,
        other.head,
        other.members,
        other.updates,
    )


def test_a_recovery_replaces_commits_and_the_states_after_them(node: Node) -> None:
    node.save_state(3)
    node.save_state(5)
    replaced = recovery(node.ledger, 5)
    node.disk.persist(a.Rewound(5), Saved())
    assert [state.round for state in node.disk.states()] == [3]
    node.commit(replaced)
    node.commit(skip(node.ledger))
    again = node.restarted()
    assert same(again.ledger, node.ledger)
    assert (again.ledger.height, again.ledger.epoch, len(again.ledger.members)) == (6, 1, 2)
    again.disk.close()


def test_killed_between_the_rewind_and_the_recovery(node: Node) -> None:
    """It starts with the commits before; whoever has the recovery sends it again."""
    replaced = recovery(node.ledger, 3)
    node.disk.persist(a.Rewound(3), Saved())
    again = node.restarted()
    assert (again.ledger.height, again.ledger.epoch) == (2, 0)
    again.commit(replaced)
    last = again.restarted()
    assert (last.ledger.height, last.ledger.epoch) == (3, 1)
    last.disk.close()


def test_a_promise_of_a_round_that_was_rewound_is_forgotten(node: Node) -> None:
    promised = Saved(promised=(HEIGHT + 1, 4))
    node.disk.persist(a.Promised(HEIGHT + 1, 4), promised)
    assert node.disk.load_saved(node.ledger) == promised
    replaced = recovery(node.ledger, 5)
    node.disk.persist(a.Rewound(5), Saved())
    node.commit(replaced)
    assert node.disk.load_saved(node.ledger) == Saved()


@pytest.mark.parametrize("at", [2, HEIGHT])
def test_a_pruned_ledger_begins_after_its_snapshot(node: Node, at: int) -> None:
    before = (node.disk.folder / "ledger.log").stat().st_size
    node.rebase(at)
    assert (node.disk.folder / "ledger.log").stat().st_size < before
    node.commit(skip(node.ledger))
    again = node.restarted()
    assert same(again.ledger, node.ledger)
    assert (again.ledger.begin, again.ledger.height) == (at, HEIGHT + 1)
    assert [c.body.round for c in again.ledger.commits] == list(range(at + 1, HEIGHT + 2))
    again.disk.close()


def test_killed_between_the_snapshot_and_the_log(node: Node) -> None:
    """The snapshot is there, the log is still the long one: what it follows is passed over."""
    folder = node.disk.folder
    shutil.copy(folder / "ledger.log", folder / "long.log")
    node.rebase(4)
    node.disk.close()
    shutil.copy(folder / "long.log", folder / "ledger.log")
    again = Node(folder)
    assert same(again.ledger, node.ledger)
    again.commit(skip(again.ledger))
    last = again.restarted()
    assert same(last.ledger, again.ledger)
    assert [c.body.round for c in last.ledger.commits] == [5, 6, 7]
    last.disk.close()


def test_a_recovery_of_a_log_whose_pruning_was_cut_short(node: Node) -> None:
    folder = node.disk.folder
    shutil.copy(folder / "ledger.log", folder / "long.log")
    node.rebase(4)
    node.disk.close()
    shutil.copy(folder / "long.log", folder / "ledger.log")
    again = Node(folder)
    replaced = recovery(again.ledger, 6)
    again.disk.persist(a.Rewound(6), Saved())
    again.commit(replaced)
    last = again.restarted()
    assert same(last.ledger, again.ledger)
    assert (last.ledger.begin, last.ledger.height, last.ledger.epoch) == (4, 6, 1)
    last.disk.close()


def test_a_snapshot_that_the_authority_did_not_sign_is_refused(node: Node) -> None:
    unsigned = node.ledger.snapshot(4)
    node.ledger.rebase(unsigned)
    node.disk.persist(a.Rebased(unsigned, tuple(node.ledger.commits)), Saved())
    with pytest.raises(ConfigError, match="not signed by the run authority"):
        node.disk.load_ledger(node.signed, WITNESS)


def test_the_ledger_is_read_while_a_node_runs(node: Node) -> None:
    assert same(read_ledger(node.disk.folder, AUTHORITY), node.ledger)
    with (node.disk.folder / "ledger.log").open("ab") as log:
        log.write(b"a torn record")
    assert same(read_ledger(node.disk.folder, AUTHORITY), node.ledger)


def test_a_pause_is_remembered(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    assert not disk.paused
    for on in (True, True, False, False):
        disk.save_paused(on)
        assert disk.paused is on
    disk.close()
