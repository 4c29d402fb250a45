"""Who takes part: what changes from round to round, as a few bytes, and who of a crowd votes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_samples import digest, member, members, peer
from wire_strategies import U32, U64

from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import PeerId
from atoll.protocol.roster import (
    MEMBERS_MAX,
    Member,
    Role,
    by_hash,
    changed,
    changes,
    committee,
    member_from_wire,
    members_digest,
)
from atoll.protocol.wire import messages_pb2 as wire

NAMES = ("coordinator", "w1", "w2", "w3", "w4")
people = st.builds(
    Member,
    st.sampled_from([*map(peer, NAMES), PeerId(""), PeerId("w"), PeerId("\u00e9\n")]),
    st.sampled_from(Role),
    st.sampled_from([0, 1, 2, U64]),
    st.sampled_from([0, 1, U32]),
)
rosters = st.lists(people, max_size=8, unique_by=lambda who: who.peer).map(
    lambda found: tuple(sorted(found, key=lambda who: who.peer))
)


# ---- from round to round ------------------------------------------------------------------------


@settings(max_examples=100)
@given(rosters, rosters)
def test_what_changes_makes_the_next_members_of_these(before: tuple[Member, ...], after: tuple) -> None:
    said = wire.Changes.FromString(changes(before, after).SerializeToString())
    assert changed(before, said) == after


@given(rosters)
def test_nothing_is_said_of_who_stays_as_it_was(before: tuple[Member, ...]) -> None:
    said = changes(before, tuple(dataclasses.replace(who) for who in before))
    assert said == wire.Changes()
    assert changed(before, said) is before


@given(rosters, st.data())
def test_only_what_changes_is_said(before: tuple[Member, ...], data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(0, max(0, len(before) - 1)), max_size=len(before)))
    after = tuple(who for place, who in enumerate(before) if place not in gone)
    said = changes(before, after)
    assert not said.changed
    assert list(said.left) == sorted(gone if before else ())


def joining(count: int) -> wire.Changes:
    return wire.Changes(changed=[wire.Member(peer=str(number)) for number in range(count)])


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (wire.Changes(left=[3]), "place 3 of 3 members"),
        (wire.Changes(left=[0, U32]), f"place {U32} of 3 members"),
        (wire.Changes(left=[0, 1, 2, 2]), "more changes than there may be members"),
        (joining(MEMBERS_MAX + 1), "more changes than there may be members"),
        (wire.Changes(changed=[wire.Member(peer="w", role=3)]), "role 3 is unknown"),
    ],
)
def test_changes_that_do_not_fit_the_members_are_refused(said: wire.Changes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        changed(members("w1", "w2", "w3"), said)


def test_a_role_that_nobody_knows_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="role 9 is unknown"):
        member_from_wire(wire.Member(peer="w1", role=9))


@settings(max_examples=50)
@given(rosters, rosters)
def test_a_digest_is_of_one_list_of_members(one: tuple[Member, ...], other: tuple[Member, ...]) -> None:
    assert (members_digest(one) == members_digest(other)) == (one == other)


def test_a_member_cannot_be_cut_in_two_under_the_same_digest() -> None:
    """Whoever hands on a signed snapshot may not say it of other members."""
    sound = members("coordinator", "w1")
    nameless = Member(PeerId(""), weight_from=0)
    halves = tuple(
        half
        for who in sound
        for half in (Member(who.peer, weight_from=0), Member(PeerId(""), who.role, who.weight_from))
    )
    assert members_digest(halves) != members_digest(sound)
    assert members_digest((*sound, nameless)) != members_digest(sound)
    assert members_digest((nameless, *sound)) != members_digest(sound)


# ---- who votes ----------------------------------------------------------------------------------

CROWD = tuple(sorted((Member(peer(f"w{n}"), missed=n % 3) for n in range(60)), key=lambda who: who.peer))


def drawn(crowd: tuple[Member, ...], label: str, most: int) -> set[PeerId]:
    voters = committee(crowd, digest(label), most)
    assert list(voters) == sorted(set(voters))
    assert set(voters) <= {who.peer for who in crowd}
    return set(voters)


@pytest.mark.parametrize("most", [60, 61, 4096])
def test_in_a_swarm_of_usual_size_everybody_votes(most: int) -> None:
    assert committee(CROWD, digest("parent"), most) == tuple(who.peer for who in CROWD)


@given(st.integers(1, 59), st.text(max_size=3))
def test_a_committee_is_bounded_and_made_of_those_heard_last(most: int, label: str) -> None:
    voters = drawn(CROWD, label, most)
    assert len(voters) == most
    missed = {who.peer: who.missed for who in CROWD}
    least_heard = max(missed[who] for who in voters)
    assert all(who in voters for who in missed if missed[who] < least_heard)


def test_witnesses_come_before_workers_that_were_heard_as_well() -> None:
    witnesses = (member("coordinator"), member("witness 2", missed=1))
    crowd = tuple(sorted((*CROWD, *witnesses), key=lambda who: who.peer))
    for round_ in range(20):
        assert peer("coordinator") in drawn(crowd, str(round_), 5)
        assert peer("witness 2") not in drawn(crowd, str(round_), 5)
        assert peer("witness 2") in drawn(crowd, str(round_), 22)  # after the twenty of the others


def test_each_commit_draws_others() -> None:
    """Over some rounds all that were heard take part about as often."""
    rounds = [drawn(CROWD, str(round_), 5) for round_ in range(200)]
    assert len({tuple(sorted(voters)) for voters in rounds}) > 150
    heard = [who.peer for who in CROWD if who.missed == 0]
    shares = [sum(who in voters for voters in rounds) for who in heard]
    assert min(shares) > 20
    assert max(shares) < 90
    assert drawn(CROWD, "7", 5) == drawn(CROWD, "7", 5)


@given(st.text(max_size=3), st.sampled_from(["voter", "leader", "owner"]))
def test_an_order_loses_nobody_and_is_nobodys_choice(label: str, purpose: str) -> None:
    peers = [who.peer for who in CROWD]
    order = by_hash(digest(label), peers, purpose)
    assert sorted(order) == sorted(peers)
    assert order == by_hash(digest(label), peers[::-1], purpose)
    assert order != by_hash(digest(label + "!"), peers, purpose)
