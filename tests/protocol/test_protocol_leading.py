"""A leader: when it goes on, what it plans, how it fixes the one contributor set, and what it proposes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_samples import (
    ANCHOR,
    RULES,
    blobs,
    contributor,
    digest,
    member,
    members,
    part_bytes,
    peer,
    terms,
    update,
    votes,
)

from atoll.protocol.ids import BlobRef, PeerId
from atoll.protocol.leading import REVISIONS_MAX, Go, Leading, Wait, decide
from atoll.protocol.ledger import Kind, Rejection, Role
from atoll.protocol.messages import Cut, Held, Offer, Plan, Propose, Reduced
from atoll.protocol.terms import objection

NAMES = ("w1", "w2", "w3", "coordinator")
FIVE = ("w1", "w2", "w3", "w4", "w5", "coordinator")
W1, W2, W3 = map(peer, ("w1", "w2", "w3"))

# ---- decide -------------------------------------------------------------------------------------
# five workers, a quorum of three; the round began at 1000; the grace is 25 %, 100 to 1000 ms

GRACE = terms(*FIVE, updates=1)


@pytest.mark.parametrize(
    ("now", "quorum_ms", "offers", "expected", "kind", "until", "words"),
    [
        (1000, None, 0, 5, None, 61_000, "0 of 5 offers, 3 are the quorum"),
        (5000, None, 2, 5, None, 61_000, "2 of 5 offers, 3 are the quorum"),
        (60_999, None, 2, 5, None, 61_000, "2 of 5 offers"),
        (61_000, None, 2, 5, Kind.SKIP, None, "2 offers, 3 are the quorum"),  # train_ms_max
        (1001, None, 2, 2, Kind.SKIP, None, "2 offers, 3 are the quorum"),  # three are lost
        (1001, None, 0, 3, None, 61_000, "0 of 3 offers"),
        (5000, 5000, 5, 5, Kind.UPDATE, None, "all 5 offers"),
        (5000, 5000, 3, 3, Kind.UPDATE, None, "all 3 offers"),  # nobody else is left
        (3000, 3000, 3, 5, None, 3500, "3 of 5 offers, grace of 500 ms"),  # a quarter of 2 s
        (3499, 3000, 4, 5, None, 3500, "4 of 5 offers, grace of 1 ms"),
        (3500, 3000, 3, 5, Kind.UPDATE, None, "3 of 5 offers when the grace was over"),
        (9000, 3000, 4, 5, Kind.UPDATE, None, "4 of 5 offers when the grace was over"),
        (1040, 1040, 3, 5, None, 1140, "grace of 100 ms"),  # at least 100
        (41_000, 41_000, 3, 5, None, 42_000, "grace of 1000 ms"),  # at most 1000
        (1000, 1000, 3, 5, None, 1100, "grace of 100 ms"),
    ],
)
def test_when_a_leader_goes_on(
    now: int,
    quorum_ms: int | None,
    offers: int,
    expected: int,
    kind: Kind | None,
    until: int | None,
    words: str,
) -> None:
    decision = decide(now, 1000, quorum_ms, offers, expected, GRACE, 0)
    assert words in decision.reason
    if kind is None:
        assert isinstance(decision, Wait)
        assert decision.until_ms == until
    else:
        assert isinstance(decision, Go)
        assert decision.kind is kind


@given(st.integers(0, 100_000), st.integers(0, 5), st.integers(0, 5), st.integers(0, 70_000))
def test_no_decision_waits_for_what_has_passed(elapsed: int, offers: int, lost: int, quorum_at: int) -> None:
    expected = max(offers, 5 - lost)
    quorum_ms = 1000 + min(quorum_at, elapsed) if offers >= GRACE.quorum else None
    now = 1000 + elapsed
    decision = decide(now, 1000, quorum_ms, offers, expected, GRACE, 0)
    if isinstance(decision, Wait):
        assert decision.until_ms is not None
        assert decision.until_ms > now
        later = decide(decision.until_ms, 1000, quorum_ms, offers, expected, GRACE, 0)
        assert isinstance(later, Go)
    else:
        assert (decision.kind is Kind.UPDATE) == (offers >= GRACE.quorum)


def gathering(present: int, start: int, updates: int = 0) -> Any:
    crowd = (member("coordinator"), *(member(f"w{n}", weight_from=9) for n in range(present)))
    rules = dataclasses.replace(RULES, start_workers=start)
    return terms(members=crowd, round=2, updates=updates, rules=rules)


@pytest.mark.parametrize(
    ("present", "start", "updates", "joiners", "goes", "words"),
    [
        (0, 3, 0, 0, False, "0 of 3 workers"),
        (0, 3, 0, 2, False, "2 of 3 workers"),
        (0, 3, 0, 3, True, "3 workers"),
        (0, 3, 0, 9, True, "9 workers"),
        (2, 3, 0, 1, True, "3 workers"),
        (1, 3, 0, 0, False, "1 of 3 workers"),
        (3, 3, 0, 0, True, "probation"),
        (0, 3, 5, 0, False, "0 of 1 workers"),  # all workers are gone: wait for one
        (0, 3, 5, 1, True, "1 workers"),
        (1, 3, 5, 0, True, "probation"),
    ],
)
def test_gathering(present: int, start: int, updates: int, joiners: int, goes: bool, words: str) -> None:
    given = gathering(present, start, updates)
    assert given.gathering
    decision = decide(10**9, 0, None, 0, 0, given, joiners)
    assert words in decision.reason
    if goes:
        assert isinstance(decision, Go)
        assert decision.kind is Kind.SKIP
    else:
        assert decision == Wait(decision.reason, None)


# ---- offers -------------------------------------------------------------------------------------

TERMS = terms(*NAMES, updates=1)


def offer(name: str, tokens: int = 1000, steps: int = 10, **changes: Any) -> Offer:
    return Offer(1, 0, ANCHOR, tokens, steps, **{"parts": blobs(name), **changes})


def leading(*names: str, given: Any = TERMS, view: int = 0) -> Leading:
    """A leader that has these offers."""
    lead = Leading(given, view, 1000)
    for name in names:
        lead.offer(peer(name), offer(name), 2000)
    return lead


def test_the_quorum_is_timed_once() -> None:
    lead = Leading(TERMS, 0, 1000)
    for at, name in enumerate(("w1", "w1", "w2", "w3")):
        lead.offer(peer(name), offer(name), 2000 + at)
    assert lead.quorum_ms == 2002


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("coordinator", offer("coordinator"), "weighs nothing yet"),
        ("w9", offer("w9"), "weighs nothing yet"),
        ("w1", offer("w1", parts=blobs("w1")[:2]), "other sizes"),
        ("w1", offer("w1", parts=blobs("w1", 4)), "other sizes"),
        ("w1", offer("w1", parts=()), "other sizes"),
    ],
)
def test_an_offer_that_does_not_fit_is_rejected_on_record(name: str, given: Offer, reason: str) -> None:
    lead = Leading(TERMS, 0, 0)
    lead.offer(peer(name), given, 0)
    assert not lead.offers
    assert reason in lead.rejected[peer(name)]
    body = lead.make_body(Kind.SKIP, ANCHOR, [], {})
    assert Rejection(peer(name), lead.rejected[peer(name)]) in body.rejected


@pytest.mark.parametrize("nothing", [offer("w1", tokens=0), offer("w1", steps=0)])
def test_an_offer_of_nothing_does_not_count(nothing: Offer) -> None:
    lead = Leading(TERMS, 0, 0)
    lead.offer(W1, nothing, 0)
    assert not lead.offers


def test_an_offer_made_right_is_no_longer_rejected() -> None:
    lead = leading("w2", "w3")
    lead.offer(W1, offer("w1", parts=()), 0)
    lead.offer(W1, offer("w1"), 0)
    exchange(lead)
    body = lead.make_body(Kind.UPDATE, ANCHOR, TERMS.voters, {})
    assert W1 in {c.peer for c in body.contributors}
    assert body.rejected == ()


@pytest.mark.parametrize(("tokens", "weight"), [(1, 1), (999, 999), (1000, 1000), ((1 << 64) - 1, 1000)])
def test_a_weight_is_the_tokens_up_to_what_was_assigned(tokens: int, weight: int) -> None:
    lead = Leading(TERMS, 0, 0)
    assert lead.weigh(W1, offer("w1", tokens)) == contributor("w1", tokens, weight)


def test_an_offer_after_the_plan_changes_no_column() -> None:
    """Or two owners of one exchange could sum different contributions of one peer."""
    lead = leading("w1", "w2", "w3")
    before = lead.plan()
    lead.offer(W1, offer("w1", 500, parts=blobs("trained again")), 3000)
    assert plans_of(lead.again()) == plans_of(before)


# ---- promises -----------------------------------------------------------------------------------


def test_view_0_needs_no_promises_and_later_ones_a_majority() -> None:
    assert leading().may_propose
    lead = leading(view=1)
    assert TERMS.majority == 3
    for count, name in enumerate(("w1", "w2", "coordinator"), 1):
        assert not lead.may_propose
        lead.promises[peer(name)] = None
        assert lead.may_propose is (count == 3)


def test_the_accepted_body_of_the_highest_view_binds() -> None:
    old, new = update(TERMS, "w1", "w2"), update(TERMS, "w1", "w3")
    lead = leading(view=9)
    assert lead.bound_to is None
    lead.promises = {W1: None, W2: (3, old), W3: (7, new)}
    assert lead.bound_to == new
    lead.promises = {W1: (8, old), W2: None, W3: (7, new)}
    assert lead.bound_to == old


# ---- plan, held, cut, reduced -------------------------------------------------------------------

Sent = list[tuple[tuple[PeerId, ...], Any]]


def plans_of(sent: Sent) -> dict[PeerId, Plan]:
    return {to[0]: message for to, message in sent if isinstance(message, Plan)}


def cuts_of(sent: Sent) -> list[tuple[tuple[PeerId, ...], Cut]]:
    return [(to, message) for to, message in sent if isinstance(message, Cut)]


def owner(lead: Leading, part: int) -> PeerId:
    assert lead.exchange is not None
    return lead.exchange.owners[part]


def hold(lead: Leading, part: int, *names: str) -> Sent:
    return lead.held(owner(lead, part), Held(1, 0, part, tuple(map(peer, names))))


def revision(lead: Leading) -> int:
    assert lead.exchange is not None
    return lead.exchange.revision


def mean(part: int) -> BlobRef:
    return BlobRef(digest(f"mean {part}"), part_bytes(3)[part])


def reduce(lead: Leading, part: int, **changes: Any) -> None:
    given = {"round": 1, "view": 0, "revision": revision(lead), "part": part, "blob": mean(part)}
    lead.reduced(owner(lead, part), Reduced(**{**given, **changes}))


def exchange(lead: Leading, *names: str) -> None:
    """The whole exchange, in which every owner holds what `names` contributed."""
    lead.plan()
    for part in range(3):
        hold(lead, part, *(names or ("w1", "w2", "w3")))
    for part in range(3):
        reduce(lead, part)


def test_a_plan_gives_every_owner_its_columns() -> None:
    lead = leading("w3", "w1", "w2")
    plans = plans_of(lead.plan())
    assert set(plans) == {W1, W2, W3}
    seen = {}
    for who, plan in plans.items():
        names = [p.peer for p in plan.participants]
        assert names == sorted((W1, W2, W3))
        assert (plan.round, plan.view, plan.revision) == (1, 0, 1)
        for column in plan.columns:
            assert owner(lead, column.part) == who
            offered = {peer(name): blobs(name)[column.part] for name in ("w1", "w2", "w3")}
            assert column.blobs == tuple(offered[name] for name in names)
            seen[column.part] = who
    assert sorted(seen) == [0, 1, 2]


def test_the_cut_waits_for_every_part_and_is_what_all_hold() -> None:
    lead = leading("w1", "w2", "w3")
    lead.plan()
    assert hold(lead, 0, "w1", "w2", "w3") == []
    assert hold(lead, 1, "w1", "w2") == []
    ((to, cut),) = cuts_of(hold(lead, 2, "w1", "w2", "w3"))
    assert {c.peer for c in cut.contributors} == {W1, W2}
    assert [c.peer for c in cut.contributors] == sorted((W1, W2))
    assert to == tuple(sorted({W1, W2}))  # the part of who is not in the cut has moved
    assert cut.revision == revision(lead) > 1
    assert not lead.cut_failed


def test_who_holds_what_it_should_not_adds_nothing() -> None:
    lead = leading("w1", "w2")
    lead.plan()
    for part in range(3):
        sent = hold(lead, part, "w1", "w2", "w3", "w9")
    assert {c.peer for c in cuts_of(sent)[0][1].contributors} == {W1, W2}


def test_too_small_a_cut_fails() -> None:
    lead = leading("w1", "w2", "w3")
    lead.plan()
    hold(lead, 0, "w1")
    hold(lead, 1, "w1", "w2", "w3")
    assert hold(lead, 2, "w2", "w1") == []
    assert lead.cut_failed
    assert not lead.complete()


def test_only_the_owner_of_a_part_speaks_for_it() -> None:
    lead = leading("w1", "w2", "w3")
    assert lead.held(W1, Held(1, 0, 0, (W1,))) == []
    lead.plan()
    stranger = next(who for who in (W1, W2, W3) if who != owner(lead, 0))
    for sender, part in ((stranger, 0), (W1, 3), (W1, (1 << 32) - 1)):
        assert lead.held(sender, Held(1, 0, part, (W1, W2, W3))) == []
    assert lead.exchange is not None
    assert lead.exchange.held == {}
    for part in range(3):
        hold(lead, part, "w1", "w2", "w3")
    lead.reduced(stranger, Reduced(1, 0, revision(lead), 0, mean(0)))
    lead.reduced(W1, Reduced(1, 0, revision(lead), 99, mean(0)))
    assert lead.exchange.reduced == {}


def test_sums_of_another_revision_or_size_do_not_count() -> None:
    lead = leading("w1", "w2", "w3")
    lead.plan()
    reduce(lead, 0)
    for part in range(3):
        hold(lead, part, "w1", "w2", "w3")
    reduce(lead, 0, revision=revision(lead) - 1)
    reduce(lead, 0, revision=revision(lead) + 1)
    reduce(lead, 0, blob=BlobRef(digest("mean"), 1))
    assert lead.silent_owners() == {W1, W2, W3}
    for part in range(3):
        assert not lead.complete()
        reduce(lead, part)
    assert lead.complete()


def test_a_repeated_report_repeats_the_cut_for_those_that_still_owe_a_sum() -> None:
    lead = leading("w1", "w2", "w3")
    lead.plan()
    for part in range(3):
        hold(lead, part, "w1", "w2", "w3")
    before = revision(lead)
    reduce(lead, 1)
    ((to, cut),) = cuts_of(hold(lead, 0, "w1", "w2", "w3"))
    assert cut.revision == revision(lead) == before
    assert owner(lead, 1) not in to


def test_a_cut_never_grows() -> None:
    lead = leading("w1", "w2", "w3")
    lead.plan()
    hold(lead, 0, "w1", "w2")
    hold(lead, 1, "w1", "w2", "w3")
    hold(lead, 2, "w1", "w2", "w3")
    sent = hold(lead, 0, "w1", "w2", "w3")
    assert {c.peer for c in cuts_of(sent)[0][1].contributors} == {W1, W2}


# ---- parts move ---------------------------------------------------------------------------------


def test_before_the_cut_a_part_moves_with_its_column_alone() -> None:
    lead = leading("w1", "w2", "w3")
    lead.plan()
    gone = owner(lead, 0)
    assert lead.silent_owners() == {W1, W2, W3}
    hold(lead, 1, "w1", "w2", "w3")
    assert lead.silent_owners() == {owner(lead, 0), owner(lead, 2)}
    sent = lead.move_parts({gone})
    assert cuts_of(sent) == []
    ((to, plan),) = plans_of(sent).items()
    assert to == owner(lead, 0) != gone
    assert [column.part for column in plan.columns] == [0]
    assert plan.revision == revision(lead) == 2
    assert {p.peer for p in plan.participants} == {W1, W2, W3}  # its contribution may still be had


def test_a_moved_part_that_lacks_a_contributor_shrinks_the_cut() -> None:
    lead = leading("w1", "w2", "w3")
    lead.plan()
    for part in range(3):
        hold(lead, part, "w1", "w2", "w3")
    old = revision(lead)
    for part in (1, 2):
        reduce(lead, part)
    gone = owner(lead, 0)
    sent = lead.move_parts({gone})
    assert [column.part for column in plans_of(sent)[owner(lead, 0)].columns] == [0]
    moved = revision(lead)
    assert moved > old
    assert {cut.revision for _, cut in cuts_of(sent)} == {moved}
    assert lead.exchange is not None
    assert lead.exchange.reduced == {}  # sums of the old revision would be of another set, if it shrinks
    left = [name for name in ("w1", "w2", "w3") if peer(name) != gone]
    ((to, cut),) = cuts_of(hold(lead, 0, *left))
    assert {c.peer for c in cut.contributors} == set(map(peer, left))
    assert cut.revision == revision(lead) > moved
    assert set(to) == set(map(peer, left))
    reduce(lead, 1, revision=moved)
    assert lead.exchange.reduced == {}
    for part in range(3):
        reduce(lead, part)
    assert lead.complete()
    body = lead.make_body(Kind.UPDATE, ANCHOR, TERMS.voters, {})
    assert objection(TERMS, body, ANCHOR) is None


def test_a_moved_part_goes_to_the_one_that_owns_least() -> None:
    given = terms(*FIVE, parts=5, updates=1)
    lead = Leading(given, 0, 0)
    for name in FIVE[:5]:
        lead.offer(peer(name), offer(name, parts=blobs(name, 5)), 0)
    lead.plan()
    assert lead.exchange is not None
    gone = set(lead.exchange.owners[:2])
    lead.move_parts(gone)
    loads = sorted(lead.exchange.owners.count(who) for who in given.eligible - gone)
    assert loads == [1, 2, 2]
    assert not gone & set(lead.exchange.owners)
    lead.move_parts({lead.exchange.owners[4]})
    assert not gone & set(lead.exchange.owners)  # who is gone stays gone


def test_nothing_moves_when_nothing_can() -> None:
    lead = leading("w1", "w2", "w3")
    assert lead.move_parts({W1}) == []
    lead.plan()
    before = revision(lead)
    assert lead.move_parts(set()) == []
    assert lead.move_parts({peer("coordinator")}) == []
    assert lead.move_parts({W1, W2, W3}) == []
    assert revision(lead) == before


def test_moves_are_bounded() -> None:
    lead = leading("w1", "w2", "w3")
    lead.plan()
    assert lead.exchange is not None
    lead.exchange.revision = REVISIONS_MAX
    assert lead.move_parts({W1}) == []


def test_after_the_body_nothing_moves() -> None:
    lead = leading("w1", "w2", "w3")
    exchange(lead)
    lead.body = lead.make_body(Kind.UPDATE, ANCHOR, TERMS.voters, {})
    assert lead.silent_owners() == set()
    assert lead.move_parts({W1}) == []


@settings(max_examples=60)
@given(st.data())
def test_however_messages_come_one_set_is_summed(data: st.DataObject) -> None:
    """Reports, sums and moves in any order: a complete exchange is of one revision, and nobody objects."""
    lead = leading("w1", "w2", "w3")
    lead.plan()
    assert lead.exchange is not None
    summed: dict[tuple[int, int], tuple[PeerId, ...]] = {}
    for _ in range(data.draw(st.integers(0, 30))):
        part = data.draw(st.integers(0, 2))
        match data.draw(st.sampled_from(["held", "held", "reduced", "reduced", "stale", "move"])):
            case "held":
                hold(lead, part, *data.draw(st.sets(st.sampled_from(["w1", "w2", "w3"]), min_size=2)))
            case "reduced":
                reduce(lead, part)
            case "stale":
                reduce(lead, part, revision=data.draw(st.integers(0, revision(lead))))
            case _:
                lead.move_parts({owner(lead, part)})
        if lead.exchange.cut is not None:
            cut = tuple(c.peer for c in lead.exchange.cut)
            assert summed.setdefault((revision(lead), 0), cut) == cut
    if lead.complete() and not lead.cut_failed:
        body = lead.make_body(Kind.UPDATE, ANCHOR, TERMS.voters, {})
        assert objection(TERMS, body, ANCHOR) is None


# ---- said again ---------------------------------------------------------------------------------


def test_again_repeats_what_the_stage_waits_for() -> None:
    lead = leading("w1", "w2", "w3")
    assert lead.again() == []
    first = plans_of(lead.plan())
    assert plans_of(lead.again()) == first
    hold(lead, 0, "w1", "w2", "w3")
    assert set(plans_of(lead.again())) == {owner(lead, 1), owner(lead, 2)}
    hold(lead, 1, "w1", "w2", "w3")
    hold(lead, 2, "w1", "w2", "w3")
    ((to, cut),) = lead.again()
    assert isinstance(cut, Cut)
    assert set(to) == {W1, W2, W3}
    reduce(lead, 1)
    assert owner(lead, 1) not in lead.again()[0][0]
    lead.move_parts({owner(lead, 2)})
    again = lead.again()
    assert set(plans_of(again)) == {owner(lead, 2)}
    assert [c.revision for _, c in cuts_of(again)] == [revision(lead)]


def test_again_repeats_a_proposal_to_those_that_have_not_voted() -> None:
    lead = leading("w1", "w2", "w3")
    exchange(lead)
    lead.body = lead.make_body(Kind.UPDATE, ANCHOR, TERMS.voters, {})
    ((to, message),) = lead.again()
    assert set(to) == set(TERMS.voters)
    assert isinstance(message, Propose)
    lead.votes.update(votes(lead.body, ("w1", "w3")))
    assert set(lead.again()[0][0]) == {W2, peer("coordinator")}
    lead.votes.update(votes(lead.body, NAMES))
    assert lead.again() == []


# ---- the body -----------------------------------------------------------------------------------


def test_the_body_of_an_update() -> None:
    lead = leading("w1", "w2", "w3")
    exchange(lead, "w1", "w3")
    joiners = {peer("w4"): Role.WORKER}
    body = lead.make_body(Kind.UPDATE, ANCHOR, TERMS.voters, joiners)
    assert objection(TERMS, body, ANCHOR) is None
    assert [c.peer for c in body.contributors] == sorted((W1, W3))
    assert body.blobs == tuple(mean(part) for part in range(3))
    assert body.rejected == (Rejection(W2, "its parts did not reach every owner"),)
    assert peer("w4") in {m.peer for m in body.members}
    ((_, message),) = lead_proposes(lead, body)
    assert message.holders == tuple(owner(lead, part) for part in range(3))
    assert message.by_part


def lead_proposes(lead: Leading, body: Any) -> Sent:
    lead.body = body
    return lead.propose(TERMS.voters)


def test_the_body_of_a_skip_says_why_for_everybody() -> None:
    lead = leading("w1")
    lead.leaving.add(W2)
    body = lead.make_body(Kind.SKIP, ANCHOR, TERMS.voters, {})
    assert objection(TERMS, body, ANCHOR) is None
    assert (body.contributors, body.blobs) == ((), ())
    assert {r.peer: r.reason for r in body.rejected} == {
        W1: "too few offers for an update",
        W2: "no offer before the cut",
        W3: "no offer before the cut",
    }
    assert {m.peer for m in body.members} == {W1, W3, peer("coordinator")}


def test_a_run_is_never_left_without_members() -> None:
    given = terms("w1", updates=1)
    lead = Leading(given, 0, 0)
    lead.leaving.add(W1)
    body = lead.make_body(Kind.SKIP, ANCHOR, {W1}, {})
    assert body.members == members("w1")


def test_a_body_proposed_again_names_those_that_accepted_it_first() -> None:
    lead = leading(view=2)
    body = update(TERMS, "w2", "w3")
    other = update(TERMS, "w1", "w3")
    lead.promises = {W1: (0, body), W2: (1, body), W3: None, peer("coordinator"): (0, other)}
    ((_, message),) = lead_proposes(lead, body)
    assert set(message.holders[:2]) == {W1, W2}
    assert message.holders[2:] == (W3,)  # it contributed, so it may own a part
    assert not message.by_part
    assert (message.view, message.body) == (2, body)
    assert lead.propose([]) == []
