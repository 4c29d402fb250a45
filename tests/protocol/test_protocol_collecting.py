"""A leader that collects contributions: what it fetches, how long it waits, and what the update is then."""

from __future__ import annotations

from dataclasses import replace

from leading_bench import W1, W2, W3
from protocol_samples import ANCHOR, RULES, digest, peer, terms

from atoll.protocol.collecting import Collecting, collecting
from atoll.protocol.commits import Kind, Rejection
from atoll.protocol.ids import BlobRef
from atoll.protocol.leading import Leading
from atoll.protocol.messages import Offer
from atoll.protocol.roster import Presence
from atoll.protocol.terms import objection

GIVEN = terms(
    "w1", "w2", "w3", "coordinator", updates=1, rules=replace(RULES, exchange="sparse"), part_bytes=(50,)
)


def blob(name: str) -> BlobRef:
    return BlobRef(digest(f"what {name} did"), 50)


def begin(**labels: str) -> tuple[Leading, Collecting]:
    """A leader with offers of these workers, by what they offer."""
    lead = Leading(GIVEN, 0, 1000)
    for name, label in labels.items():
        lead.offer(peer(name), Offer(1, 0, ANCHOR, 1000, 10, (blob(label),)), 2000)
    return lead, collecting(W1, lead)


def test_it_fetches_what_is_not_here() -> None:
    _, mine = begin(w1="a", w2="b", w3="c")
    assert dict(mine.missing({blob("b").digest})) == {W1: blob("a"), W3: blob("c")}


def test_all_that_arrived_is_the_update_in_the_order_of_peers() -> None:
    lead, mine = begin(w3="c", w1="a", w2="b")
    held = {blob(name).digest for name in "abc"}
    mine.cut(held, GIVEN.quorum)
    assert lead.complete()
    assert not lead.cut_failed
    body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(GIVEN.voters), {})
    assert objection(GIVEN, body, ANCHOR) is None
    assert [c.peer for c in body.contributors] == sorted([W1, W2, W3])
    assert body.blobs == tuple(blob({W1: "a", W2: "b", W3: "c"}[c.peer]) for c in body.contributors)
    lead.body = body
    ((_, propose),) = lead.propose(GIVEN.voters)
    assert (propose.holders, propose.by_part) == (tuple(c.peer for c in body.contributors), True)  # type: ignore[union-attr]


def test_others_get_from_the_leader_what_a_slow_uplink_sent_it() -> None:
    lead = Leading(GIVEN, 0, 1000)
    for name, label, uplink in (("w1", "a", 100), ("w2", "b", 10), ("w3", "c", 100)):
        lead.offer(peer(name), Offer(1, 0, ANCHOR, 1000, 10, (blob(label),), uplink=uplink), 2000)
    mine = collecting(W1, lead)
    mine.cut({blob(name).digest for name in "abc"}, GIVEN.quorum)
    lead.body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(GIVEN.voters), {})
    ((_, propose),) = lead.propose(GIVEN.voters)
    order = [c.peer for c in lead.body.contributors]
    given = [W1 if who == W2 else who for who in order]
    assert list(propose.holders) == [*given, *order]  # type: ignore[union-attr]


def test_a_late_one_is_waited_for_until_the_time_is_over() -> None:
    lead, mine = begin(w1="a", w2="b", w3="c")
    held = {blob("a").digest, blob("b").digest}
    mine.cut(held, GIVEN.quorum)
    assert not lead.complete()
    mine.impatient = True
    mine.cut(held, GIVEN.quorum)
    assert lead.complete()
    body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(GIVEN.voters), {})
    assert {c.peer for c in body.contributors} == {W1, W2}
    assert body.rejected == (Rejection(W3, "its contribution did not arrive in time"),)
    assert mine.missing(held) == [], "what is left out is not fetched any longer"


def test_who_is_surely_gone_is_not_waited_for_if_there_is_a_quorum() -> None:
    lead, mine = begin(w1="a", w2="b", w3="c")
    mine.fail(blob("c").digest)
    mine.cut({blob("a").digest}, GIVEN.quorum)
    assert not lead.complete()
    mine.cut({blob("a").digest, blob("b").digest}, GIVEN.quorum)
    assert lead.complete()


def test_a_failure_below_the_quorum_waits_for_another_try() -> None:
    lead, mine = begin(w1="a", w2="b", w3="c")
    mine.fail(blob("b").digest)
    mine.fail(blob("c").digest)
    mine.cut({blob("a").digest}, GIVEN.quorum)
    assert lead.exchange is not None
    assert lead.exchange.cut is None


def test_too_few_are_a_skip() -> None:
    lead, mine = begin(w1="a", w2="b", w3="c")
    mine.impatient = True
    mine.cut({blob("a").digest}, GIVEN.quorum)
    assert lead.cut_failed


def test_what_is_cut_stays_cut() -> None:
    lead, mine = begin(w1="a", w2="b", w3="c")
    mine.impatient = True
    mine.cut({blob("a").digest, blob("b").digest}, GIVEN.quorum)
    mine.cut({blob(name).digest for name in "abc"}, GIVEN.quorum)
    body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(GIVEN.voters), {})
    assert {c.peer for c in body.contributors} == {W1, W2}


def test_the_same_bytes_count_once_for_who_offered_them_first() -> None:
    lead, mine = begin(w2="a", w1="a", w3="c")
    assert set(mine.wanted) == {W2, W3}
    mine.cut({blob("a").digest, blob("c").digest}, GIVEN.quorum)
    body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(GIVEN.voters), {})
    assert objection(GIVEN, body, ANCHOR) is None
    assert body.rejected == (Rejection(W1, "its contribution is the same as another's"),)


def test_nothing_of_a_dense_exchange_disturbs_a_collection() -> None:
    lead, _ = begin(w1="a", w2="b", w3="c")
    assert lead.again() == []
    assert lead.move_parts({W1}) == []
    assert lead.silent_owners() == set()
