"""Replicas: who trains what, when a leader goes on, whose offer it takes, and who stands in for the lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest
from leading_bench import Sent, plans_of
from protocol_samples import ANCHOR, RULES, blobs, contributor, member, peer, terms, update

from atoll.optim.coding.codes import repetition
from atoll.optim.coding.replicas import disputes
from atoll.protocol.commits import Contributor, Kind
from atoll.protocol.covering import decide_units
from atoll.protocol.deciding import Go, Wait
from atoll.protocol.ids import PeerId
from atoll.protocol.leading import Leading
from atoll.protocol.messages import Column, Cut, Held, Offer, Plan, Reduced
from atoll.protocol.owning import Owning
from atoll.protocol.replicas import counts, disputed, groups_of, name_of, picked, unit_of
from atoll.protocol.roster import Presence
from atoll.protocol.terms import Terms, contributors_objection, groups_in, objection

CODED = dataclasses.replace(RULES, replicas=2)
NAMES = sorted((f"w{number}" for number in range(1, 7)), key=peer)
"""Six workers by rank: two each train one of three units."""
SIX = terms(*NAMES, "coordinator", updates=1, rules=CODED)
RANKED = [peer(name) for name in NAMES]
EVERYBODY = Presence(SIX.peers)


def offer(unit: object, tokens: int = 1000) -> Offer:
    """What any replica of this unit offers."""
    return Offer(1, 0, ANCHOR, tokens, tokens // 100, blobs(f"unit {unit}"))


def leading(*ranks: int, given: Terms = SIX, view: int = 0) -> Leading:
    """A leader that has the offers of these ranks."""
    lead = Leading(given, view, 1000)
    for rank in ranks:
        lead.offer(RANKED[rank], offer(rank // 2), 2000)
    return lead


def named(lead: Leading) -> list[int]:
    assert lead.exchange is not None
    return [RANKED.index(c.peer) for c in lead.exchange.participants]


def hold(lead: Leading, part: int, *ranks: int, plan: bytes | None = None) -> Sent:
    exchange = lead.exchange
    assert exchange is not None
    holding = tuple(RANKED[rank] for rank in ranks)
    return lead.held(
        exchange.owners[part], Held(1, 0, part, holding, exchange.named if plan is None else plan)
    )


def exchange(lead: Leading) -> None:
    """The whole exchange, in which every owner gets what the plan names."""
    ranks = named(lead)
    for part in range(3):
        hold(lead, part, *ranks)
    assert lead.exchange is not None
    for part, owner in enumerate(lead.exchange.owners):
        lead.reduced(owner, Reduced(1, 0, lead.exchange.revision, part, blobs("mean")[part]))


# ---- who trains what --------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_groups_are_those_of_the_code_and_follow_each_other(replicas: int) -> None:
    for workers in range(replicas, 65):
        ranked = [PeerId(f"{place:02}") for place in range(workers)]
        groups = groups_of(ranked, replicas)
        assert [tuple(int(p) for p in group) for group in groups] == list(
            repetition(workers, replicas - 1).groups
        )
        assert [p for group in groups for p in group] == ranked
        assert [unit_of(p, groups) for p in ranked] == [g for g, group in enumerate(groups) for _ in group]


def test_fewer_workers_than_replicas_train_one_unit() -> None:
    assert groups_of(RANKED[:2], 3) == (tuple(RANKED[:2]),)
    assert groups_of([], 3) == ((),)
    assert unit_of(RANKED[0], ((),)) == 0


def test_each_worker_trains_its_unit_and_who_weighs_nothing_yet_one_as_well() -> None:
    assert [SIX.shard(who) for who in RANKED] == [(rank // 2, 3) for rank in range(6)]
    plain = terms(*NAMES, "coordinator", updates=1)
    assert [plain.shard(who) for who in RANKED] == [(rank, 6) for rank in range(6)]
    new = tuple(member(name, weight_from=9) if name == NAMES[5] else member(name) for name in NAMES)
    five = terms(rules=CODED, members=tuple(sorted(new, key=lambda m: m.peer)))
    assert [five.shard(who) for who in RANKED] == [(0, 2), (0, 2), (0, 2), (1, 2), (1, 2), (1, 2)]
    assert (SIX.quorum, plain.quorum) == (2, 3)


# ---- when a leader goes on --------------------------------------------------------------------------


def decision(
    offered: Iterable[int], gone: Iterable[int] = (), now_ms: int = 3000, quorum_ms: int = 2000
) -> Wait | Go:
    who = {RANKED[rank] for rank in offered}
    return decide_units(now_ms, 1000, quorum_ms, who, {RANKED[rank] for rank in gone} - who, SIX, 0)


@pytest.mark.parametrize("offered", [(0, 2, 4), (1, 3, 5), (0, 1, 2, 5), range(6)])
def test_a_leader_goes_on_as_soon_as_every_unit_is_offered(offered: Iterable[int]) -> None:
    assert decision(offered) == Go(Kind.UPDATE, "all 3 units")


def test_it_waits_for_a_unit_while_one_of_its_workers_may_still_offer() -> None:
    assert decision((0, 1, 2, 3)) == decision((0, 2), gone=(1, 3, 4)) == Wait("2 of 3 units", 61_000)
    late = decision((0, 2), now_ms=61_000)
    assert isinstance(late, Go)
    assert late.kind is Kind.UPDATE
    assert decision((0, 1), now_ms=61_000).reason == "1 of 3 units, 2 are the quorum"


def test_nobody_waits_for_a_unit_whose_workers_are_all_gone_longer_than_the_grace() -> None:
    assert isinstance(decision((0, 2), gone=(4, 5), now_ms=2099), Wait)
    found = decision((0, 2), gone=(4, 5), now_ms=2100)
    assert isinstance(found, Go)
    assert found.kind is Kind.UPDATE
    few = decision((0,), gone=(2, 3, 4, 5), now_ms=2100)
    assert isinstance(few, Go)
    assert few.kind is Kind.SKIP


# ---- whose offer is taken ---------------------------------------------------------------------------


def test_one_offer_of_each_unit_is_taken_and_the_others_are_told_whose() -> None:
    lead = leading(5, 1, 0, 3, 4)
    lead.plan()
    assert named(lead) == [0, 3, 4]
    exchange(lead)
    assert lead.complete()
    body = lead.make_body(Kind.UPDATE, ANCHOR, EVERYBODY, {})
    assert objection(SIX, body, ANCHOR) is None
    assert {RANKED.index(r.peer): r.reason for r in body.rejected} == {
        1: f"its unit came from {RANKED[0][-8:]}",
        2: "no offer before the cut",
        5: f"its unit came from {RANKED[4][-8:]}",
    }
    assert disputed(body) == {}
    assert {m.peer: m.missed for m in body.members} == dict.fromkeys(SIX.peers, 0)


def test_all_work_counts_that_is_in_the_update_by_whomever() -> None:
    body = update(SIX, NAMES[0], NAMES[3])
    groups = groups_in(body.before, body.round, CODED)
    assert groups == SIX.groups
    assert [counts(body, who, groups) for who in RANKED] == [True] * 4 + [False] * 2
    assert [counts(body, who, ()) for who in RANKED] == [True, False, False, True, False, False]
    assert not counts(body, peer("coordinator"), groups)


def test_two_contributors_of_one_unit_are_refused() -> None:
    assert contributors_objection(SIX, tuple(contributor(NAMES[rank]) for rank in (0, 2, 5))) is None
    said = contributors_objection(SIX, tuple(contributor(NAMES[rank]) for rank in (0, 1, 5)))
    assert said == "two contributors trained the same unit"
    few = contributors_objection(SIX, (contributor(NAMES[0]),))
    assert few == "1 contributions, 2 are the quorum"


def test_whole_work_goes_before_the_lowest_rank_and_the_agreeing_before_the_one_that_differs() -> None:
    a, b, c = RANKED[:3]
    whole, short, other = offer(0), offer(0, 900), offer("other")
    assert picked({a, b}, {a: whole, b: whole}, 1000) == a
    assert picked({a, b}, {a: short, b: whole}, 1000) == b
    assert picked({a, b}, {a: other, b: whole}, 1000) == a
    assert picked({a, b, c}, {a: other, b: whole, c: whole}, 1000) == b


def test_replicas_that_differ_are_on_record_as_the_code_sees_them() -> None:
    lead = leading(0, 2, 3, 4)
    lead.offer(RANKED[1], offer("a lie"), 2000)
    lead.offer(RANKED[5], offer("less of 2", 900), 2000)
    lead.plan()
    exchange(lead)
    body = lead.make_body(Kind.UPDATE, ANCHOR, EVERYBODY, {})
    assert disputed(body) == {RANKED[1]: f"its unit came from {RANKED[0][-8:]}, in other bytes"}
    digests = {RANKED.index(p): o.parts[0].digest for p, o in lead.offers.items() if o.tokens == 1000}
    (found,) = disputes(repetition(6, 1), digests)
    assert found.group == unit_of(RANKED[1], SIX.groups)


# ---- who stands in ----------------------------------------------------------------------------------


def test_a_replica_stands_in_for_what_did_not_reach_an_owner() -> None:
    lead = leading(0, 1, 2, 4)
    lead.plan()
    before = lead.exchange
    assert before is not None
    assert hold(lead, 0, 2, 4) == []
    assert lead.exchange is None
    assert decide_units(3000, 1000, 2000, lead.offers.keys(), {RANKED[0]}, SIX, 0) == Go(
        Kind.UPDATE, "all 3 units"
    )
    plans = plans_of(lead.plan())
    assert named(lead) == [1, 2, 4]
    assert all(plan.revision > before.revision for plan in plans.values())
    exchange(lead)
    body = lead.make_body(Kind.UPDATE, ANCHOR, EVERYBODY, {})
    assert [RANKED.index(c.peer) for c in body.contributors] == [1, 2, 4]
    assert {r.peer: r.reason for r in body.rejected}[RANKED[0]] == "its parts did not reach every owner"


def test_the_same_bytes_are_waited_for_from_the_replica_however_often_an_owner_misses_them() -> None:
    """It may still be waiting for the first one to give them."""
    lead = leading(0, 1, 2, 4)
    lead.plan()
    hold(lead, 0, 2, 4)
    lead.plan()
    for part in range(3):
        assert hold(lead, part, 2, 4) == []
    assert named(lead) == [1, 2, 4]
    exchange(lead)
    assert lead.complete()


def test_what_an_owner_says_of_a_plan_that_was_given_up_says_nothing_of_the_next() -> None:
    lead = leading(0, 1, 2, 4)
    lead.plan()
    assert lead.exchange is not None
    old = lead.exchange.named
    hold(lead, 0, 2, 4)
    lead.plan()
    hold(lead, 0, 2, 4, plan=old)
    assert named(lead) == [1, 2, 4]
    assert not lead.exchange.held


def test_a_replica_may_offer_while_the_exchange_goes_on() -> None:
    lead = leading(0, 2, 4)
    lead.plan()
    lead.offer(RANKED[0], offer("other"), 3000)
    lead.offer(RANKED[1], offer(0), 3000)
    assert lead.offers[RANKED[0]] == offer(0)
    hold(lead, 0, 2, 4)
    lead.offer(RANKED[0], offer(0), 3500)
    assert RANKED[0] not in lead.offers, "the same bytes again, which nobody got"
    lead.plan()
    assert named(lead) == [1, 2, 4]
    lead.offer(RANKED[0], offer("trained again"), 3500)
    assert lead.offers[RANKED[0]] == offer("trained again")


def test_a_unit_that_nobody_else_offered_is_waited_for_and_done_without_in_later_views() -> None:
    lead = leading(0, 2, 4)
    lead.plan()
    for part in range(3):
        assert hold(lead, part, 2, 4) == []
    assert named(lead) == [0, 2, 4]
    lead = leading(0, 2, 4, view=2)
    lead.plan()
    hold(lead, 0, 2, 4)
    wait = decide_units(3000, 1000, 2000, lead.offers.keys(), {RANKED[0]}, SIX, 0)
    assert wait == Wait("2 of 3 units", 61_000), "its replica is alive"
    lead.plan()
    assert named(lead) == [2, 4]


def test_who_is_silent_as_an_owner_owns_nothing_of_the_next_plan() -> None:
    lead = leading(*range(6))
    lead.plan()
    assert lead.exchange is not None
    silent = lead.exchange.owners[0]
    lead.move_parts({silent})
    assert hold(lead, 1, *(rank for rank in named(lead) if rank != 2)) == []
    lead.plan()
    assert silent not in lead.exchange.owners


def test_where_some_may_lie_one_owner_alone_displaces_nobody() -> None:
    given = terms(*NAMES, "coordinator", updates=1, rules=dataclasses.replace(CODED, votes="two-thirds"))
    lead = leading(*range(6), given=given)
    lead.plan()
    hold(lead, 0, 2, 4)
    assert lead.exchange is not None
    assert named(lead) == [0, 2, 4]


# ---- an owner ---------------------------------------------------------------------------------------


def plan_of(revision: int, *ranks: int) -> Plan:
    participants = tuple(Contributor(RANKED[rank], 1000, 10, 1000) for rank in ranks)
    column = Column(0, tuple(blobs(f"unit {rank // 2} of {rank}")[0] for rank in ranks))
    return Plan(1, 0, revision, participants, (column,))


def test_an_owner_keeps_what_it_has_and_drops_the_cut_of_a_plan_that_was_given_up() -> None:
    first, second = plan_of(1, 0, 2, 4), plan_of(3, 1, 2, 4)
    had = {ref.digest for ref in first.columns[0].blobs[1:]}
    mine = Owning(1, 0, 1)
    mine.renew(first, 0)
    mine.plan(first, had)
    mine.follow(Cut(1, 0, 2, first.participants[1:]))
    mine.renew(second, 0)
    mine.plan(second, had)
    assert mine.cut is None
    assert [who for who, _ in mine.missing()] == [RANKED[1]]
    mine.impatient()
    assert mine.reports() == [
        Held(1, 0, 0, tuple(sorted((RANKED[2], RANKED[4]))), name_of(second.participants))
    ]
    mine.arrived(second.columns[0].blobs[0].digest)
    (order,) = mine.sums()
    assert [who for who, _, _ in order.inputs] == [RANKED[1], RANKED[2], RANKED[4]]


def test_the_cut_of_the_next_plan_may_come_before_it() -> None:
    second = plan_of(3, 1, 2, 4)
    mine = Owning(1, 0, 1)
    mine.renew(plan_of(1, 0, 2, 4), 0)
    cut = Cut(1, 0, 4, second.participants)
    mine.follow(cut)
    mine.renew(second, 0)
    mine.plan(second, ())
    assert mine.cut == cut


# ---- replicas that differ, where such units are left out ---------------------------------------------

DROP = dataclasses.replace(SIX, rules=dataclasses.replace(CODED, disputes="drop"))
THREES = terms(*NAMES, "coordinator", updates=1, rules=dataclasses.replace(DROP.rules, replicas=3))


def disputing(given: Terms, **results: str) -> Leading:
    """A leader of these offers: of the rank after the r, the result that it gave."""
    lead = Leading(given, 0, 1000)
    for rank, result in results.items():
        lead.offer(RANKED[int(rank[1:])], offer(result), 2000)
    return lead


def test_a_unit_with_two_results_is_left_out_and_both_are_named() -> None:
    lead = disputing(DROP, r0="a", r1="lie", r2="b", r3="b", r4="c", r5="c")
    assert lead.torn() == {RANKED[0], RANKED[1]}
    lead.plan()
    assert named(lead) == [2, 4]
    exchange(lead)
    body = lead.make_body(Kind.UPDATE, ANCHOR, EVERYBODY, {})
    assert disputed(body).keys() == {RANKED[0], RANKED[1]}
    assert objection(DROP, body, ANCHOR) is None
    assert "its unit is left out" in disputed(body)[RANKED[0]]
    taken = disputing(SIX, r0="a", r1="lie", r2="b", r3="b", r4="c", r5="c")
    taken.plan()
    assert named(taken) == [0, 2, 4], "the rule of runs that do not say so"


def test_a_third_replica_decides() -> None:
    lead = disputing(THREES, r0="lie", r1="a", r3="b", r4="b")
    assert lead.torn() == {RANKED[0], RANKED[1]}
    lead.offer(RANKED[2], offer("a"), 2100)
    assert lead.torn() == frozenset()
    lead.plan()
    assert named(lead) == [1, 3]


def test_who_did_less_disputes_nothing() -> None:
    lead = disputing(DROP, r0="a", r2="b", r4="c")
    lead.offer(RANKED[1], offer("shorter", 400), 2000)
    assert lead.torn() == frozenset()


def test_a_unit_of_one_alone_gets_the_grace_and_no_more() -> None:
    lead = disputing(DROP, r0="a", r2="b", r3="b", r4="c", r5="c")
    assert lead.unconfirmed(set()) == 1
    assert lead.unconfirmed({RANKED[1]}) == 0, "nobody is left to confirm it"
    assert disputing(SIX, r0="a").unconfirmed(set()) == 0
    given = (1000, 2000, lead.offers.keys(), set(), DROP, 0)
    waits = decide_units(2100, *given, unconfirmed=1)
    assert isinstance(waits, Wait)
    assert waits == Wait("all units, 1 of them from one worker alone", 2250)
    assert decide_units(2250, *given, unconfirmed=1) == Go(Kind.UPDATE, "all 3 units")
    assert decide_units(2100, *given) == Go(Kind.UPDATE, "all 3 units")


def test_too_many_torn_units_make_no_update() -> None:
    lead = disputing(DROP, r0="a", r1="lie", r2="b", r3="lie", r4="c", r5="c")
    offered = lead.offers.keys() - lead.torn()
    found = decide_units(2500, 1000, 2000, offered, lead.torn(), DROP, 0)
    assert found == Go(Kind.SKIP, "1 of 3 units, 2 are the quorum")
