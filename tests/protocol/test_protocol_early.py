"""Sums that travel before the proposal: voters have most of an update when it is proposed."""

from __future__ import annotations

import dataclasses

import pytest
from protocol_samples import digest, peer
from test_protocol_out_of_turn import story, taken

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.ids import BlobRef
from atoll.protocol.peer import Peer


def fetched(actions: list[a.Action]) -> list[a.Fetch]:
    return [action for action in actions if isinstance(action, a.Fetch)]


def summed(p: Peer, label: str = "a mean", part: int = 0) -> e.Received:
    ref = BlobRef(digest(label), p.terms.part_bytes[part])
    return e.Received(peer("w2"), m.Summed(p.round, p.view, part, ref))


def test_whoever_votes_gets_the_update_before_it_is_proposed() -> None:
    told = story("w1 w2 w3 train", "deliver until w1 proposes")
    proposed = told.peer("w1").proposed
    assert proposed is not None
    for name in ("coordinator", "w2", "w3"):
        p = told.peer(name)
        under_way = {*p.early.values(), *p.held}
        assert {ref.digest for ref in proposed[1].blobs} <= under_way, name


def test_a_sum_is_asked_of_its_owner_once_for_each_part() -> None:
    told = story()
    p = told.peer("coordinator")
    _, actions, _ = taken(told, "coordinator", summed(p))
    assert fetched(actions) == [
        a.Fetch(BlobRef(digest("a mean"), p.terms.part_bytes[0]), (peer("w2"),), "result")
    ]
    for again in (summed(p), summed(p, "another")):
        _, actions, _ = taken(told, "coordinator", again)
        assert actions == []
    _, actions, _ = taken(told, "coordinator", summed(p, "another", part=1))
    assert len(fetched(actions)) == 1


@pytest.mark.parametrize("rules", [{"votes": "two-thirds"}, {"exchange": "sparse"}])
def test_a_sum_moves_nobody_where_it_has_no_place(rules: dict[str, str]) -> None:
    """One that lies would have others fetch what it likes; in a sparse exchange nothing is summed."""
    told = story()
    p = told.peer("coordinator")
    p.rules = dataclasses.replace(p.rules, **rules)  # type: ignore[arg-type]
    p.terms = dataclasses.replace(p.terms, rules=p.rules)
    _, actions, _ = taken(told, "coordinator", summed(p))
    assert not fetched(actions)


def test_a_part_that_did_not_come_early_is_asked_for_again_and_costs_no_view() -> None:
    told = story("w1 w2 w3 train", "deliver until w2 hands in its sum")
    p, owned = told.peer("coordinator"), told.peer("w2").owning
    (part,) = owned.parts.values()
    assert part.mean is not None
    taken(told, "coordinator", e.Received(peer("w2"), m.Summed(p.round, p.view, part.part, part.mean)))
    taken(told, "coordinator", e.BlobFailed(part.mean.digest))
    assert (part.part in p.early, p.fetch_failures) == (False, 0)
    assert part.mean.digest not in p.fetching
    told.swarm.deliver()
    assert told.commit("1").view == 0


def test_a_failure_behind_the_proposal_is_asked_for_at_once() -> None:
    told = story("w1 w2 w3 train", "deliver until w1 proposes")
    p, proposed = told.peer("coordinator"), told.peer("w1").proposed
    assert proposed is not None
    body = proposed[1]
    ref, holders = body.blobs[0], tuple(told.peer("w1").leading.exchange.owners)  # type: ignore[union-attr]
    assert ref.digest not in p.held
    p.early[0] = ref.digest
    p.fetching.add(ref.digest)
    taken(told, "coordinator", e.Received(peer("w1"), m.Propose(p.round, p.view, body, holders, True)))
    _, actions, _ = taken(told, "coordinator", e.BlobFailed(ref.digest))
    assert [fetch.ref for fetch in fetched(actions)] == [ref]
    assert p.fetch_failures == 0
