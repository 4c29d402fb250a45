"""What only the run authority may do to a history: begin a new epoch, and stand for what is forgotten."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import (
    ANCHOR,
    RUN,
    blobs,
    chain,
    contributor,
    digest,
    flipped,
    key,
    members,
    peer,
    skip,
    votes,
)

from atoll.protocol import messages as m
from atoll.protocol.commits import Body, Commit, Kind, Snapshot
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import PeerId
from atoll.protocol.ledger import Genesis, Ledger
from atoll.protocol.roster import MEMBERS_MAX, Member
from atoll.protocol.wire.convert import decode, encode

NAMES = ("coordinator", "w1", "w2", "w3")
FEW = members("coordinator", "w1")
ME = key("w1")


def ledger(rounds: int) -> Ledger:
    """Updates in odd rounds, skips in even ones."""
    made = Ledger(Genesis(RUN, ANCHOR, members(*NAMES), peer("authority")))
    for round_ in range(1, rounds + 1):
        grow(made, kind=Kind.UPDATE if round_ % 2 else Kind.SKIP)
    return made


def grow(made: Ledger, names: tuple[str, ...] = NAMES, **changes: Any) -> Commit:
    """Append one more commit, with the votes of these."""
    body = skip(made, epoch=made.epoch, **changes)
    commit = Commit(body, 0, votes(body, names))
    made.append(commit, ME)
    return commit


def recovery(made: Ledger, height: int, by: str = "authority", **changes: Any) -> Commit:
    """What the authority signs to go on from the commit of round `height`."""
    body = skip(
        made,
        round=height + 1,
        parent=made.digest_of_round(height),
        before=made.members_of(height + 1),
        members=FEW,
        kind=Kind.RECOVERY,
        epoch=made.epoch + 1,
    )
    body = dataclasses.replace(body, **changes)
    return Commit(body, 0, votes(body, (by,)))


def state_of(made: Ledger) -> tuple[Any, ...]:
    return (made.height, made.head, made.members, made.updates, made.epoch, made.begin)


def refused(made: Ledger, commit: Commit) -> str:
    before = state_of(made)
    with pytest.raises(RemoteProtocolError) as caught:
        made.append(commit, ME)
    assert state_of(made) == before
    return str(caught.value)


def recounted(made: Ledger) -> int:
    return sum(commit.body.kind is Kind.UPDATE for commit in made.commits)


# ---- recovery -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_a_recovery_goes_on_from_the_last_commit(rounds: int) -> None:
    made = ledger(rounds)
    made.append(recovery(made, rounds), ME)
    assert state_of(made)[2:] == (FEW, (rounds + 1) // 2, 1, 0)
    assert made.height == rounds + 1
    grow(made, ("coordinator", "w1"), kind=Kind.UPDATE)
    assert made.epoch == 1
    assert made.updates == recounted(made)


@pytest.mark.parametrize("height", range(5))
def test_a_recovery_takes_the_place_of_what_came_after_its_parent(height: int) -> None:
    made = ledger(5)
    gone = [commit.body.digest for commit in made.commits[height:]]
    parent, commit = made.digest_of_round(height), recovery(made, height)
    assert made.replaces(commit)
    made.append(commit, ME)
    assert (made.height, made.epoch, made.members) == (height + 1, 1, FEW)
    assert made.commit(height + 1).body.parent == parent
    assert made.updates == recounted(made) == (height + 1) // 2
    assert all(made.members_after(digest_) is None for digest_ in gone)
    assert made.members_after(commit.body.digest) == FEW
    assert made.members_after(parent) == members(*NAMES)
    grow(made, ("coordinator", "w1"), kind=Kind.UPDATE)
    assert made.updates == recounted(made)


def test_a_recovery_may_be_recovered_from() -> None:
    made = ledger(3)
    first = recovery(made, 3)
    made.append(first, ME)
    grow(made, ("coordinator", "w1"))
    second = recovery(made, 2)
    made.append(second, ME)
    assert (made.height, made.epoch) == (3, 2)
    assert "does not begin a new epoch" in refused(made, recovery(made, 3, epoch=2))
    assert not made.replaces(first)
    assert "does not follow 3" in refused(made, recovery(made, 0, epoch=1))


@pytest.mark.parametrize(
    ("commit", "reason"),
    [
        (lambda made: recovery(made, 3, by="w1"), "is not the authority's"),
        (lambda made: recovery(made, 3, contributors=(contributor("w1"),)), "is not the authority's"),
        (lambda made: recovery(made, 3, blobs=blobs("mean")), "is not the authority's"),
        (lambda made: dataclasses.replace(recovery(made, 3), votes=()), "is not the authority's"),
        (lambda made: two_signatures(recovery(made, 3)), "is not the authority's"),
        (lambda made: dataclasses.replace(recovery(made, 3), view=1), "not signed by the authority"),
        (lambda made: in_its_name(recovery(made, 3, by="w1")), "not signed by the authority"),
        (lambda made: recovery(made, 3, epoch=0), "does not begin a new epoch"),
        (lambda made: recovery(made, 2, epoch=0), "does not follow 3"),
        (lambda made: recovery(made, 3, round=5), "does not follow 3"),
        (lambda made: recovery(made, 3, parent=digest("another")), "another parent"),
        (lambda made: recovery(made, 1, parent=digest("another")), "another parent"),
        (lambda made: recovery(made, 3, members=()), "names 0 members"),
        (lambda made: recovery(made, 3, run_id=digest("another run")), "another run"),
    ],
)
def test_any_other_recovery_is_refused(commit: Any, reason: str) -> None:
    assert reason in refused(ledger(3), commit(ledger(3)))


def two_signatures(commit: Commit) -> Commit:
    return dataclasses.replace(commit, votes=commit.votes * 2)


def in_its_name(commit: Commit) -> Commit:
    ((_, signature),) = commit.votes
    return dataclasses.replace(commit, votes=((peer("authority"), signature),))


def test_the_signature_of_a_recovery_is_not_the_vote_of_a_member() -> None:
    """Nor can a majority do what the authority alone may."""
    made = ledger(1)
    body = recovery(made, 1).body
    assert "not the authority's" in refused(made, Commit(body, 0, votes(body, NAMES)))
    plain = skip(made, members=FEW)
    assert "has no vote" in refused(made, Commit(plain, 0, votes(plain, ("authority",))))


def test_commits_of_another_epoch_do_not_follow() -> None:
    made = ledger(2)
    old = Commit(skip(made), 0, votes(skip(made), NAMES))
    late = skip(made, epoch=1)
    assert "is of epoch 1, not 0" in refused(made, Commit(late, 0, votes(late, NAMES)))
    made.append(recovery(made, 2), ME)
    assert "does not follow" in refused(made, old)
    old_epoch = skip(made, epoch=0)
    assert "is of epoch 0, not 1" in refused(
        made, Commit(old_epoch, 0, votes(old_epoch, ("w1", "coordinator")))
    )


def test_a_run_without_an_authority_has_no_recovery() -> None:
    made = chain(2, *NAMES)
    assert "not the authority's" in refused(made, recovery(made, 2))
    ((_, signature),) = recovery(made, 2).votes
    nameless = dataclasses.replace(recovery(made, 2), votes=((PeerId(""), signature),))
    assert "not signed by the authority" in refused(made, nameless)


def test_what_a_peer_of_an_older_epoch_has_to_hear() -> None:
    made = ledger(4)
    assert made.first_after(0) == 5  # nothing yet
    made.append(recovery(made, 2), ME)
    grow(made, ("coordinator", "w1"))
    assert made.first_after(0) == 3
    assert made.first_after(1) == 5
    made.append(recovery(made, 4), ME)
    assert (made.first_after(0), made.first_after(1), made.first_after(2)) == (3, 5, 6)
    made.rebase(signed(made, 3))
    assert (made.first_after(0), made.first_after(1), made.first_after(2)) == (3, 5, 6)
    made.rebase(signed(made, 5))
    assert (made.first_after(0), made.first_after(1), made.first_after(2)) == (5, 5, 6)


# ---- snapshots ----------------------------------------------------------------------------------


def signed(made: Ledger, round_: int, by: str = "authority", **changes: Any) -> Snapshot:
    """What somebody says a ledger had come to."""
    snapshot = dataclasses.replace(made.snapshot(round_), **changes)
    return dataclasses.replace(snapshot, signature=key(by).sign(snapshot.message(made.genesis.run_id)))


@pytest.mark.parametrize("at", range(1, 6))
def test_a_ledger_goes_on_from_its_own_snapshot(at: int) -> None:
    made, whole = ledger(5), ledger(5)
    snapshot = signed(made, at)
    made.check_snapshot(snapshot, ME)
    made.rebase(snapshot)
    assert made.begin == at
    assert state_of(made)[:5] == state_of(whole)[:5]
    assert made.commits == whole.commits[at:]
    assert made.members_after(whole.digest_of_round(at)) == members(*NAMES)
    assert all(made.members_after(whole.digest_of_round(round_)) is None for round_ in range(at))
    assert made.digest_of_round(at) == whole.digest_of_round(at)
    assert made.members_of(at + 1) == whole.members_of(at + 1)
    assert made.voters(6) == whole.voters(6)
    assert state_of(made)[:5] == state_of(whole)[:5]
    for other in (made, whole):
        grow(other, kind=Kind.UPDATE)
    assert state_of(made)[:5] == state_of(whole)[:5]


def test_a_ledger_that_is_behind_jumps() -> None:
    ahead, behind = ledger(5), ledger(2)
    behind.rebase(signed(ahead, 4))
    assert (behind.height, behind.begin, behind.updates) == (4, 4, 2)
    assert behind.head == ahead.digest_of_round(4)
    assert behind.commits == []
    behind.append(ahead.commit(5), ME)
    assert state_of(behind)[:5] == state_of(ahead)[:5]


def test_a_ledger_of_another_history_keeps_nothing_of_it() -> None:
    ours, theirs = ledger(5), ledger(2)
    theirs.append(recovery(theirs, 2), ME)
    grow(theirs, ("coordinator", "w1"))
    ours.rebase(signed(theirs, 3))
    assert ours.commits == []
    assert (ours.height, ours.epoch, ours.head) == (3, 1, theirs.digest_of_round(3))
    assert ours.members == FEW
    ours.append(theirs.commit(4), ME)
    assert ours.head == theirs.head


def test_snapshots_follow_one_another() -> None:
    made, whole = ledger(6), ledger(6)
    made.rebase(signed(made, 2))
    assert made.snapshot(4) == whole.snapshot(4)
    made.rebase(signed(made, 4))
    assert (made.begin, made.height, made.updates) == (4, 6, 3)
    assert made.snapshot(6) == whole.snapshot(6)


@pytest.mark.parametrize(
    "changes",
    [
        {"round": 4},
        {"epoch": 1},
        {"head": digest("another")},
        {"updates": 3},
        {"members": FEW},
        {"members": (*members(*NAMES), Member(PeerId(""), weight_from=0))},
        {"members": tuple(dataclasses.replace(who, missed=1) for who in members(*NAMES))},
        {"signature": b""},
        {"signature": bytes(64)},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_a_snapshot_that_says_anything_else_is_refused(changes: dict[str, Any]) -> None:
    made = ledger(5)
    forged = dataclasses.replace(signed(made, 3), **changes)
    with pytest.raises(RemoteProtocolError, match="not signed by the run authority"):
        made.check_snapshot(forged, ME)


@given(st.integers(0))
def test_a_flipped_bit_of_a_snapshots_signature_is_found(bit: int) -> None:
    made = ledger(1)
    sound = signed(made, 1)
    with pytest.raises(RemoteProtocolError, match="not signed"):
        made.check_snapshot(dataclasses.replace(sound, signature=flipped(sound.signature, bit)), ME)


def test_only_the_authority_of_this_run_signs_snapshots() -> None:
    made = ledger(3)
    with pytest.raises(RemoteProtocolError, match="not signed"):
        made.check_snapshot(signed(made, 3, by="coordinator"), ME)
    elsewhere = Ledger(dataclasses.replace(made.genesis, run_id=digest("another run")))
    with pytest.raises(RemoteProtocolError, match="not signed"):
        elsewhere.check_snapshot(signed(made, 3), ME)
    nobodys = chain(3, *NAMES)
    with pytest.raises(RemoteProtocolError, match="not signed"):
        nobodys.check_snapshot(signed(nobodys, 3), ME)


@pytest.mark.parametrize("count", [0, MEMBERS_MAX + 1])
def test_a_snapshot_of_nobody_or_too_many_is_refused(count: int) -> None:
    made = ledger(1)
    crowd = signed(made, 1, members=(Member(peer("w1")),) * count)
    with pytest.raises(RemoteProtocolError, match=f"a snapshot of {count} members"):
        made.check_snapshot(crowd, ME)


def test_what_is_forgotten_can_be_neither_replaced_nor_sent() -> None:
    made, whole = ledger(5), ledger(5)
    early, at_base, later = (recovery(whole, height) for height in (1, 3, 4))
    made.rebase(signed(made, 4))
    assert not made.replaces(early)
    assert not made.replaces(at_base)
    assert made.replaces(later)
    assert "does not follow 5" in refused(made, early)
    assert made.since(1, 1 << 20) == made.since(5, 1 << 20) == (whole.commit(5),)
    assert made.since(6, 1 << 20) == ()
    made.append(later, ME)
    assert (made.height, made.epoch, made.members) == (5, 1, FEW)
    assert made.updates == 2


# ---- members ------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [2, 1], ids=["read with the parent known", "read before it was known"])
def test_members_are_those_of_the_ledger(height: int) -> None:
    """A body does not say who was a member before: read by false members, it says false ones.

    Genuine commits come with a snapshot that nobody signed, which says that their parent had other members.
    """
    sound, victim = chain(3, *NAMES), chain(height, *NAMES)
    false = tuple(dataclasses.replace(who, weight_from=99) for who in sound.members)
    forged = Snapshot(1, 0, sound.digest_of_round(2), 0, false)
    read = decode(encode(m.Commits(4, sound.since(3, 0), 3, forged)), victim.members_after)
    assert isinstance(read, m.Commits)
    if height == 1:
        victim.append(sound.commit(2), ME)
    (commit,) = read.commits
    if commit.body.members != members(*NAMES):
        assert commit.body.digest == sound.head
        assert "other members" in refused(victim, commit)
    else:
        victim.append(commit, ME)
    assert victim.members == members(*NAMES)


def test_a_body_read_by_other_members_is_refused() -> None:
    made = ledger(2)
    others = tuple(dataclasses.replace(who, missed=1) for who in made.members)
    body = dataclasses.replace(skip(made), before=others, members=others)
    assert body.digest == skip(made).digest
    assert "other members" in refused(made, Commit(body, 0, votes(body, NAMES)))


# ---- a committee --------------------------------------------------------------------------------


def test_only_the_committee_votes() -> None:
    crowd = [f"w{number}" for number in range(9)]
    made = Ledger(Genesis(RUN, ANCHOR, members(*crowd), peer("authority"), voters_max=4))
    voters = [name for name in crowd if peer(name) in made.voters(1)]
    others = [name for name in crowd if name not in voters]
    assert len(voters) == 4
    body: Body = skip(made)
    assert "2 votes, 3 are a majority" in refused(made, Commit(body, 0, votes(body, voters[:2])))
    assert "has no vote" in refused(made, Commit(body, 0, votes(body, (*voters[:3], others[0]))))
    assert "more votes than members" in refused(made, Commit(body, 0, votes(body, (*voters, others[0]))))
    made.append(Commit(body, 0, votes(body, voters[1:])), ME)
    assert made.voters(2) != made.voters(1)
