"""Steps by speed in the ledger: what commits assign follows from reports, and nobody can choose it."""

from __future__ import annotations

import dataclasses

import pytest
from protocol_samples import ANCHOR, ASSIGNED, RULES, blobs, contributor, member, peer, terms, update

from atoll.protocol.commits import Body, Kind, body_from_bytes
from atoll.protocol.leading import Leading
from atoll.protocol.messages import Offer
from atoll.protocol.roster import Member, Presence, Role
from atoll.protocol.speeds import paced
from atoll.protocol.terms import Terms, objection

BY_SPEED = dataclasses.replace(RULES, work="by-speed")
NAMES = ("coordinator", "w1", "w2", "w3")
REASON = "do not follow from what the contributors report"


def at_work(*members: Member, **changes: object) -> Terms:
    given = sorted(members, key=lambda m: m.peer) or None
    known = {"members": tuple(given)} if given else {}
    return terms(*NAMES, rules=BY_SPEED, **{**known, **changes})  # type: ignore[arg-type]


def decided(given: Terms, **train_ms: int) -> Body:
    """An update in which each of these reports its steps and so many milliseconds for them."""
    said = tuple(
        dataclasses.replace(
            contributor(name),
            steps=given.assigned(peer(name)).steps,
            train_ms=ms,
            weight=min(1000, given.assigned(peer(name)).tokens),
        )
        for name, ms in sorted(train_ms.items(), key=lambda pair: peer(pair[0]))
    )
    body = update(given, *train_ms, contributors=said)
    return dataclasses.replace(body, members=paced(given, given.members, Kind.UPDATE, said))


def steps(members: tuple[Member, ...]) -> dict[str, int]:
    return {name: next(m.steps for m in members if m.peer == peer(name)) for name in NAMES}


def test_all_do_the_same_until_somebody_reported() -> None:
    given = at_work()
    assert {given.assigned(peer(name)) for name in NAMES} == {ASSIGNED}


def test_the_next_steps_are_in_proportion_to_the_speeds() -> None:
    body = decided(at_work(), w1=1000, w2=2000, w3=4000)
    found = steps(body.members)
    assert (found["w1"], found["coordinator"]) == (ASSIGNED.steps, 0)
    assert found["w2"] == pytest.approx(ASSIGNED.steps / 2, abs=ASSIGNED.steps / 32 + 1)
    assert found["w3"] == pytest.approx(ASSIGNED.steps / 4, abs=ASSIGNED.steps / 32 + 1)
    following = at_work(*body.members, round=2)
    for name in ("w1", "w2", "w3"):
        share = following.assigned(peer(name)).steps / ASSIGNED.steps
        assert following.assigned(peer(name)).tokens == int(ASSIGNED.tokens * share)


def test_who_has_not_trained_yet_does_as_many_as_the_middle_one() -> None:
    body = decided(at_work(), w1=1000, w2=2000, w3=4000)
    middle = steps(body.members)["w2"]
    new = member("w4", weight_from=3)
    following = at_work(*body.members, new, round=2)
    assert following.assigned(peer("w4")).steps == middle


def test_a_member_on_probation_is_not_slow() -> None:
    """Nothing of it counts yet, so it reports nothing."""
    waiting = member("w3", weight_from=9, speed=5000, steps=7)
    given = at_work(member("coordinator"), member("w1"), member("w2"), waiting)
    body = decided(given, w1=1000, w2=1000)
    assert next(m.speed for m in body.members if m.peer == peer("w3")) == 5000


def test_a_skip_and_a_rest_change_no_speed() -> None:
    paused = member("w3", role=Role.PAUSED, speed=777, steps=3)
    given = at_work(member("coordinator"), member("w1", speed=900, steps=9), member("w2"), paused)
    assert paced(given, given.members, Kind.SKIP, ()) is given.members
    body = decided(given, w1=1000, w2=1000)
    assert paused in body.members


def test_a_leader_proposes_what_nobody_objects_to() -> None:
    given = at_work()
    lead = Leading(given, 0, 0)
    for place, name in enumerate(("w1", "w2", "w3")):
        lead.offer(peer(name), Offer(1, 0, ANCHOR, 1000, 10, blobs(name), train_ms=1000 << place), 0)
    lead.plan()
    assert lead.exchange is not None
    lead.exchange.cut = lead.exchange.participants
    lead.exchange.reduced = dict(enumerate(update(given, "w1").blobs))
    body = lead.make_body(Kind.UPDATE, ANCHOR, Presence(given.peers), {})
    assert [c.train_ms for c in body.contributors] == [
        {peer("w1"): 1000, peer("w2"): 2000, peer("w3"): 4000}[c.peer] for c in body.contributors
    ]
    assert steps(body.members)["w3"] < steps(body.members)["w1"]
    assert objection(given, body, ANCHOR) is None
    assert body_from_bytes(body.encoded, lambda parent: given.members) == body


@pytest.mark.parametrize("wrong", [{"speed": 1}, {"steps": 3}, {"speed": 10**9, "steps": 1}])
def test_a_speed_that_was_not_reported_gets_no_vote(wrong: dict[str, int]) -> None:
    given = at_work()
    body = decided(given, w1=1000, w2=2000, w3=4000)
    assert objection(given, body, ANCHOR) is None
    forged = tuple(dataclasses.replace(m, **wrong) if m.peer == peer("w2") else m for m in body.members)
    assert REASON in str(objection(given, dataclasses.replace(body, members=forged), ANCHOR))
    kept = dataclasses.replace(body, members=given.members)
    assert REASON in str(objection(given, kept, ANCHOR)), "nor one that ignores what was reported"


def test_a_run_of_equal_work_has_no_speeds() -> None:
    given = terms(*NAMES)
    body = update(given, "w1", "w2", "w3")
    assert objection(given, body, ANCHOR) is None
    forged = tuple(dataclasses.replace(m, speed=5) if m.peer == peer("w2") else m for m in body.members)
    assert REASON in str(objection(given, dataclasses.replace(body, members=forged), ANCHOR))


def test_a_weight_is_within_what_the_speed_gave() -> None:
    body = decided(at_work(), w1=1000, w2=2000, w3=4000)
    following = at_work(*body.members, round=2)
    next_body = decided(following, w1=1000, w2=1000, w3=1000)
    assert objection(following, next_body, ANCHOR) is None
    heavy = tuple(dataclasses.replace(c, weight=1000) for c in next_body.contributors)
    assert "within what was assigned" in str(
        objection(following, dataclasses.replace(next_body, contributors=heavy), ANCHOR)
    )
