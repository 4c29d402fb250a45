"""The wire: every message comes back as it was, and bytes raise nothing but RemoteProtocolError."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_samples import RUN, blobs, chain, digest, key, member, peer, read, skip, terms, update, votes
from wire_strategies import Messages, Pool

from atoll.protocol import messages as m
from atoll.protocol.commits import (
    BODY_BYTES_MAX,
    Body,
    Commit,
    Contributor,
    Snapshot,
    body_from_bytes,
    commit_from_bytes,
    commit_to_wire,
    snapshot_from_bytes,
)
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import REASON_MAX, Digest, PeerId
from atoll.protocol.roster import MEMBERS_MAX, VOTERS_MAX, Member, Role
from atoll.protocol.wire import messages_pb2 as wire
from atoll.protocol.wire.convert import (
    COMMITS_MAX,
    MESSAGE_BYTES_MAX,
    ROUND_MAX,
    decode,
    encode,
)

RANDOM = Messages(Pool())
BEFORE = RANDOM.pool.before


def rosters(parent: Digest) -> tuple[Member, ...]:
    """As if every round had the same members: what the samples are about."""
    return BEFORE


TERMS = terms("w1", "w2", "w3", "coordinator")
BODY = update(TERMS, "w1", "w2", "w3")
COMMIT = Commit(BODY, 0, votes(BODY, ("w1", "w2", "w3")))
SAMPLES: tuple[m.Message, ...] = (
    m.Offer(1, 0, digest("anchor"), 1000, 10, blobs("w1")),
    m.Plan(1, 0, 1, BODY.contributors, (m.Column(0, blobs("w1")),)),
    m.Held(1, 0, 2, (peer("w1"), peer("w2"))),
    m.Propose(1, 0, BODY, (peer("w1"),)),
    m.Promise(1, 2, (1, BODY)),
    m.Commits(2, (COMMIT,), 1),
    m.Commits(2, (), 1, Snapshot(1, 1, COMMIT.body.digest, 1, BODY.members, bytes(64))),
    m.Seal(2, 1, bytes(64)),
    m.Vote(1, 0, BODY.digest, bytes(64)),
    m.State(1, digest("anchor"), blobs("state", 2)),
    m.Join(1, Role.WORKER, bytes(64)),
    m.Refuse(1, "no"),
)


# ---- there and back -----------------------------------------------------------------------------


def test_the_strategies_know_every_kind() -> None:
    kinds = {kind.__name__ for kind in typing.get_args(m.Message)}
    assert set(RANDOM.kinds) == kinds - {"Elsewhere"}  # read, never written
    assert len(RANDOM.kinds) == len(wire.Message.DESCRIPTOR.oneofs[0].fields)


@pytest.mark.parametrize("kind", sorted(RANDOM.kinds))
def test_a_message_comes_back(kind: str) -> None:
    @settings(max_examples=25)
    @given(RANDOM.kinds[kind])
    def comes_back(message: m.Message) -> None:
        assert type(message).__name__ == kind
        assert decode(encode(message), rosters) == message

    comes_back()


@settings(max_examples=30)
@given(RANDOM.bodies)
def test_a_body_is_canonical(body: Body) -> None:
    again = body_from_bytes(body.encoded, rosters)
    assert again == body
    assert again.digest == body.digest
    assert again.encoded == dataclasses.replace(body).encoded


@settings(max_examples=30)
@given(RANDOM.bodies, RANDOM.bodies)
def test_two_bodies_have_one_digest_only_if_they_are_equal(one: Body, other: Body) -> None:
    assert (one == other) == (one.digest == other.digest)


@settings(max_examples=30)
@given(RANDOM.commits)
def test_a_commit_comes_back(commit: Commit) -> None:
    assert commit_from_bytes(commit_to_wire(commit).SerializeToString(), rosters) == commit


# ---- any bytes ----------------------------------------------------------------------------------


@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused(raw: bytes) -> None:
    read(decode, raw, rosters)
    read(commit_from_bytes, raw, rosters)
    read(body_from_bytes, raw, rosters)
    read(snapshot_from_bytes, raw)


@settings(max_examples=300)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4),
    st.integers(0),
    st.binary(max_size=6),
)
def test_mutated_messages_are_read_or_refused(
    message: m.Message, changes: list[tuple[int, int]], cut: int, extra: bytes
) -> None:
    raw = bytearray(encode(message))
    for at, value in changes:
        raw[at % len(raw)] = value
    read(decode, bytes(raw), rosters)
    read(decode, bytes(raw[: cut % len(raw)]) + extra, rosters)


@settings(max_examples=300)
@given(
    st.sampled_from([BODY.encoded, commit_to_wire(COMMIT).SerializeToString()]),
    st.integers(0),
    st.binary(max_size=3),
)
def test_damaged_commits_are_never_the_same(raw: bytes, at: int, piece: bytes) -> None:
    at %= len(raw)
    damaged = raw[:at] + piece + raw[at + len(piece) + 1 :]
    body, commit = read(body_from_bytes, damaged, rosters), read(commit_from_bytes, damaged, rosters)
    assert body is None or body.encoded == damaged
    if damaged != raw:
        assert body != BODY
    assert commit is None or isinstance(commit, Commit)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_truncated_message_is_not_taken_for_the_whole(sample: m.Message) -> None:
    raw = encode(sample)
    assert all(read(decode, raw[:size], rosters) != sample for size in range(len(raw)))


# ---- other encodings of the same thing ----------------------------------------------------------


def test_a_body_in_another_encoding_is_refused() -> None:
    raw = BODY.encoded
    unknown_field = raw + b"\xa0\x06\x01"
    kind_again = raw + wire.Body(kind=wire.UPDATE, round=BODY.round).SerializeToString()
    head = wire.Body(run_id=bytes.fromhex(RUN)).SerializeToString()
    assert raw.startswith(head)
    reordered = raw[len(head) :] + head
    default_written = raw + b"\x20\x00"  # fragment = 0
    overlong = raw.replace(b"\x10\x01", b"\x10\x81\x00", 1)  # round = 1, in two bytes
    for other in (unknown_field, kind_again, reordered, default_written, overlong):
        assert other != raw
        wire.Body.FromString(other)
        with pytest.raises(RemoteProtocolError, match="another encoding"):
            body_from_bytes(other, rosters)


def test_an_envelope_of_other_bytes_cannot_carry_a_body_under_its_digest() -> None:
    propose = wire.Message(round=1, propose=wire.Propose(view=0, body=BODY.encoded + b"\xa0\x06\x01"))
    with pytest.raises(RemoteProtocolError, match="another encoding"):
        decode(propose.SerializeToString(), rosters)


def test_unknown_kinds_of_bodies_and_members_are_refused() -> None:
    body = wire.Body.FromString(BODY.encoded)
    body.kind = 9
    with pytest.raises(RemoteProtocolError, match="not a commit body"):
        body_from_bytes(body.SerializeToString(), rosters)
    body = wire.Body.FromString(BODY.encoded)
    body.members.changed.add(peer="somebody", role=9)
    with pytest.raises(RemoteProtocolError, match="role 9 is unknown"):
        body_from_bytes(body.SerializeToString(), rosters)


# ---- bounds -------------------------------------------------------------------------------------


def crowd(size: int) -> list[str]:
    return [str(number) for number in range(size)]


def refs(size: int) -> list[wire.BlobRef]:
    return [wire.BlobRef(digest=bytes(32), size=1)] * size


def people(size: int) -> list[wire.Contributor]:
    return [wire.Contributor(peer="w")] * size


def crowd_of(size: int) -> list[wire.Member]:
    return [wire.Member(peer="w")] * size


def snapshot(**fields: Any) -> wire.Snapshot:
    return wire.Snapshot(head=bytes(32), **fields)


TOO_MANY = MEMBERS_MAX + 1
ANCHOR_BYTES = bytes(32)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (wire.Message(), "no kind"),
        (wire.Message(round=1), "no kind"),
        (wire.Message(round=ROUND_MAX + 1, alive=wire.Alive()), "absurd"),
        (wire.Message(offer=wire.Offer(anchor=ANCHOR_BYTES, parts=refs(TOO_MANY))), f"{TOO_MANY} blobs"),
        (wire.Message(offer=wire.Offer(anchor=b"short")), "32 bytes"),
        (wire.Message(offer=wire.Offer(anchor=ANCHOR_BYTES, parts=[wire.BlobRef(digest=b"x")])), "32 bytes"),
        (wire.Message(held=wire.Held(peers=crowd(TOO_MANY))), f"{TOO_MANY} peers"),
        (wire.Message(propose=wire.Propose(body=BODY.encoded, holders=crowd(TOO_MANY))), f"{TOO_MANY} peers"),
        (wire.Message(cut=wire.Cut(contributors=people(TOO_MANY))), f"{TOO_MANY} contributors"),
        (wire.Message(plan=wire.Plan(participants=people(TOO_MANY))), f"{TOO_MANY} contributors"),
        (wire.Message(plan=wire.Plan(columns=[wire.Column()] * TOO_MANY)), f"{TOO_MANY} columns"),
        (wire.Message(plan=wire.Plan(columns=[wire.Column(blobs=refs(TOO_MANY))])), f"{TOO_MANY} blobs"),
        (wire.Message(state=wire.State(anchor=ANCHOR_BYTES, blobs=refs(TOO_MANY))), f"{TOO_MANY} blobs"),
        (wire.Message(commits=wire.Commits(commits=[wire.Commit()] * (COMMITS_MAX + 1))), "257 commits"),
        (wire.Message(commits=wire.Commits(commits=[wire.Commit()])), "32 bytes"),
        (wire.Message(promise=wire.Promise(accepted=True)), "32 bytes"),
        (wire.Message(join=wire.Join(role=7)), "role 7"),
        (wire.Message(vote=wire.Vote(body_digest=b"")), "32 bytes"),
        (wire.Message(reduced=wire.Reduced()), "32 bytes"),
        (wire.Message(commits=wire.Commits(snapshot=wire.Snapshot())), "32 bytes"),
        (
            wire.Message(commits=wire.Commits(snapshot=snapshot(members=crowd_of(TOO_MANY)))),
            f"{TOO_MANY} members",
        ),
        (wire.Message(commits=wire.Commits(snapshot=snapshot(members=[wire.Member(role=7)]))), "role 7"),
    ],
)
def test_what_is_beyond_bounds_is_refused(message: wire.Message, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        decode(message.SerializeToString(), rosters)


def test_exactly_the_bound_is_read() -> None:
    held = decode(wire.Message(held=wire.Held(peers=crowd(MEMBERS_MAX))).SerializeToString())
    assert len(held.peers) == MEMBERS_MAX
    assert decode(encode(m.AskCommits(ROUND_MAX))).round == ROUND_MAX


def test_an_oversized_message_is_not_even_parsed() -> None:
    with pytest.raises(RemoteProtocolError, match=str(MESSAGE_BYTES_MAX + 1)):
        decode(bytes(MESSAGE_BYTES_MAX + 1))
    with pytest.raises(RemoteProtocolError, match=str(BODY_BYTES_MAX + 1)):
        body_from_bytes(bytes(BODY_BYTES_MAX + 1), rosters)


@pytest.mark.parametrize("kind", [m.Waiting, m.Leave, m.Refuse])
def test_a_reason_is_one_printable_line(kind: Any) -> None:
    words = "\x1b[2Jno\r\nyes\x00\u202e" + "x" * 10_000
    message = kind(1, 0, words) if kind is m.Waiting else kind(1, words)
    reason = decode(encode(message)).reason
    assert len(reason) == REASON_MAX
    assert reason.isprintable()
    assert reason.startswith("?[2Jno??yes")


def test_a_message_of_a_full_house_fits() -> None:
    """The commit of a run with as many members as may be can still travel, even if all of them changed."""
    everybody = tuple(dataclasses.replace(member("w1"), peer=somebody(n)) for n in range(MEMBERS_MAX))
    after = tuple(dataclasses.replace(who, missed=1, weight_from=1 << 40) for who in everybody)
    contributors = tuple(Contributor(who.peer, 1 << 40, 1000, 1 << 39) for who in everybody)
    body = skip(chain(0, "w1"), before=everybody, members=after, contributors=contributors)
    signatures = tuple((who.peer, bytes(64)) for who in everybody[: VOTERS_MAX // 2 + 1])
    raw = encode(m.Commits(1, (Commit(body, 0, signatures),), 1))
    read_again = decode(raw, lambda parent: everybody).commits[0].body
    assert (read_again, read_again.members) == (body, after)


def somebody(number: int) -> PeerId:
    return PeerId(key("w1").peer[:-4] + f"{number:04}")
