"""What each member derives alone must come out the same, be fair, and catch every wrong body."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import (
    ANCHOR,
    ASSIGNED,
    RULES,
    RUN,
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

from atoll.protocol.commits import Body, Commit, Kind, Rejection
from atoll.protocol.ids import REASON_MAX, BlobRef, PeerId, peer_id
from atoll.protocol.manifest import RoundRules
from atoll.protocol.roster import MEMBERS_MAX, Member, Presence, Role
from atoll.protocol.terms import (
    PIECES_MAX,
    Terms,
    by_hash,
    next_members,
    objection,
    parts_of,
    terms_of,
)

NAMES = ("w1", "w2", "w3", "coordinator")
WORKERS = ("w1", "w2", "w3")
names = st.integers(1, 12).map(lambda count: [f"w{number}" for number in range(count)])
labels = st.text(max_size=5)


# ---- leaders and owners -------------------------------------------------------------------------


@given(names, labels)
def test_the_leaders_are_a_permutation_of_the_members(who: list[str], label: str) -> None:
    given = terms(*who, parent=digest(label))
    order = [given.leader(view) for view in range(len(who))]
    assert sorted(order) == sorted(map(peer, who))
    assert given.leader(len(who)) == order[0]
    assert given.leader((1 << 32) - 1) in order


@given(names, labels)
def test_all_members_derive_the_same_leaders(who: list[str], label: str) -> None:
    one = terms(*who, parent=digest(label))
    other = dataclasses.replace(one, members=tuple(reversed(one.members)))
    assert [one.leader(view) for view in range(20)] == [other.leader(view) for view in range(20)]
    assert one.owners(sorted(one.workers)) == one.owners(sorted(one.workers, reverse=True))


def test_the_parent_decides_who_leads() -> None:
    """Over many rounds everybody leads about as often: no peer can be sure to lead."""
    leads = Counter(terms(*NAMES, parent=digest(str(round_))).leader(0) for round_ in range(400))
    assert set(leads) == set(map(peer, NAMES))
    assert min(leads.values()) > 60


def test_leading_and_owning_are_drawn_apart() -> None:
    who = [peer(name) for name in WORKERS]
    rounds = [digest(str(round_)) for round_ in range(60)]
    same = sum(by_hash(parent, who, "leader") == by_hash(parent, who, "owner") for parent in rounds)
    assert 0 < same < 30


@given(names, st.integers(1, 40), labels)
def test_parts_are_spread_evenly(who: list[str], parts: int, label: str) -> None:
    given = terms(*who, parts=parts, parent=digest(label))
    owners = given.owners([peer(name) for name in who])
    assert len(owners) == parts
    loads = Counter(owners)
    assert max(loads.values()) <= -(-parts // len(who))
    assert set(owners) <= set(map(peer, who))


# ---- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "quorum", "offers"),
    [(1, 0.5, 1), (3, 0.5, 2), (4, 0.5, 2), (3, 1, 3), (3, 0.01, 1), (0, 1, 1)],
)
def test_the_quorum_is_a_share_of_the_eligible(workers: int, quorum: float, offers: int) -> None:
    who = [f"w{number}" for number in range(workers)] + ["coordinator"]
    given = terms(*who, rules=dataclasses.replace(RULES, quorum=quorum))
    assert given.quorum == offers


def test_witnesses_and_those_on_probation_weigh_nothing() -> None:
    crowd = (*members("w1", "coordinator"), member("w2", weight_from=6), member("w3", weight_from=5))
    given = terms(round=5, members=crowd)
    assert given.eligible == {peer("w1"), peer("w3")}
    assert set(given.workers) == {peer("w1"), peer("w2"), peer("w3")}
    assert given.workers == tuple(sorted(given.workers))
    assert given.majority == 3
    whole = RoundRules(part_bytes_min=1000)
    assert parts_of(crowd, 5, whole, 1) == 2
    assert parts_of(crowd, 6, whole, 1) == 3
    assert parts_of(crowd, 6, replace(whole, owners_max=1), 1) == 1
    assert parts_of((), 6, whole, 1) == 1


def test_an_owner_has_several_parts_if_they_are_not_too_small() -> None:
    crowd = tuple(Member(peer(f"w{place}")) for place in range(3))
    rules = RoundRules(part_bytes_min=1000)
    assert parts_of(crowd, 1, rules, 5999) == 3
    assert parts_of(crowd, 1, rules, 6000) == 6
    assert parts_of(crowd, 1, rules, 1 << 40) == 3 * PIECES_MAX
    assert parts_of(crowd, 1, replace(rules, owners_max=8), 1 << 40) == 6


@pytest.mark.parametrize(
    ("updates", "start", "gathering"), [(0, 3, False), (0, 4, True), (1, 4, False), (0, 1, False)]
)
def test_a_run_gathers_until_it_has_its_workers(updates: int, start: int, gathering: bool) -> None:
    given = terms(*NAMES, updates=updates, rules=dataclasses.replace(RULES, start_workers=start))
    assert given.gathering is gathering


@pytest.mark.parametrize(("rounds", "updates", "complete"), [(0, 9, False), (3, 2, False), (3, 3, True)])
def test_a_run_is_complete_after_its_updates(rounds: int, updates: int, complete: bool) -> None:
    given = terms(*NAMES, updates=updates, rules=dataclasses.replace(RULES, rounds=rounds))
    assert given.complete is complete


def test_patience_grows_with_the_update_and_the_view() -> None:
    rules = dataclasses.replace(RULES, deadline_ms=1000, bytes_per_s_min=100)
    given = terms(*NAMES, rules=rules)
    assert given.deadline_ms == 1000 + 1000 * 1000 // 100
    waits = [given.patience_ms(view) for view in range(12)]
    assert waits[0] == given.deadline_ms
    assert waits == sorted(waits)
    assert waits[-1] == given.patience_ms(1 << 31) == 4 * given.deadline_ms


def test_terms_follow_the_ledger() -> None:
    ledger = chain(2, *NAMES)
    body = skip(ledger, kind=Kind.UPDATE)
    ledger.append(Commit(body, 0, votes(body, NAMES)), key("w1"))
    given = terms_of(ledger, manifest(), [5, 6])
    assert (given.round, given.parent, given.members) == (4, body.digest, members(*NAMES))
    assert (given.run_id, given.updates, given.part_bytes) == (RUN, 1, (5, 6))
    assert (given.rules, given.assignment) == (RULES, ASSIGNED)
    assert given.witnesses == {peer("coordinator")}


# ---- the next members ---------------------------------------------------------------------------


def after(
    given: Terms, heard: str, leaving: str = "", kind: Kind = Kind.UPDATE, unsure: str = "", **joining: Role
) -> dict[str, Member]:
    """Who is a member of the next round, by name."""
    joiners = {peer(name): role for name, role in joining.items()}
    here = Presence(set(map(peer, heard.split())), set(map(peer, unsure.split())))
    result = next_members(given, here, set(map(peer, leaving.split())), joiners, kind)
    assert [m.peer for m in result] == sorted({m.peer for m in result})
    called = {peer(name): name for name in (*NAMES, "w4", "w5", "w6", "w7")}
    return {called[m.peer]: m for m in result}


def test_who_is_heard_stays_and_who_is_silent_is_counted() -> None:
    given = terms(*NAMES, updates=1)
    result = after(given, "w1 w2 coordinator")
    assert set(result) == set(NAMES)
    assert {name: m.missed for name, m in result.items()} == {"w1": 0, "w2": 0, "w3": 1, "coordinator": 0}


def test_who_was_silent_too_often_goes() -> None:
    for missed, stays in ((0, True), (1, True), (2, False)):
        crowd = (*members("w1", "w2", "coordinator"), member("w3", missed=missed))
        result = after(terms(members=crowd), "w1 w2 coordinator")
        assert ("w3" in result) is stays
    crowd = (*members("w1", "w2", "coordinator"), member("w3", missed=2))
    assert after(terms(members=crowd), "w1 w2 w3 coordinator")["w3"].missed == 0


def test_who_was_silent_is_cleared_only_by_one_who_hears_it() -> None:
    crowd = (*members("w1", "w2", "coordinator"), member("w3", missed=2))
    given = terms(members=crowd)
    assert after(given, "w1 w2 coordinator", unsure="w3")["w3"].missed == 2
    assert after(given, "w1 w2 coordinator w3")["w3"].missed == 0
    assert "w3" not in after(given, "w1 w2 coordinator")


@given(st.integers(1, 7), st.data())
def test_those_who_are_heard_are_a_majority_of_the_next_members(count: int, data: st.DataObject) -> None:
    """Else the round after could not be agreed on by those who are left."""
    who = [f"w{number}" for number in range(1, count + 1)]
    crowd = tuple(member(name, missed=data.draw(st.integers(0, 2))) for name in who)
    heard = data.draw(st.sets(st.sampled_from(who), min_size=1))
    result = next_members(terms(members=crowd), Presence(set(map(peer, heard))), (), {}, Kind.SKIP)
    here = [m for m in result if m.missed == 0]
    assert {m.peer for m in here} == set(map(peer, heard))
    assert 2 * len(here) > len(result)


def test_who_leaves_goes_though_it_is_heard() -> None:
    result = after(terms(*NAMES, updates=1), " ".join(NAMES), leaving="w2")
    assert set(result) == {"w1", "w3", "coordinator"}


def test_who_leaves_stays_while_only_joiners_would_be_left() -> None:
    """They hold nothing of the run yet."""
    given = terms("w1", "w2", updates=1)
    assert set(after(given, "w1 w2", leaving="w1 w2", w4=Role.WORKER)) == {"w1", "w2", "w4"}
    assert set(after(given, "w1 w2", leaving="w1", w4=Role.WORKER)) == {"w2", "w4"}
    assert set(after(given, "w1", leaving="w1", w4=Role.WORKER)) >= {"w1", "w4"}
    assert after(given, "w1 w2", leaving="w1 w2") == {}


@pytest.mark.parametrize(
    ("updates", "kind", "since"),
    [
        (0, Kind.SKIP, 8),  # nobody is ahead yet
        (0, Kind.UPDATE, 10),
        (3, Kind.SKIP, 10),
        (3, Kind.UPDATE, 10),
    ],
)
def test_a_joiner_weighs_after_its_probation(updates: int, kind: Kind, since: int) -> None:
    rules = dataclasses.replace(RULES, probation_rounds=2)
    given = terms(*NAMES, round=7, updates=updates, rules=rules)
    joined = after(given, " ".join(NAMES), kind=kind, w4=Role.WORKER)["w4"]
    assert joined == Member(peer("w4"), Role.WORKER, since, 0)


def test_a_member_that_asks_to_join_keeps_its_place() -> None:
    crowd = (*members("w2", "coordinator"), member("w1", weight_from=9))
    result = after(terms(round=7, members=crowd), "w1 w2 coordinator", w1=Role.WITNESS)
    assert result["w1"] == member("w1", weight_from=9)


def test_nobody_objects_to_the_next_members() -> None:
    given = terms(*NAMES, round=7, updates=2)
    joiners = {peer("w4"): Role.WORKER, peer("w5"): Role.WORKER}
    following = next_members(
        given, Presence({peer("w1"), peer("coordinator")}), {peer("w2")}, joiners, Kind.UPDATE
    )
    assert objection(given, update(given, *WORKERS, members=following), ANCHOR) is None


def test_there_are_never_more_members_than_a_commit_may_name() -> None:
    everybody = tuple(Member(PeerId(f"{number:04}")) for number in range(MEMBERS_MAX - 1))
    given = terms(members=everybody)
    joiners = {PeerId(f"x{number}"): Role.WORKER for number in range(5)}
    following = next_members(given, Presence([m.peer for m in everybody]), (), joiners, Kind.SKIP)
    assert len(following) == MEMBERS_MAX


# ---- objections ---------------------------------------------------------------------------------

GIVEN = terms(*NAMES, round=5, updates=2, witnesses=frozenset(map(peer, ("coordinator", "witness 2"))))
SOUND = update(GIVEN, *WORKERS)


def resized(**changes: Any) -> tuple[BlobRef, ...]:
    return (dataclasses.replace(SOUND.blobs[0], **changes), *SOUND.blobs[1:])


def with_member(*others: Member) -> dict[str, Any]:
    return {"members": tuple(sorted((*GIVEN.members, *others), key=lambda m: m.peer))}


def with_changed(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "members": tuple(
            dataclasses.replace(m, **changes) if m.peer == peer(name) else m for m in GIVEN.members
        )
    }


def test_nobody_objects_to_a_sound_body() -> None:
    assert objection(GIVEN, SOUND, ANCHOR) is None
    assert objection(GIVEN, update(GIVEN, "w1", "w2"), ANCHOR) is None
    assert objection(GIVEN, update(GIVEN, kind=Kind.SKIP, blobs=()), ANCHOR) is None
    newcomer = member("w4", weight_from=7)
    assert objection(GIVEN, update(GIVEN, *WORKERS, **with_member(newcomer)), ANCHOR) is None
    witness = member("witness 2", weight_from=7)
    assert objection(GIVEN, update(GIVEN, *WORKERS, **with_member(witness)), ANCHOR) is None
    fewer = update(GIVEN, *WORKERS, members=members("w1"))
    assert objection(GIVEN, fewer, ANCHOR) is None
    silent = update(GIVEN, *WORKERS, **with_changed("w3", missed=1))
    assert objection(GIVEN, silent, ANCHOR) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run_id": digest("another run")}, "another place in the ledger than round 5"),
        ({"round": 4}, "another place"),
        ({"round": 6}, "another place"),
        ({"parent": digest("another parent")}, "another place"),
        ({"anchor": digest("another anchor")}, "another anchor"),
        ({"members": ()}, "empty, unordered, repeated"),
        ({"members": tuple(reversed(GIVEN.members))}, "empty, unordered, repeated"),
        ({"members": GIVEN.members + GIVEN.members[-1:]}, "empty, unordered, repeated"),
        (with_member(member("w4", weight_from=5)), "joins with a past"),
        (with_member(member("w4", weight_from=0)), "joins with a past"),
        (with_member(member("w4", weight_from=7, missed=1)), "joins with a past"),
        (with_member(member("witness", weight_from=7)), "no witness of the manifest"),
        (with_member(Member(PeerId("w4"), weight_from=7)), "not a peer id"),
        (with_changed("w1", role=Role.WITNESS), "changed its role or weight"),
        (with_changed("w1", weight_from=9), "changed its role or weight"),
        (with_changed("w1", missed=2), "missed 0 rounds, not 2"),
        ({"kind": Kind.SKIP, "blobs": ()}, "a skip with contributions"),
        ({"kind": Kind.SKIP, "contributors": ()}, "a skip with contributions"),
        ({"contributors": SOUND.contributors + SOUND.contributors[:1]}, "repeated or may not contribute"),
        ({"contributors": (*SOUND.contributors[:2], contributor("w9"))}, "may not contribute"),
        ({"contributors": (*SOUND.contributors[:2], contributor("coordinator"))}, "may not contribute"),
        ({"contributors": SOUND.contributors[:1]}, "1 contributions, 2 are the quorum"),
        ({"contributors": ()}, "0 contributions, 2 are the quorum"),
        ({"contributors": (contributor("w1", weight=0), contributor("w2"))}, "within what was assigned"),
        ({"contributors": (contributor("w1", 500, 501), contributor("w2"))}, "within what was assigned"),
        ({"contributors": (contributor("w1", 5000, 1001), contributor("w2"))}, "within what was assigned"),
        ({"blobs": ()}, "other sizes"),
        ({"rejected": (Rejection(peer("w1"), "x" * (REASON_MAX + 1)),)}, "no short line of text"),
        ({"rejected": (Rejection(peer("w1"), "two\nlines"),)}, "no short line of text"),
        ({"blobs": SOUND.blobs[:2]}, "other sizes"),
        ({"blobs": SOUND.blobs + SOUND.blobs[:1]}, "other sizes"),
        ({"blobs": resized(size=1)}, "other sizes"),
    ],
)
def test_every_wrong_body_meets_an_objection(changes: dict[str, Any], reason: str) -> None:
    body: Body = dataclasses.replace(SOUND, **changes)
    assert reason in str(objection(GIVEN, body, ANCHOR))


# ---- fragments, and contributions that are the update -------------------------------------------

SPARSE = dataclasses.replace(
    GIVEN, rules=dataclasses.replace(GIVEN.rules, exchange="sparse"), part_bytes=(9,)
)


def sparse_update(*labels: str) -> Body:
    refs = tuple(BlobRef(digest(label), 9) for label in labels)
    return update(SPARSE, *WORKERS, blobs=refs)


def test_a_round_is_for_its_fragment_whatever_it_decides() -> None:
    rules = dataclasses.replace(GIVEN.rules, fragments=4)
    given = dataclasses.replace(GIVEN, rules=rules, round=6)
    assert given.fragment == 2
    for kind in ({}, {"kind": Kind.SKIP, "blobs": (), "contributors": ()}):
        assert objection(given, update(given, *WORKERS, fragment=2, **kind), ANCHOR) is None
        wrong = update(given, *WORKERS, **kind)
        assert objection(given, wrong, ANCHOR) == "round 6 is for fragment 2, not 0"
    assert "fragment 0" in str(objection(GIVEN, dataclasses.replace(SOUND, fragment=1), ANCHOR))


def test_a_sparse_update_has_one_blob_for_each_contributor() -> None:
    assert objection(SPARSE, sparse_update("a", "b", "c"), ANCHOR) is None
    assert "other sizes" in str(objection(SPARSE, sparse_update("a", "b"), ANCHOR))
    assert "other sizes" in str(objection(SPARSE, sparse_update("a", "b", "c", "d"), ANCHOR))
    assert "twice" in str(objection(SPARSE, sparse_update("a", "b", "a"), ANCHOR))
    large = update(SPARSE, *WORKERS, blobs=(*sparse_update("a", "b").blobs, BlobRef(digest("c"), 10)))
    assert "other sizes" in str(objection(SPARSE, large, ANCHOR))


def test_a_sparse_deadline_counts_every_contribution() -> None:
    rules = dataclasses.replace(SPARSE.rules, bytes_per_s_min=1)
    given = dataclasses.replace(SPARSE, rules=rules)
    assert given.deadline_ms == rules.deadline_ms + 3 * 9 * 1000


def test_a_body_that_no_ledger_would_take_meets_an_objection() -> None:
    """One that a majority accepted and no ledger takes would hold up its round for ever."""
    crowd = [Member(peer_id(number.to_bytes(32, "big")), weight_from=6) for number in range(MEMBERS_MAX + 1)]
    body = dataclasses.replace(SOUND, members=tuple(sorted(crowd, key=lambda m: m.peer)))
    assert "too many" in str(objection(GIVEN, body, ANCHOR))


@pytest.mark.parametrize("kind", [Kind.SETTINGS, Kind.RECOVERY])
def test_kinds_that_nobody_may_propose_yet_meet_an_objection(kind: Kind) -> None:
    body = update(GIVEN, kind=kind, blobs=())
    assert objection(GIVEN, body, ANCHOR) is not None


@given(names, st.data())
def test_a_round_of_probation_weighs_nothing(who: list[str], data: st.DataObject) -> None:
    late = data.draw(st.sampled_from(who))
    crowd = tuple(member(name, weight_from=9 if name == late else 1) for name in who)
    given = terms(
        members=tuple(sorted(crowd, key=lambda m: m.peer)),
        round=8,
        rules=dataclasses.replace(RULES, quorum=0.01),
    )
    body = update(given, *who)
    assert "may not contribute" in str(objection(given, body, ANCHOR))
