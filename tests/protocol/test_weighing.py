"""Weights by a run's rule: a leader gives them, voters work them out again, and nobody can choose others."""

from __future__ import annotations

import dataclasses

import pytest
from protocol_samples import (
    ANCHOR,
    ASSIGNED,
    RULES,
    blobs,
    chain,
    contributor,
    digest,
    key,
    manifest,
    member,
    members,
    peer,
    skip,
    terms,
    update,
    votes,
)

from atoll.protocol.commits import (
    Body,
    Commit,
    Contributor,
    Kind,
    Snapshot,
    body_from_bytes,
    snapshot_to_wire,
)
from atoll.protocol.commits import snapshot_from_bytes as read_snapshot
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.leading import Leading
from atoll.protocol.manifest import RoundRules, check_rounds
from atoll.protocol.messages import Offer
from atoll.protocol.participation import Gaps
from atoll.protocol.roster import Member, Presence, member_from_wire, member_to_wire, members_digest
from atoll.protocol.terms import Terms, objection
from atoll.protocol.weighing import attended, share, weight_of
from atoll.protocol.weights import UNIT

NAMES = ("coordinator", "w1", "w2", "w3")


def rules(weights: str) -> RoundRules:
    return dataclasses.replace(RULES, weights=weights)


def given_terms(weights: str, gaps: dict[str, Gaps] | None = None, **changes: object) -> Terms:
    listed = sorted((member(n, gaps=(gaps or {}).get(n, Gaps())) for n in NAMES), key=lambda m: m.peer)
    return terms(*NAMES, rules=rules(weights), **{"members": tuple(listed), **changes})  # type: ignore[arg-type]


def weighed(of: Terms, name: str, tokens: int, steps: int) -> Contributor:
    who = peer(name)
    return Contributor(who, tokens, steps, weight_of(of, who, tokens, steps))


def decided(of: Terms, *said: Contributor) -> Body:
    ordered = tuple(sorted(said, key=lambda c: c.peer))
    body = update(of, contributors=ordered)
    return dataclasses.replace(body, members=attended(of, of.members, Kind.UPDATE, ordered))


def gaps_of(listed: tuple[Member, ...]) -> dict[str, Gaps]:
    return {name: next(m.gaps for m in listed if m.peer == peer(name)) for name in NAMES}


def test_a_leader_weighs_by_rate() -> None:
    lead = Leading(given_terms("rate"), 0, 0)
    for name, steps in (("w1", 10), ("w2", 20), ("w3", 5000)):
        lead.offer(peer(name), Offer(1, 0, ANCHOR, 1000, steps, blobs(name)), 0)
    weights = {who: lead.weigh(who, offer).weight for who, offer in lead.offers.items()}
    assert weights == {peer("w1"): 1000, peer("w2"): 500, peer("w3"): 2}
    lead.offer(peer("w1"), Offer(1, 0, ANCHOR, 9, 5000, blobs("w1")), 0)
    assert lead.rejected[peer("w1")] == "weighs nothing"


def test_voters_object_to_another_weight_than_follows() -> None:
    of = given_terms("rate")
    right = [weighed(of, "w1", 1000, 10), weighed(of, "w2", 800, 10), weighed(of, "w3", 1000, 20)]
    assert objection(of, decided(of, *right), ANCHOR) is None
    for weight, words in ((501, "within"), (499, "weighs 500 by the run's rule, not 499"), (0, "within")):
        wrong = [*right[:2], dataclasses.replace(right[2], weight=weight)]
        assert words in (objection(of, decided(of, *wrong), ANCHOR) or "")


def test_where_weights_are_tokens_a_leader_may_give_less() -> None:
    of = terms(*NAMES)
    less = (contributor("w1", weight=7), contributor("w2"), contributor("w3"))
    body = update(of, contributors=tuple(sorted(less, key=lambda c: c.peer)))
    assert objection(of, body, ANCHOR) is None


