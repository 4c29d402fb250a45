"""Bodies, commits and snapshots as bytes: small, of one encoding, and about members that the reader knows."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_samples import (
    RUN,
    chain,
    contributor,
    digest,
    key,
    member,
    members,
    peer,
    skip,
    terms,
    update,
    votes,
)
from wire_strategies import U32, Messages, Pool

from atoll.protocol import messages as m
from atoll.protocol.commits import (
    BODY_BYTES_MAX,
    Body,
    Commit,
    Contributor,
    Kind,
    Rejection,
    Snapshot,
    UnknownParent,
    body_from_bytes,
    commit_from_bytes,
    commit_to_wire,
    round_of,
    snapshot_from_bytes,
    snapshot_to_wire,
)
from atoll.protocol.duties.chain import COMMITS_BYTES_MAX
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.manifest import TOKENS_MAX
from atoll.protocol.roster import Member
from atoll.protocol.wire import messages_pb2 as wire
from atoll.protocol.wire.convert import decode, decode_with_epoch, encode

NAMES = ("coordinator", "w1", "w2", "w3")
TERMS = terms(*NAMES)
BODY = update(TERMS, "w1", "w3", rejected=(Rejection(peer("w2"), "late"),))
IN_ORDER = sorted(NAMES, key=peer)
COMMIT = Commit(BODY, 0, votes(BODY, IN_ORDER[:3]))
RANDOM = Messages(Pool())


def rosters(parent: Digest) -> tuple[Member, ...] | None:
    return TERMS.members if parent == RUN else None


# ---- bodies -------------------------------------------------------------------------------------


def written(change: Callable[[wire.Body], Any]) -> bytes:
    """The sample's bytes after a change to their content."""
    body = wire.Body.FromString(BODY.encoded)
    change(body)
    return body.SerializeToString(deterministic=True)


def test_the_sample_is_read() -> None:
    again = body_from_bytes(written(lambda body: None), rosters)
    assert again == BODY
    assert again.before == again.members == TERMS.members


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b.contributors.runs.append(5), "runs beyond 4 members"),
        (lambda b: b.contributors.runs.__setitem__(0, U32), "runs beyond 4 members"),
        (lambda b: b.contributors.runs.extend([0] * 9), "runs beyond 4 members"),
        (lambda b: b.contributors.runs.append(0), "another encoding"),
        (lambda b: b.contributors.tokens.pop(), "a column of 0 values for 2 contributors"),
        (lambda b: b.contributors.steps.extend([1, 1]), "a column of 3 values for 2 contributors"),
        (lambda b: b.contributors.steps.append(10), "another encoding"),  # one value does for all
        (lambda b: b.contributors.weights.append(1000), "another encoding"),  # as the tokens
        (lambda b: b.contributors.weights.extend([1, 2, 3]), "a column of 3 values for 2 contributors"),
        (lambda b: b.ClearField("contributors"), "another encoding"),
        (lambda b: b.contributors.ClearField("runs"), "values for 0 contributors"),
        (lambda b: b.rejected[0].places.append(4), "place 4 of 4 members"),
        (lambda b: b.rejected[0].places.extend([1] * 4), "more rejections than members"),
        (lambda b: b.rejected[0].places.append(b.rejected[0].places[0]), "another encoding"),
        (lambda b: b.rejected.add(reason="nobody"), "another encoding"),
        (lambda b: b.rejected.add(reason="a second reason", places=b.rejected[0].places), "another encoding"),
        (lambda b: b.members.left.append(4), "place 4 of 4 members"),
        (lambda b: b.members.left.extend([1, 1]), "another encoding"),
        (lambda b: b.members.left.extend([2, 1]), "another encoding"),
        (lambda b: b.members.changed.add(peer=TERMS.peers[0], role=9), "role 9 is unknown"),
    ],
)
def test_a_body_whose_places_are_wrong_is_refused(change: Callable[[wire.Body], Any], reason: str) -> None:
    raw = written(change)
    with pytest.raises(RemoteProtocolError, match=reason):
        body_from_bytes(raw, rosters)


@given(st.sets(st.integers(0, 11)), st.booleans())
def test_contributors_are_named_in_runs(places: set[int], alike: bool) -> None:
    """Most members contributed, and did what they were assigned: that costs a few bytes for all of them."""
    everybody = crowd(12)
    given_ = terms(members=everybody, parts=1)
    contributors = tuple(
        Contributor(everybody[place].peer, 1000, 10, 1000 if alike else 1000 - place)
        for place in sorted(places)
    )
    body = update(given_, contributors=contributors)
    assert body_from_bytes(body.encoded, lambda parent: everybody) == body
    rows = wire.Body.FromString(body.encoded).contributors
    assert len(rows.tokens) == min(1, len(places))
    assert len(rows.weights) == (0 if alike or places <= {0} else len(places))
    assert sum(rows.runs) == max(places, default=-1) + 1


