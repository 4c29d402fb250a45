"""A leader: what it takes into account, what binds it, and what it proposes."""

from __future__ import annotations

import pytest
from leading_bench import (
    TERMS,
    W1,
    W2,
    W3,
    exchange,
    lead_proposes,
    leading,
    mean,
    offer,
    owner,
    plans_of,
)
from protocol_samples import (
    ANCHOR,
    blobs,
    contributor,
    members,
    peer,
    terms,
    update,
)

from atoll.protocol.commits import Kind, Rejection
from atoll.protocol.leading import Leading
from atoll.protocol.messages import Offer
from atoll.protocol.roster import Presence, Role
from atoll.protocol.terms import objection

# ---- offers -------------------------------------------------------------------------------------


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
    body = lead.make_body(Kind.SKIP, ANCHOR, Presence([]), {})
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
    body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(TERMS.voters), {})
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


# ---- the body -----------------------------------------------------------------------------------


def test_the_body_of_an_update() -> None:
    lead = leading("w1", "w2", "w3")
    exchange(lead, "w1", "w3")
    joiners = {peer("w4"): Role.WORKER}
    body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(TERMS.voters), joiners)
    assert objection(TERMS, body, ANCHOR) is None
    assert [c.peer for c in body.contributors] == sorted((W1, W3))
    assert body.blobs == tuple(mean(part) for part in range(3))
    assert body.rejected == (Rejection(W2, "its parts did not reach every owner"),)
    assert peer("w4") in {m.peer for m in body.members}
    ((_, message),) = lead_proposes(lead, body)
    assert message.holders == tuple(owner(lead, part) for part in range(3))
    assert message.by_part


def test_the_body_of_a_skip_says_why_for_everybody() -> None:
    lead = leading("w1")
    lead.leaving.add(W2)
    body = lead.make_body(Kind.SKIP, ANCHOR, Presence(TERMS.voters), {})
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
    body = lead.make_body(Kind.SKIP, ANCHOR, Presence({W1}), {})
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
