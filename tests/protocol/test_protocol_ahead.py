"""Offers that are told a round ahead: the next contributions travel while this round is voted on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from protocol_samples import RULES, digest, peer
from test_protocol_out_of_turn import story, taken
from transcript_story import Story

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.ids import BlobRef
from atoll.protocol.manifest import RoundRules
from atoll.protocol.peer import Peer

AHEAD = replace(RULES, fragments=2, overlap=1)
WORKERS = ("w1", "w2", "w3")


def streaming(*sentences: str, rules: RoundRules = AHEAD) -> Story:
    return story("w1 w2 w3 train", *sentences, rules=rules)


def fetched(told: Story, name: str) -> list[a.Fetch]:
    return [action for action in told.swarm.machines[name].log if isinstance(action, a.Fetch)]


def offer(p: Peer, label: str = "early", parts: int = 0, round_: int = 0) -> m.Offer:
    sizes = p.terms.part_bytes * (parts or 1)
    refs = tuple(BlobRef(digest(f"{label} {part}"), size) for part, size in enumerate(sizes))
    return m.Offer(round_ or p.round + 1, 0, digest("a fragment"), 10, 1, refs)


def told_ahead(p: Peer, name: str, what: m.Offer) -> e.Received:
    return e.Received(peer(name), m.Ahead(p.round, what))


def test_the_next_columns_are_asked_for_once_this_update_is_proposed() -> None:
    told = streaming("w1 w2 w3 train", "deliver until w1 commits")
    asked = [fetch for name in WORKERS for fetch in fetched(told, name) if fetch.ahead]
    assert asked
    for name in WORKERS:
        log = told.swarm.machines[name].log
        asks = [(place, action) for place, action in enumerate(log) if isinstance(action, a.Fetch)]
        early = [place for place, fetch in asks if fetch.ahead]
        this = [place for place, fetch in asks if fetch.kind == "result"]
        assert all(this[0] < place for place in early), "behind what others wait for"
        assert all(fetch.holders != (peer(name),) for fetch in fetched(told, name))


def test_what_came_ahead_is_what_the_plan_asks_for() -> None:
    """Nothing was got in vain; what is on its way still when the plan comes is asked for once more."""
    told = streaming("w1 w2 w3 train", "deliver")
    commit = told.peer("w1").ledger.commit(2)
    assert {c.peer for c in commit.body.contributors} == {peer(name) for name in WORKERS}
    for name in WORKERS:
        log = told.swarm.machines[name].log
        summed = [action for action in log if isinstance(action, a.Aggregate) and action.round == 2]
        inputs = {(who, ref) for one in summed for who, _, ref in one.inputs}
        needed = {ref for who, ref in inputs if who != peer(name)}
        assert needed >= {fetch.ref for fetch in fetched(told, name) if fetch.ahead}
        assert needed <= {fetch.ref for fetch in fetched(told, name)}
    assert any(fetch.ahead for name in WORKERS for fetch in fetched(told, name))


def test_nobody_is_guessed_at_before_all_have_told_their_offers() -> None:
    told = streaming("w1 w2 train", "deliver until w1 commits")
    assert any(told.peer(name).ahead for name in WORKERS)
    assert not [fetch for name in WORKERS for fetch in fetched(told, name) if fetch.ahead]


@pytest.mark.parametrize(
    "rules",
    [{"votes": "two-thirds"}, {"exchange": "sparse"}, {"replicas": 2}, {"overlap": 0, "fragments": 1}],
)
def test_an_offer_ahead_moves_nobody_where_it_has_no_place(rules: dict[str, str | int]) -> None:
    told = story(rules=AHEAD)
    p = told.peer("coordinator")
    p.rules = replace(p.rules, **rules)  # type: ignore[arg-type]
    p.terms = replace(p.terms, rules=p.rules)
    _, actions, same = taken(told, "coordinator", told_ahead(p, "w2", offer(p)))
    assert (actions, same, p.ahead) == ([], True, {})


def test_what_is_kept_of_offers_ahead_is_bounded() -> None:
    told = story(rules=AHEAD)
    p = told.peer("coordinator")
    far, many = offer(p, round_=p.round + 3), offer(p, parts=AHEAD.owners_max + 1)
    for name, given in (("w1", far), ("w1", many), ("nobody", offer(p))):
        taken(told, "coordinator", told_ahead(p, name, given))
        assert p.ahead == {}
    for label in ("early", "again"):
        taken(told, "coordinator", told_ahead(p, "w2", offer(p, label)))
    assert p.ahead == {peer("w2"): offer(p, "again")}


def test_an_offer_ahead_that_comes_late_counts_at_once() -> None:
    """Its sender was in the next round already when this leader heard of it."""
    told = story(rules=AHEAD)
    p = told.peer("w1")
    start = p.catchup.start(p.round)
    assert start is not None
    given = replace(offer(p, round_=p.round), anchor=start)
    taken(told, "w1", told_ahead(p, "w2", given))
    assert p.leading is not None
    assert p.leading.offers == {peer("w2"): given}


def test_an_offer_ahead_in_other_parts_is_left_for_its_sender_to_make_again() -> None:
    told = story(rules=AHEAD)
    p = told.peer("w1")
    taken(told, "w1", told_ahead(p, "w2", offer(p, parts=2, round_=p.round)))
    assert p.leading is not None
    assert (p.leading.offers, p.leading.rejected) == ({}, {})
