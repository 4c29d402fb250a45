"""The ledger takes the next commit of a majority and nothing else, and says why."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import ANCHOR, RUN, chain, digest, flipped, key, member, members, peer, skip, votes

from atoll.protocol.commits import Body, Commit, Kind, vote_message
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import PeerId
from atoll.protocol.ledger import Genesis, Ledger
from atoll.protocol.proofs import Place
from atoll.protocol.roster import MEMBERS_MAX, Member, majority

NAMES = ("coordinator", "w1", "w2", "w3")
ME = key("w1")


def refused(ledger: Ledger, commit: Commit) -> str:
    """Why the ledger does not take a commit; it stays as it was."""
    before = (ledger.height, ledger.head, ledger.members, ledger.updates)
    with pytest.raises(RemoteProtocolError) as caught:
        ledger.append(commit, ME)
    assert (ledger.height, ledger.head, ledger.members, ledger.updates) == before
    return str(caught.value)


def signed(ledger: Ledger, names: tuple[str, ...] = NAMES, view: int = 0, **changes: Any) -> Commit:
    """The next commit, with these votes, after `changes` to its body."""
    body = skip(ledger, **changes)
    return Commit(body, view, votes(body, names, view))


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_a_chain_of_majorities_is_taken(rounds: int) -> None:
    ledger = chain(rounds, *NAMES)
    assert ledger.height == rounds
    assert ledger.head == (ledger.commit(rounds).body.digest if rounds else RUN)
    for round_ in range(2, rounds + 1):
        assert ledger.commit(round_).body.parent == ledger.commit(round_ - 1).body.digest


@pytest.mark.parametrize("names", [NAMES[:3], NAMES[1:], NAMES], ids=len)
@pytest.mark.parametrize("view", [0, 1, (1 << 32) - 1])
def test_any_majority_in_any_view_makes_the_same_commit(names: tuple[str, ...], view: int) -> None:
    ledger = chain(1, *NAMES)
    ledger.append(signed(ledger, names, view), ME)
    assert ledger.height == 2
    assert ledger.head == signed(chain(1, *NAMES)).body.digest


@pytest.mark.parametrize(("count", "need"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (4096, 2049)])
def test_two_majorities_always_share_a_member(count: int, need: int) -> None:
    assert majority(count) == need
    assert 2 * need > count


def test_updates_are_counted_and_members_change_with_the_commit() -> None:
    ledger = chain(2, *NAMES)
    assert ledger.updates == 0
    fewer = members("w1", "w2")
    ledger.append(signed(ledger, kind=Kind.UPDATE, members=fewer), ME)
    assert (ledger.updates, ledger.members) == (1, fewer)
    assert ledger.members_of(3) == members(*NAMES)
    assert ledger.members_of(4) == fewer
    ledger.append(signed(ledger, ("w1", "w2")), ME)
    assert ledger.members_of(1) == ledger.genesis.members


# ---- every way a certificate can be wrong -------------------------------------------------------


def wrong_view(ledger: Ledger) -> Commit:
    return dataclasses.replace(signed(ledger, view=1), view=2)


def signature_of_another(ledger: Ledger) -> Commit:
    sound = signed(ledger)
    (first, _), (_, second), *rest = sound.votes
    return dataclasses.replace(sound, votes=((first, second), *rest))


def vote_for(ledger: Ledger, **changes: Any) -> Commit:
    """A majority that voted, but for something else."""
    other = skip(ledger, **changes)
    return Commit(skip(ledger), 0, votes(other, NAMES))


def nameless(ledger: Ledger) -> Commit:
    sound = signed(ledger, NAMES[:2])
    return dataclasses.replace(sound, votes=(*sound.votes, (PeerId("w3"), bytes(64))))


def stranger_in_the_body(ledger: Ledger) -> Commit:
    """One that would be a member of the next round does not vote in this one."""
    crowd = members(*NAMES, "w4")
    return signed(ledger, ("coordinator", "w1", "w4"), members=crowd)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda ledger: signed(ledger, ()), "0 votes, 3 are a majority"),
        (lambda ledger: signed(ledger, NAMES[:2]), "2 votes, 3 are a majority"),
        (lambda ledger: signed(ledger, ("w1", "w2", "w1")), "has no vote, or voted twice"),
        (lambda ledger: signed(ledger, (*NAMES, "w1")), "more votes than members"),
        (lambda ledger: signed(ledger, ("w1", "w2", "w9")), "has no vote, or voted twice"),
        (stranger_in_the_body, "has no vote, or voted twice"),
        (nameless, "has no vote, or voted twice"),
        (signature_of_another, "is not signed by it"),
        (wrong_view, "is not signed by it"),
        (lambda ledger: vote_for(ledger, round=ledger.height + 2), "is not signed by it"),
        (lambda ledger: vote_for(ledger, run_id=digest("another run")), "is not signed by it"),
        (lambda ledger: vote_for(ledger, anchor=digest("another anchor")), "is not signed by it"),
        (lambda ledger: signed(ledger, run_id=digest("another run")), "another run"),
        (lambda ledger: signed(ledger, parent=digest("another parent")), "another parent"),
        (lambda ledger: signed(ledger, round=ledger.height + 2), "does not follow"),
        (lambda ledger: signed(ledger, round=ledger.height), "does not follow"),
        (lambda ledger: signed(ledger, round=0), "does not follow"),
        (lambda ledger: signed(ledger, round=(1 << 64) - 1), "does not follow"),
        (lambda ledger: signed(ledger, members=()), "names 0 members"),
        (
            lambda ledger: signed(ledger, members=(member("w1"),) * (MEMBERS_MAX + 1)),
            f"names {MEMBERS_MAX + 1} members",
        ),
    ],
)
@pytest.mark.parametrize("rounds", [0, 2])
def test_a_wrong_certificate_is_refused(make: Any, reason: str, rounds: int) -> None:
    ledger = chain(rounds, *NAMES)
    assert reason in refused(ledger, make(ledger))
    ledger.append(signed(ledger), ME)


def test_a_gap_a_fork_and_a_repetition_are_refused() -> None:
    ledger, longer = chain(1, *NAMES), chain(3, *NAMES)
    assert "does not follow 1" in refused(ledger, longer.commit(3))
    assert "does not follow 1" in refused(ledger, longer.commit(1))
    fork = chain(0, *NAMES)
    fork.append(signed(fork, anchor=digest("another anchor")), ME)
    assert "another parent" in refused(fork, longer.commit(2))
    ledger.append(longer.commit(2), ME)
    assert ledger.head == longer.commit(2).body.digest


@given(st.integers(0, 3), st.integers(0))
def test_a_flipped_bit_of_any_vote_is_found(at: int, bit: int) -> None:
    ledger = chain(0, *NAMES)
    sound = signed(ledger)
    damaged = list(sound.votes)
    damaged[at] = (damaged[at][0], flipped(damaged[at][1], bit))
    reason = refused(ledger, dataclasses.replace(sound, votes=tuple(damaged)))
    assert peer(NAMES[at]) in reason


@given(
    st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 30)),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_a_vote_is_for_one_round_and_view(one: tuple[int, int], other: tuple[int, int]) -> None:
    first, second = (vote_message(Place(RUN, 0, round_), view, ANCHOR) for round_, view in (one, other))
    assert (first == second) == (one == other)
    assert len(first) == len(second)


# ---- what a peer that lags is sent --------------------------------------------------------------


def test_since_gives_commits_in_order_within_the_bytes() -> None:
    ledger = chain(6, *NAMES)
    everything = ledger.since(1, 1 << 20)
    assert everything == tuple(ledger.commits)
    assert ledger.since(0, 1 << 20) == everything
    assert ledger.since(5, 1 << 20) == tuple(ledger.commits[4:])
    assert ledger.since(7, 1 << 20) == ()
    assert ledger.since(1 << 48, 1 << 20) == ()
    one = len(ledger.commit(1).body.encoded) + 72 * 4
    assert len(ledger.since(1, 3 * one)) == 3
    assert len(ledger.since(1, 3 * one - 1)) == 2
    assert ledger.since(2, 0) == (ledger.commit(2),)


def test_what_since_gives_another_ledger_takes() -> None:
    ledger, other = chain(6, *NAMES), chain(2, *NAMES)
    for commit in ledger.since(other.height + 1, 1 << 20):
        other.append(commit, key("w3"))
    assert other.head == ledger.head


def test_a_lone_member_is_its_own_majority() -> None:
    ledger = Ledger(Genesis(RUN, ANCHOR, (Member(peer("coordinator")),)))
    body: Body = skip(ledger)
    ledger.append(Commit(body, 0, votes(body, ("coordinator",))), key("coordinator"))
    assert ledger.height == 1