def test_who_is_seldom_here_weighs_more_and_commits_say_so() -> None:
    of = given_terms("participation")
    for present in (("w1", "w2"), ("w1", "w2"), ("w1", "w2", "w3")):
        body = decided(of, *(weighed(of, name, 1000, 10) for name in present))
        assert {c.weight for c in body.contributors} == {1000}, "no gap has ended before"
        assert objection(of, body, ANCHOR) is None
        of = dataclasses.replace(of, members=body.members, round=of.round + 1)
    assert gaps_of(of.members) == {
        "coordinator": Gaps(),
        "w1": Gaps(3 * UNIT, 3),
        "w2": Gaps(3 * UNIT, 3),
        "w3": Gaps(3 * UNIT, 1),
    }
    assert [weight_of(of, peer(name), 1000, 10) for name in ("w1", "w3")] == [1000, 3000]
    assert weight_of(of, peer("w3"), 5000, 10) == 3000, "tokens beyond the assignment count for nobody"


def test_gaps_survive_commits_and_snapshots() -> None:
    of = given_terms("participation", {"w1": Gaps(9 * UNIT, 3, 2)})
    body = decided(of, *(weighed(of, name, 1000, 10) for name in ("w2", "w3")))
    read = body_from_bytes(body.encoded, lambda _: of.members)
    assert gaps_of(read.members)["w1"] == Gaps(9 * UNIT, 3, 3)
    snapshot = Snapshot(1, 0, body.digest, 1, read.members)
    again = read_snapshot(snapshot_to_wire(snapshot).SerializeToString())
    assert again.members == read.members
    assert members_digest(read.members) != members_digest(of.members), "a snapshot signs them"
    wrong = member_to_wire(read.members[0])
    wrong.gap_count = 65
    with pytest.raises(RemoteProtocolError, match="past"):
        member_from_wire(wrong)


def test_nobody_can_choose_a_past() -> None:
    words = "gaps of the next members do not follow"
    of = given_terms("participation")
    right = decided(of, weighed(of, "w1", 1000, 10), weighed(of, "w2", 1000, 10))
    for gaps in (Gaps(), Gaps(50 * UNIT, 1), Gaps(2 * UNIT, 1)):
        wrong = tuple(dataclasses.replace(m, gaps=gaps) if m.peer == peer("w1") else m for m in right.members)
        assert words in (objection(of, dataclasses.replace(right, members=wrong), ANCHOR) or "")
    plain = terms(*NAMES)
    invented = tuple(dataclasses.replace(m, gaps=Gaps(50 * UNIT, 1)) for m in plain.members)
    assert words in (objection(plain, update(plain, "w1", "w2", members=invented), ANCHOR) or "")


def test_a_skip_and_a_probation_are_nobodys_gap() -> None:
    new = member("w3", weight_from=9)
    listed = tuple(sorted((*members("coordinator", "w1", "w2"), new), key=lambda m: m.peer))
    of = given_terms("participation", members=listed)
    assert attended(of, of.members, Kind.SKIP, ()) == of.members
    body = decided(of, weighed(of, "w1", 1000, 10))
    assert gaps_of(body.members)["w3"] == Gaps()
    joined = attended(
        of, (*of.members, member("w4", gaps=Gaps(50 * UNIT, 1))), Kind.UPDATE, body.contributors
    )
    assert next(m.gaps for m in joined if m.peer == peer("w4")) == Gaps()


def test_a_leader_makes_a_body_that_voters_take() -> None:
    of = given_terms("participation", {"w2": Gaps(10 * UNIT, 2, 4)})
    lead = Leading(of, 0, 0)
    for name in ("w1", "w2"):
        lead.offer(peer(name), Offer(1, 0, ANCHOR, 1000, 10, blobs(name)), 0)
    lead.plan()
    assert lead.exchange is not None
    lead.exchange.cut = lead.exchange.participants
    lead.exchange.reduced = dict(enumerate(blobs("mean")))
    body = lead.make_body(Kind.UPDATE, ANCHOR, Presence([peer(name) for name in NAMES]), {})
    assert objection(of, body, ANCHOR) is None
    assert {c.peer: c.weight for c in body.contributors} == {peer("w1"): 1000, peer("w2"): 5000}
    assert gaps_of(body.members)["w2"] == Gaps(15 * UNIT, 3)
    run = manifest(of.rules)
    assert share(body, run) == (6000, 3 * ASSIGNED.tokens)
    assert share(body, manifest()) is None


