"""How a state follows its ledger: replay while that is possible, else fetch a state that is right."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import ANCHOR, RUN, blobs, digest, initial_blobs, key, members, peer, skip, votes

from atoll.protocol.actions import Apply, Fetch, LoadState
from atoll.protocol.catchup import FETCHES_MAX, Catchup, rotated
from atoll.protocol.commits import Commit, Kind, Snapshot
from atoll.protocol.events import StateLoaded
from atoll.protocol.ids import BlobRef, Digest, digest_bytes, digest_of
from atoll.protocol.ledger import Genesis, Ledger
from atoll.protocol.messages import State

NAMES = ("coordinator", "w1", "w2")
ME = peer("w1")
KEEP = 4


def state(round_: int) -> StateLoaded:
    """The one true state after a round; odd rounds are skips and change nothing."""
    updates = (round_ + 1) // 2
    refs = tuple(BlobRef(digest(f"{label} {updates}"), 4000) for label in ("anchor", "momentum"))
    return StateLoaded(round_, digest_of(*(digest_bytes(ref.digest) for ref in refs)), refs)


def mean(round_: int) -> tuple[BlobRef, ...]:
    return blobs(f"mean {round_}")


def ledger(height: int) -> Ledger:
    """Update, skip, update, skip, …"""
    made = Ledger(Genesis(RUN, state(0).anchor, members(*NAMES)))
    for round_ in range(1, height + 1):
        update = round_ % 2 == 1
        body = skip(
            made,
            kind=Kind.UPDATE if update else Kind.SKIP,
            anchor=state(round_ - 1).anchor,
            blobs=mean(round_) if update else (),
        )
        made.append(Commit(body, 0, votes(body, NAMES)), key("w1"))
    return made


def catchup(at: int | None) -> Catchup:
    return Catchup(KEEP, None if at is None else state(at))


def digests(round_: int) -> list[Digest]:
    return [ref.digest for ref in mean(round_)]


# ---- replay -------------------------------------------------------------------------------------


def test_who_is_at_the_head_does_nothing() -> None:
    behind = catchup(3)
    assert behind.step(ledger(3), (), ME) == []
    assert not behind.needs_state(ledger(3))


def test_an_update_whose_blobs_are_held_is_applied_once() -> None:
    chain, behind = ledger(2), catchup(0)
    assert behind.step(chain, digests(1), ME) == [Apply(chain.commit(1).body)]
    assert behind.step(chain, digests(1), ME) == []
    behind.loaded(state(1))
    assert behind.step(chain, [], ME) == []
    assert behind.round == 2  # the skip went by without an action
    assert behind.anchor == state(2).anchor


def test_missing_blobs_are_asked_of_those_that_voted() -> None:
    chain = ledger(1)
    wanted = catchup(0).step(chain, digests(1)[:1], ME)
    assert [action.ref for action in wanted if isinstance(action, Fetch)] == list(mean(1)[1:])
    for action in wanted:
        assert isinstance(action, Fetch)
        assert set(action.holders) == {peer("coordinator"), peer("w2")}
        assert action.kind == "result"


def test_the_updates_after_the_next_one_are_fetched_while_it_is_applied() -> None:
    chain, behind = ledger(7), catchup(0)
    behind.keep_rounds = 7
    apply, *early = behind.step(chain, digests(1), ME)
    assert apply == Apply(chain.commit(1).body)
    assert [action.ref for action in early if isinstance(action, Fetch)] == list(mean(3))
    assert behind.step(chain, digests(1), ME) == [], "and asked for once"
    behind.loaded(state(1))
    further = behind.step(chain, digests(3)[:1], ME)
    assert [action.ref for action in further if isinstance(action, Fetch)] == list(mean(5)), (
        "3 is not here yet"
    )
    behind.ask_again()
    again = behind.step(chain, digests(3)[:1], ME)
    assert [action.ref for action in again if isinstance(action, Fetch)] == [*mean(3)[1:], *mean(5)]


def test_a_chain_is_replayed_as_far_as_results_are_kept() -> None:
    chain, behind = ledger(6), catchup(6 - KEEP)
    held = [d for round_ in (3, 5) for d in digests(round_)]
    applied = []
    while actions := behind.step(chain, held, ME):
        (action,) = actions
        assert isinstance(action, Apply), "nothing that is held is fetched"
        applied.append(action.body.round)
        behind.loaded(state(action.body.round))
    assert applied == [3, 5]
    assert behind.state == dataclasses.replace(state(5), round=6)
    assert behind.state == state(6)


def test_who_is_further_behind_does_not_begin_to_replay() -> None:
    chain, behind = ledger(7), catchup(7 - KEEP - 1)
    assert behind.step(chain, digests(3), ME) == []
    assert behind.needs_state(chain)


def test_commits_that_change_nothing_are_never_too_many() -> None:
    """After recoveries all may be that far behind: then nobody has a newer state to give."""
    chain = ledger(1)
    for _ in range(2 * KEEP):
        body = skip(chain, anchor=state(1).anchor)
        chain.append(Commit(body, 0, votes(body, NAMES)), key("w1"))
    behind = catchup(1)
    assert not behind.needs_state(chain)
    assert behind.round == chain.height


@pytest.mark.parametrize(("at", "round_"), [(3, 4), (1, 1)])
def test_a_state_from_before_a_snapshot_counts_if_no_update_came_between(at: int, round_: int) -> None:
    whole = ledger(5)
    chain = Ledger(whole.genesis, base=Snapshot(4, 0, whole.digest_of_round(4), 2, members(*NAMES)))
    chain.append(whole.commit(5), key("w1"))
    behind, joiner = catchup(at), catchup(None)
    assert behind.needs_state(chain) is (at != 3)
    assert behind.round == round_
    offered = State(at, state(at).anchor, state(at).blobs)
    taken = joiner.take(offered, peer("w2"), chain, ())
    assert (taken is not None) is (at == 3)


def test_an_old_state_changes_nothing() -> None:
    behind = catchup(3)
    behind.loaded(state(1))
    assert behind.round == 3


def test_a_state_that_the_ledger_contradicts_is_given_up() -> None:
    wrong = StateLoaded(2, digest("another anchor"), initial_blobs())
    behind = Catchup(KEEP, wrong)
    assert behind.step(ledger(3), digests(3), ME) == []
    assert behind.state is None
    assert behind.needs_state(ledger(3))


# ---- when a state is needed ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "height", "needs"), [(None, 0, True), (None, 5, True), (1, 5, False), (0, 5, True), (5, 5, False)]
)
def test_a_state_is_needed_without_one_or_too_far_behind(at: int | None, height: int, needs: bool) -> None:
    assert catchup(at).needs_state(ledger(height)) is needs


def test_a_state_is_needed_when_nobody_gives_the_blobs() -> None:
    chain, behind = ledger(1), catchup(0)
    behind.step(chain, (), ME)
    for _ in range(FETCHES_MAX):
        for wanted in digests(1):
            assert not behind.needs_state(chain)
            behind.failed(digest("something else"))
            behind.failed(wanted)
    assert behind.needs_state(chain)


def test_while_a_state_is_under_way_only_the_updates_after_it_are_asked_for() -> None:
    chain, behind = ledger(6), catchup(None)
    assert behind.take(offered(4), peer("w2"), chain, ()) is not None
    assert not behind.needs_state(chain)
    fetches = [action for action in behind.step(chain, (), ME) if isinstance(action, Fetch)]
    assert tuple(fetch.ref for fetch in fetches) == mean(5)
    assert behind.step(chain, (), ME) == []
    assert behind.take(offered(5), peer("w2"), chain, ()) is None
    behind.loaded(state(4))
    assert behind.round == 4


# ---- which state is taken -----------------------------------------------------------------------


def offered(round_: int, **changes: Any) -> State:
    given = state(round_)
    return State(**{"round": round_, "anchor": given.anchor, "blobs": given.blobs, **changes})


def test_a_state_that_the_ledger_knows_is_loaded_from_whoever_has_it() -> None:
    behind = catchup(0)
    others = (peer("coordinator"), peer("w2"))
    load = behind.take(offered(5), peer("w2"), ledger(6), others)
    given = state(5)
    assert load == LoadState(5, given.anchor, given.blobs, (peer("w2"), peer("coordinator")))
    assert behind.loading == 5


@pytest.mark.parametrize(
    ("at", "height", "offer"),
    [
        (5, 6, offered(6)),  # it can replay
        (None, 6, offered(7)),  # ahead of the ledger
        (None, 6, offered(1 << 48)),
        (1, 6, offered(1)),  # no further than mine
        (1, 6, offered(0)),
        (None, 6, offered(3, anchor=digest("another anchor"))),
        (None, 6, offered(3, blobs=state(1).blobs)),  # its blobs are not of its anchor
        (None, 6, offered(3, blobs=())),
        (None, 6, dataclasses.replace(offered(1), round=3)),  # of another round than it says
        (None, 0, offered(2, round=0)),  # not the manifest's
        (None, 4, dataclasses.replace(offered(2), round=0)),
    ],
)
def test_any_other_state_is_not(at: int | None, height: int, offer: State) -> None:
    behind = catchup(at)
    assert behind.take(offer, peer("w2"), ledger(height), ()) is None
    assert behind.loading is None


def test_the_manifests_state_is_taken_at_the_start() -> None:
    assert catchup(None).take(offered(0), peer("w2"), ledger(0), ()) is not None


# ---- whom to ask --------------------------------------------------------------------------------


@given(st.integers(0, 9), st.integers(0, 99))
def test_rotation_loses_nobody(count: int, salt: int) -> None:
    peers = tuple(peer(f"w{number}") for number in range(count))
    turned = rotated(peers, ME, salt)
    assert sorted(turned) == sorted(peers)
    assert turned == rotated(peers, ME, salt)
    at = turned.index(peers[0]) if peers else 0
    assert turned[at:] + turned[:at] == peers


def test_not_everybody_asks_the_same_one() -> None:
    peers = tuple(peer(f"w{number}") for number in range(6))
    assert len({rotated(peers, me, 1)[0] for me in peers}) > 2
    assert ANCHOR not in peers


# ---- a recovery rewinds -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "applying", "kept"), [(2, 0, True), (3, 0, False), (4, 0, False), (2, 3, False)]
)
def test_what_a_recovery_of_round_3_leaves_of_a_state(at: int, applying: int, kept: bool) -> None:
    """An update that is being applied may be in the numbers already: what it is applied to is gone too."""
    mine = catchup(at)
    mine.applying = applying
    mine.rewound(3)
    assert (mine.state == state(at)) is kept
    assert (mine.applying, mine.loading) == (0, None)