def test_a_change_that_changes_nothing_is_another_encoding() -> None:
    first = TERMS.members[0]
    raw = written(
        lambda b: b.members.changed.add(peer=first.peer, role=int(first.role), weight_from=first.weight_from)
    )
    with pytest.raises(RemoteProtocolError, match="another encoding"):
        body_from_bytes(raw, rosters)


def test_a_body_after_a_commit_that_is_not_known_can_be_neither_read_nor_refused() -> None:
    with pytest.raises(UnknownParent, match=RUN):
        body_from_bytes(BODY.encoded, lambda parent: None)


@pytest.mark.parametrize("tokens", [1, 1001, TOKENS_MAX, (1 << 63) - 1])
def test_whatever_a_leader_takes_can_be_written(tokens: int) -> None:
    """A member says how much it processed, and its leader has to put that into the commit."""
    many = (contributor("w1", tokens), contributor("w3"))
    body = update(TERMS, "w1", "w3", contributors=tuple(sorted(many, key=lambda c: c.peer)))
    assert body_from_bytes(body.encoded, rosters).contributors == body.contributors


# ---- bounded ------------------------------------------------------------------------------------


def crowd(count: int) -> tuple[Member, ...]:
    return tuple(
        dataclasses.replace(member("w1"), peer=PeerId(peer("w1")[:-4] + f"{n:04}")) for n in range(count)
    )


def test_a_commit_costs_a_few_bytes_for_each_contributor_and_none_for_the_others() -> None:
    sizes = {}
    for count in (100, 4000):
        everybody = crowd(count)
        given_ = terms(members=everybody, parts=1)
        for some in (0, 50):
            contributors = tuple(Contributor(who.peer, 1000, 10, 1000) for who in everybody[:some])
            body = update(given_, contributors=contributors)
            sizes[count, some] = len(body.encoded)
    assert sizes[4000, 0] == sizes[100, 0] < 200
    assert sizes[4000, 50] == sizes[100, 50] < 200 + 50 * 8


def test_a_vote_costs_its_signature_and_a_place() -> None:
    everybody = crowd(4000)
    body = skip(chain(0, "w1"), before=everybody, members=everybody)
    one, ten = (
        len(
            commit_to_wire(
                Commit(body, 0, tuple((w.peer, bytes(64)) for w in everybody[:n]))
            ).SerializeToString()
        )
        for n in (1, 10)
    )
    assert (ten - one) / 9 <= 68


@pytest.mark.parametrize(("names", "rounds"), [(("w1",), 600), (("coordinator", "w1", "w2"), 400)])
def test_what_fits_in_a_message_by_its_bytes_can_be_read(names: tuple[str, ...], rounds: int) -> None:
    """However small commits are: else whoever was away for long never catches up."""
    ledger, other = chain(rounds, *names), chain(0, *names)
    while other.height < ledger.height:
        some = ledger.since(other.height + 1, COMMITS_BYTES_MAX)
        message = decode(encode(m.Commits(rounds, some, rounds)), other.members_after)
        assert isinstance(message, m.Commits)
        assert message.commits == some
        for commit in message.commits:
            other.append(commit, key("w1"))
    assert other.head == ledger.head


# ---- commits ------------------------------------------------------------------------------------


