"""A leader in the exchange: it plans, fixes the one contributor set, and moves the parts of who is gone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from leading_bench import (
    FIVE,
    NAMES,
    TERMS,
    W1,
    W2,
    W3,
    cuts_of,
    exchange,
    hold,
    leading,
    mean,
    offer,
    owner,
    plans_of,
    reduce,
    revision,
)
from protocol_samples import (
    ANCHOR,
    blobs,
    digest,
    peer,
    terms,
    votes,
)

from atoll.protocol.commits import Kind
from atoll.protocol.ids import BlobRef, PeerId
from atoll.protocol.leading import REVISIONS_MAX, Leading
from atoll.protocol.messages import Cut, Held, Propose, Reduced
from atoll.protocol.roster import Presence
from atoll.protocol.terms import objection

# ---- plan, held, cut, reduced -------------------------------------------------------------------


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


def test_who_is_not_in_the_cut_owns_nothing_any_more() -> None:
    """Whose parts reached nobody in time would not give its sum either."""
    lead = leading("w1", "w2", "w3")
    lead.plan()
    part = next(part for part in range(3) if owner(lead, part) == W3)
    for other in range(3):
        sent = hold(lead, other, "w1", "w2")
    heir = owner(lead, part)
    assert heir in (W1, W2)
    assert [column.part for column in plans_of(sent)[heir].columns] == [part]
    assert not lead.complete()
    hold(lead, part, "w1", "w2")
    for other in range(3):
        reduce(lead, other)
    assert lead.complete()


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
    body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(TERMS.voters), {})
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
    lead.body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(TERMS.voters), {})
    assert lead.silent_owners() == set()
    assert lead.move_parts({W1}) == []


@settings(max_examples=60)
@given(st.data())
def test_however_messages_come_one_set_is_summed(data: st.DataObject) -> None:
    """Reports, sums and moves in any order: a complete exchange is of one revision, and nobody objects.

    Who is left out of the set owns no part of it, unless all that are in it are gone: then nobody else could.
    """
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
        assert lead.exchange.cut is not None
        counted = {c.peer for c in lead.exchange.cut}
        assert counted >= set(lead.exchange.owners) or counted <= lead.exchange.gone
        body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(TERMS.voters), {})
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
    lead.body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(TERMS.voters), {})
    ((to, message),) = lead.again()
    assert set(to) == set(TERMS.voters)
    assert isinstance(message, Propose)
    lead.votes.update(votes(lead.body, ("w1", "w3")))
    assert set(lead.again()[0][0]) == {W2, peer("coordinator")}
    lead.votes.update(votes(lead.body, NAMES))
    assert lead.again() == []