def test_a_weight_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="one of tokens, rate, participation"):
        check_rounds(rules("fame"), "RUN.toml")


# ---- what comes late ----------------------------------------------------------------------------

MERGES = dataclasses.replace(RULES, late="merge", staleness_max=3)


def late(name: str, staleness: int, tokens: int = 1000) -> Contributor:
    of = terms(*NAMES, rules=MERGES)
    weight = weight_of(of, peer(name), tokens, 10, staleness)
    return Contributor(peer(name), tokens, 10, weight, staleness=staleness)


def test_what_is_late_weighs_less_up_to_a_bound() -> None:
    assert [late("w1", s).weight for s in range(5)] == [1000, 707, 577, 500, 0]
    plain = terms(*NAMES)
    assert weight_of(plain, peer("w1"), 1000, 10, 1) == 0, "this run merges nothing"


def test_voters_check_the_weight_and_the_bound() -> None:
    of = terms(*NAMES, rules=MERGES)

    def said(first: Contributor) -> Body:
        return update(of, contributors=tuple(sorted((first, late("w2", 0)), key=lambda c: c.peer)))

    assert objection(of, said(late("w1", 3)), ANCHOR) is None
    for changed, words in (
        ({"weight": 1000}, "within"),
        ({"weight": 499}, "weighs 500"),
        ({"staleness": 4}, "within"),
        ({"staleness": 2}, "weighs 577"),
        ({"staleness": 0}, "weighs 1000"),
    ):
        wrong = dataclasses.replace(late("w1", 3), **changed)
        assert words in (objection(of, said(wrong), ANCHOR) or ""), changed
    unasked = terms(*NAMES)
    body = update(unasked, contributors=said(late("w1", 1)).contributors)
    assert "within" in (objection(unasked, body, ANCHOR) or "")


def test_a_commit_says_how_late_its_contributors_were() -> None:
    of = terms(*NAMES, rules=MERGES)
    mixed = update(of, contributors=tuple(sorted((late("w1", 2), late("w2", 0)), key=lambda c: c.peer)))
    read = body_from_bytes(mixed.encoded, lambda _: of.members)
    assert {c.peer: c.staleness for c in read.contributors} == {peer("w1"): 2, peer("w2"): 0}
    fresh = update(of, "w1", "w2")
    assert fresh.encoded == update(terms(*NAMES), "w1", "w2").encoded, "the bytes that such a body always had"


def test_a_leader_takes_no_offer_that_is_too_late() -> None:
    lead = Leading(terms(*NAMES, rules=MERGES), 0, 0)
    for name, staleness in (("w1", 3), ("w2", 4)):
        lead.offer(peer(name), Offer(1, 0, ANCHOR, 1000, 10, blobs(name), staleness=staleness), 0)
    assert {who: lead.weigh(who, it).weight for who, it in lead.offers.items()} == {peer("w1"): 500}
    assert lead.rejected == {peer("w2"): "weighs nothing"}
    lead.strays(blobs("another anchor")[0].digest)
    assert list(lead.offers) == [peer("w1")], "where it started is known from the ledger"


def test_the_ledger_knows_where_late_work_began() -> None:
    ledger = chain(0, *NAMES)
    for number, kind in enumerate((Kind.UPDATE, Kind.SKIP, Kind.UPDATE, Kind.SKIP)):
        body = skip(ledger, kind=kind, anchor=digest(f"before {number}"))
        ledger.append(Commit(body, 0, tuple(sorted(votes(body, NAMES)))), key("w1"))
    assert ledger.start_of(1) == digest("before 2")
    assert ledger.start_of(2) == digest("before 0")
    assert ledger.start_of(3) is None


def test_what_does_not_go_with_merging() -> None:
    for changes, words in (
        ({"wait": "dynamic"}, "nobody needs to be waited for"),
        ({"staleness_max": 65}, "1 to 64"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_rounds(dataclasses.replace(MERGES, **changes), "RUN.toml")