def commit_bytes(change: Callable[[wire.Commit], Any], commit: Commit = COMMIT) -> bytes:
    message = commit_to_wire(commit)
    change(message)
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.voters.append(0), "different numbers"),
        (lambda c: c.voters.append(1), "place 4 of 4 members"),
        (lambda c: c.signatures.append(bytes(64)), "different numbers"),
        (lambda c: c.voters.extend([0, 0]), "5 of 4 members"),
        (lambda c: c.voters.__setitem__(0, U32), f"place {U32} of 4 members"),
        (lambda c: plain(c, b"\xff"), "not a commit body"),
        (lambda c: plain(c, b""), "32 bytes"),
        (lambda c: setattr(c, "packed", b"\xff" * 9), "cannot be unpacked"),
        (lambda c: setattr(c, "packed", zlib.compress(BODY.encoded)[:-9]), "body"),
        (lambda c: setattr(c, "packed", zlib.compress(BODY.encoded + b"\xa0\x06\x01")), "another encoding"),
        (lambda c: setattr(c, "packed", zlib.compress(bytes(9 << 20))), f"at most {BODY_BYTES_MAX} bytes"),
    ],
)
def test_a_commit_of_wrong_places_is_refused(change: Callable[[wire.Commit], Any], reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        commit_from_bytes(commit_bytes(change), rosters)


def plain(commit: wire.Commit, body: bytes) -> None:
    commit.packed, commit.body = b"", body


def test_bytes_that_are_none_are_refused() -> None:
    for reader in (lambda raw: commit_from_bytes(raw, rosters), snapshot_from_bytes):
        with pytest.raises(RemoteProtocolError, match=r"not a (commit|snapshot)"):
            reader(b"\xff")


@pytest.mark.parametrize("count", [0, 400])
def test_a_body_travels_plain_or_packed_whichever_is_shorter(count: int) -> None:
    everybody = crowd(400)
    some = tuple(Contributor(w.peer, 1000 + at, 10, 1000) for at, w in enumerate(everybody[:count]))
    parent = digest("a parent")
    body = update(terms(members=everybody, parts=1, parent=parent), contributors=some, blobs=())
    commit = Commit(body, 0, ((everybody[0].peer, bytes(64)),))
    message = commit_to_wire(commit)
    assert (message.body == body.encoded) == (message.packed == b"") == (count == 0)
    raw = message.SerializeToString()
    assert len(raw) <= len(body.encoded) + 80
    assert commit_from_bytes(raw, lambda parent: everybody) == commit
    assert round_of(raw) == body.round == 1


def test_a_recovery_names_the_authority_and_comes_back() -> None:
    body = dataclasses.replace(BODY, kind=Kind.RECOVERY, contributors=(), blobs=(), epoch=7)
    commit = Commit(body, 0, votes(body, ("authority",)))
    raw = commit_to_wire(commit).SerializeToString()
    assert commit_from_bytes(raw, rosters) == commit
    unsigned = commit_bytes(lambda c: c.signatures.pop(), commit)
    with pytest.raises(RemoteProtocolError, match="different numbers"):
        commit_from_bytes(unsigned, rosters)


@given(RANDOM.snapshots)
def test_a_snapshot_comes_back(snapshot: Snapshot) -> None:
    assert snapshot_from_bytes(snapshot_to_wire(snapshot).SerializeToString()) == snapshot


@settings(max_examples=60)
@given(RANDOM.snapshots, RANDOM.snapshots)
def test_two_snapshots_are_signed_alike_only_if_they_are_equal(one: Snapshot, other: Snapshot) -> None:
    one, other = (dataclasses.replace(snapshot, signature=b"") for snapshot in (one, other))
    assert (one.message(RUN) == other.message(RUN)) == (one == other)
    assert one.message(RUN) != one.message(digest("another run"))


# ---- messages about what is not known -----------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [m.Propose(7, 0, BODY), m.Promise(7, 2, (1, BODY))],
    ids=lambda message: type(message).__name__,
)
def test_a_message_about_an_unknown_parent_is_from_elsewhere(message: m.Message) -> None:
    raw = encode(message, 3)
    assert decode_with_epoch(raw, rosters) == (3, message)
    assert decode_with_epoch(raw, lambda parent: None) == (3, m.Elsewhere(7))
    assert decode(raw) == m.Elsewhere(7)


def test_a_promise_of_nothing_needs_no_ledger() -> None:
    assert decode(encode(m.Promise(7, 2))) == m.Promise(7, 2)


def test_commits_are_read_as_far_as_they_are_known() -> None:
    """Each gives the members by which the next is read, so only the first must be known."""
    ledger = chain(4, *NAMES)
    everything = m.Commits(5, tuple(ledger.commits), 4)
    assert decode(encode(everything), chain(0, *NAMES).members_after) == everything
    assert decode(encode(everything)) == m.Commits(5, (), 4)
    gap = m.Commits(5, (ledger.commit(1), ledger.commit(4)), 4)
    assert decode(encode(gap), chain(0, *NAMES).members_after) == m.Commits(5, (ledger.commit(1),), 4)


def test_a_snapshot_tells_the_members_of_the_commits_after_it() -> None:
    ledger = chain(4, *NAMES)
    message = m.Commits(5, tuple(ledger.commits[2:]), 4, ledger.snapshot(2))
    assert decode(encode(message)) == message
    assert decode(encode(dataclasses.replace(message, snapshot=None))) == m.Commits(5, (), 4)
    assert decode(encode(dataclasses.replace(message, snapshot=ledger.snapshot(1)))) == m.Commits(
        5, (), 4, ledger.snapshot(1)
    )


def test_members_that_change_are_read_in_the_next_commit() -> None:
    ledger = chain(1, *NAMES)
    for names, following in ((NAMES, ("w1", "w4")), (("w1", "w4"), NAMES)):
        body: Body = skip(ledger, members=members(*following))
        ledger.append(Commit(body, 0, votes(body, names)), key("w1"))
    message = m.Commits(4, tuple(ledger.commits), 3)
    read = decode(encode(message), chain(0, *NAMES).members_after)
    assert isinstance(read, m.Commits)
    assert [c.body.members for c in read.commits] == [c.body.members for c in ledger.commits]
