"""A commit reaches every member of a large swarm, and nobody sends more than a few copies of it."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_samples import RULES, digest, peer, terms

from atoll.protocol.ids import PeerId
from atoll.protocol.relay import FAN_OUT, receivers
from atoll.protocol.roster import Member
from atoll.protocol.terms import Terms

SIZES = 5000


@cache
def crowd() -> tuple[Member, ...]:
    return tuple(Member(PeerId(f"{number:05}")) for number in range(SIZES))


def swarm(size: int, voters_max: int, label: str = "parent") -> Terms:
    rules = dataclasses.replace(RULES, voters_max=voters_max)
    return terms(members=crowd()[:size], rules=rules, parent=digest(label))


def spread(given: Terms, leader: PeerId) -> dict[PeerId, int]:
    """Who hears of a commit, after how many hops, if the leader tells the voters and all pass it on."""
    hops = {leader: 0, **{voter: 1 for voter in given.voters if voter != leader}}
    wave = list(hops)
    while wave:
        told = [(who, other) for who in wave for other in receivers(given, who)]
        wave = []
        for who, other in told:
            assert other not in hops, f"{other} is told twice"
            hops[other] = hops[who] + 1
            wave.append(other)
    return hops


@settings(max_examples=30)
@given(st.integers(1, SIZES), st.integers(1, 100), st.text(max_size=3))
def test_every_member_is_told_once(size: int, voters_max: int, label: str) -> None:
    given_ = swarm(size, voters_max, label)
    hops = spread(given_, given_.leader(0))
    assert set(hops) == set(given_.peers)
    for who in given_.peers:
        assert len(receivers(given_, who)) <= FAN_OUT
    assert max(hops.values()) <= 6  # 1 + 1 + log8(5000)


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 64 + 8, 64 + 9, 64 * 9, 64 * 9 + 1, SIZES])
def test_no_size_leaves_anybody_out(size: int) -> None:
    given_ = swarm(size, 64)
    assert set(spread(given_, given_.leader(3))) == set(given_.peers)


@pytest.mark.parametrize("size", [1, 5, 64])
def test_where_everybody_votes_nobody_passes_on(size: int) -> None:
    given_ = swarm(size, 64)
    assert given_.voters == given_.peers
    assert given_.others == ()
    assert all(receivers(given_, who) == () for who in given_.peers)


def test_who_is_no_member_passes_on_nothing() -> None:
    assert receivers(swarm(100, 10), peer("w1")) == ()


def test_others_are_in_the_order_of_their_places() -> None:
    given_ = swarm(300, 20)
    assert len(given_.voters) == 20
    assert {*given_.voters, *given_.others} == set(given_.peers)
    assert len(given_.voters) + len(given_.others) == 300
    assert [given_.others[place] for place in given_.others_places.values()] == list(given_.others_places)
    assert given_.voting == set(given_.voters)
    assert given_.majority == 11
    assert {given_.leader(view) for view in range(50)} == set(given_.voters)
    assert given_.voters_but(given_.voters[3]) == (*given_.voters[:3], *given_.voters[4:])
