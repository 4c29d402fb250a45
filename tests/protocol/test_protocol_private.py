"""Private shards: who may join with which, whose units they are, and in which order they are summed."""

from __future__ import annotations

import dataclasses

import pytest
from protocol_samples import ANCHOR, RULES, blobs, contributor, member, peer, terms, update

from atoll.protocol.combinations import Choices, check_combinations
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.leading import Leading
from atoll.protocol.manifest import check_rounds
from atoll.protocol.messages import Column, Offer, Plan
from atoll.protocol.owning import Owning
from atoll.protocol.private import declared, holders_of, is_name, refusal, shards_objection
from atoll.protocol.replicas import counts
from atoll.protocol.roster import SHARD_MAX, Role, changed, changes, member_from_wire, member_to_wire
from atoll.protocol.terms import contributors_objection, groups_in, objection

PRIVATE = dataclasses.replace(RULES, shards="private", quorum=0.5)
HELD = {"w1": "south", "w2": "north", "w3": "south", "w4": "west", "w5": "north"}
MEMBERS = tuple(
    sorted(
        (
            *(member(name, shard=shard) for name, shard in HELD.items()),
            member("coordinator", role=Role.WITNESS),
        ),
        key=lambda m: m.peer,
    )
)
FIVE = terms(rules=PRIVATE, members=MEMBERS, updates=1)


def holders(*names: str) -> tuple[str, ...]:
    return tuple(sorted(map(peer, names)))


# ---- units ------------------------------------------------------------------------------------------


def test_the_units_are_the_shards_by_name_whoever_holds_them() -> None:
    assert FIVE.groups == (holders("w2", "w5"), holders("w1", "w3"), holders("w4"))
    assert {name: FIVE.unit(peer(name)) for name in HELD} == {"w1": 1, "w2": 0, "w3": 1, "w4": 2, "w5": 0}
    assert FIVE.quorum == 2
    assert {FIVE.shard(peer(name)) for name in HELD} == {(0, 1)}, "each trains on all that it holds"


def test_who_weighs_nothing_yet_is_in_no_unit() -> None:
    new = tuple(dataclasses.replace(m, weight_from=9) if m.peer == peer("w4") else m for m in MEMBERS)
    assert list(holders_of(new)) == ["north", "south", "west"]
    assert groups_in(new, 1, PRIVATE) == FIVE.groups[:2]
    assert groups_in(new, 9, PRIVATE) == FIVE.groups


def test_one_holder_of_each_shard_counts_and_the_work_of_the_others_with_it() -> None:
    body = update(FIVE, "w1", "w2")
    assert contributors_objection(FIVE, body.contributors) is None
    assert [counts(body, peer(name), FIVE.groups) for name in HELD] == [True, True, True, False, True]
    twice = update(FIVE, "w1", "w3", "w2")
    assert contributors_objection(FIVE, twice.contributors) == "two contributors trained the same unit"


def test_a_leader_takes_one_offer_of_each_shard() -> None:
    lead = Leading(FIVE, 0, 1000)
    for name, shard in HELD.items():
        lead.offer(peer(name), Offer(1, 0, ANCHOR, 1000, 10, blobs(shard)), 2000)
    lead.plan()
    assert lead.exchange is not None
    named = [c.peer for c in lead.exchange.participants]
    assert named == sorted(named)
    assert sorted(FIVE.unit(who) for who in named) == [0, 1, 2]


@pytest.mark.parametrize(
    "answers", [("w1", "w2", "w4"), ("w3", "w2", "w4"), ("w1", "w5", "w4"), ("w3", "w5")]
)
def test_a_sum_is_in_the_order_of_shards_whoever_of_their_holders_contributed(
    answers: tuple[str, ...],
) -> None:
    participants = tuple(sorted(map(contributor, answers), key=lambda c: c.peer))
    column = Column(0, tuple(blobs(f"{c.peer}")[0] for c in participants))
    owning = Owning(1, 0, 3)
    held = {ref.digest for ref in column.blobs}
    owning.plan(Plan(1, 0, 1, participants, (column,)), held)
    (action,) = owning.sums(FIVE.in_sum)
    order = [FIVE.unit(who) for who, _, _ in action.inputs]
    assert order == sorted(order)
    assert {who: ref for who, _, ref in action.inputs} == {
        c.peer: ref for c, ref in zip(participants, column.blobs, strict=True)
    }


def test_by_peer_ids_alone_the_order_would_depend_on_who_is_away() -> None:
    orders = {
        tuple(FIVE.unit(who) for who in sorted(map(peer, names)))
        for names in (("w1", "w2", "w4"), ("w3", "w2", "w4"), ("w1", "w5", "w4"), ("w3", "w5", "w4"))
    }
    assert len(orders) > 1, "else these names would not show what the order of units is for"


# ---- who may bring what -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "clinic-7", "A.b_c", "x" * 64])
def test_names_of_shards(name: str) -> None:
    assert is_name(name)
    assert refusal(PRIVATE, Role.WORKER, name) is None
    assert refusal(RULES, Role.WORKER, name) == "this run deals its data, and nobody brings a shard"


@pytest.mark.parametrize("name", ["", "-a", ".", "a b", "a\n", "ä", "x" * 65])
def test_what_is_no_name_may_not_join(name: str) -> None:
    assert not is_name(name)
    assert "--shard NAME=FILES" in str(refusal(PRIVATE, Role.WORKER, name))
    assert "--shard NAME=FILES" in str(refusal(PRIVATE, Role.PAUSED, name)), "it may go on and train"


def test_a_witness_brings_nothing_and_a_run_that_deals_asks_for_nothing() -> None:
    assert refusal(PRIVATE, Role.WITNESS, "") is None
    assert refusal(RULES, Role.WORKER, "") is None
    assert refusal(PRIVATE, Role.WITNESS, "north") is not None


def test_a_commit_lists_a_joiner_with_the_shard_that_it_declared() -> None:
    new = (*MEMBERS, member("w6", weight_from=3))
    following = declared(MEMBERS, new, {peer("w6"): "east", peer("w1"): "east"})
    shards = {m.peer: m.shard for m in following}
    assert (shards[peer("w6")], shards[peer("w1")]) == ("east", "south"), "a shard is declared once"


def test_voters_refuse_a_shard_that_changes_and_a_joiner_without() -> None:
    body = update(FIVE, "w1", "w2")
    assert objection(FIVE, body, ANCHOR) is None
    moved = tuple(dataclasses.replace(m, shard="east") if m.peer == peer("w1") else m for m in MEMBERS)
    assert "holds south, not east" in str(objection(FIVE, dataclasses.replace(body, members=moved), ANCHOR))
    joined = tuple(sorted((*MEMBERS, member("w6", weight_from=9)), key=lambda m: m.peer))
    assert "--shard NAME=FILES" in str(objection(FIVE, dataclasses.replace(body, members=joined), ANCHOR))
    right = declared(MEMBERS, joined, {peer("w6"): "east"})
    assert objection(FIVE, dataclasses.replace(body, members=right), ANCHOR) is None
    assert "deals its data" in str(shards_objection((), right, RULES))


def test_a_shard_travels_with_its_member_and_a_long_name_is_refused() -> None:
    assert [member_from_wire(member_to_wire(m)) for m in MEMBERS] == list(MEMBERS)
    new = tuple(sorted((*MEMBERS, member("w6", shard="east")), key=lambda m: m.peer))
    assert changed(MEMBERS, changes(MEMBERS, new)) == new
    with pytest.raises(RemoteProtocolError, match="a shard's name"):
        member_from_wire(member_to_wire(member("w6", shard="x" * (SHARD_MAX + 1))))


@pytest.mark.parametrize(("key", "value"), [("replicas", 2), ("votes", "two-thirds")])
def test_what_private_shards_do_not_go_with(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{key} = .* with shards = 'private'"):
        check_rounds(dataclasses.replace(PRIVATE, **{key: value}), "[rounds]")  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"exchange": "sparse"}, {"fragments": 2}, {"work": "by-speed"}])
def test_what_replicas_do_not_go_with_shards_do_not_either(change: dict[str, object]) -> None:
    chosen = Choices(shards="private", feedback=0.0)
    check_combinations(chosen, "[rounds]")
    with pytest.raises(ConfigError, match="shards = 'private' with"):
        check_combinations(dataclasses.replace(chosen, **change), "[rounds]")  # type: ignore[arg-type]
