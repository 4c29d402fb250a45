"""A worker's rounds: what it trains for next, what it offers, and that each is settled once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import blobs, digest

from atoll.protocol.working import Working

START = digest("a fragment")


def test_without_overlap_a_round_is_trained_for_when_it_begins() -> None:
    mine = Working()
    assert mine.next_round(1, 0) == 1
    mine.begin(1, START)
    assert mine.next_round(1, 0) is None
    assert mine.trained(1, 100, 10)
    assert mine.next_round(1, 0) is None, "the next round has not begun"
    assert mine.settle(1) == 1
    assert mine.next_round(2, 0) == 2


def test_training_goes_on_once_it_is_handed_over_up_to_the_overlap() -> None:
    mine = Working()
    for round_ in (1, 2, 3):
        assert mine.next_round(1, 2) == round_
        mine.begin(round_, START)
        assert mine.next_round(1, 2) is None, "one at a time"
        mine.trained(round_, 100, 10)
    assert mine.next_round(1, 2) is None, "far enough ahead"
    mine.settle(1)
    assert mine.next_round(2, 2) == 4


def test_a_round_that_is_over_is_not_trained_for_any_longer() -> None:
    mine = Working()
    mine.begin(1, START)
    assert mine.settle(1)
    assert mine.next_round(5, 2) == 5
    assert not mine.trained(1, 100, 10)
    assert mine.offered(1) is None


def test_what_was_trained_ahead_is_encoded_once_its_round_begins() -> None:
    mine = Working()
    mine.begin(1, START)
    mine.trained(1, 100, 10)
    mine.begin(2, digest("another fragment"))
    mine.trained(2, 200, 20)
    assert not mine.encoded(2, blobs("early")), "nobody asked for it"
    assert mine.to_encode(1)
    assert not mine.to_encode(1), "once"
    mine.settle(1)
    assert mine.to_encode(2)
    assert mine.offered(2) is None
    assert mine.encoded(2, blobs("w1"))
    assert not mine.encoded(2, blobs("other"))
    done = mine.offered(2)
    assert done is not None
    assert (done.anchor, done.tokens, done.steps, done.parts) == (
        digest("another fragment"),
        200,
        20,
        blobs("w1"),
    )


def test_what_was_encoded_for_other_parts_is_encoded_again() -> None:
    mine = Working()
    mine.begin(2, START)
    mine.trained(2, 100, 10)
    assert mine.to_encode(2)
    sizes = tuple(ref.size for ref in blobs("w1"))
    assert not mine.fits(2, sizes), "it is under way"
    assert not mine.to_encode(2)
    mine.encoded(2, blobs("w1"))
    assert mine.fits(2, sizes)
    assert not mine.fits(2, (*sizes, 1))
    assert mine.offered(2) is None
    assert mine.to_encode(2)
    assert mine.encoded(2, blobs("again"))


def test_a_second_report_of_the_same_training_changes_nothing() -> None:
    mine = Working()
    mine.begin(1, START)
    assert mine.trained(1, 100, 10)
    assert not mine.trained(1, 999, 99)
    assert mine.work[1].tokens == 100


@given(st.integers(0, 3), st.lists(st.sampled_from(["ask", "train", "encode", "commit"]), max_size=60))
def test_each_round_is_settled_once_and_little_is_kept(ahead: int, deeds: list[str]) -> None:
    mine, present = Working(), 1
    settled: list[int] = []
    asked: list[int] = []
    for deed in deeds:
        if deed == "ask" and (wanted := mine.next_round(present, ahead)) is not None:
            assert present <= wanted <= present + ahead
            mine.begin(wanted, START)
            asked.append(wanted)
        elif deed == "train" and asked:
            mine.trained(asked[-1], 1, 1)
        elif deed == "encode" and mine.to_encode(present):
            assert mine.encoded(present, blobs("x"))
        elif deed == "commit":
            settled += [present] if mine.settle(present) else []
            assert not mine.settle(present)
            present += 1
        assert len(mine.work) <= ahead + 1
        assert asked == sorted(set(asked))
    assert settled == [round_ for round_ in asked if round_ < present]


def test_late_work_is_offered_to_the_next_round_and_grows_old() -> None:
    mine = Working()
    mine.begin(1, START)
    assert mine.late(1, True, 2)
    assert mine.next_round(2, 0) is None, "it trains on"
    assert mine.aim(1) == 2
    assert mine.trained(1, 100, 10), "training knows it by the round that it was begun for"
    assert mine.to_encode(2)
    assert mine.encoded(2, blobs("w1"))
    assert mine.late(2, False, 2), "a skip moves no anchor"
    assert mine.offered(3) is None, "it is encoded anew for that round's parts"
    assert mine.to_encode(3)
    assert mine.encoded(3, blobs("w1"))
    done = mine.offered(3)
    assert done is not None
    assert (done.anchor, done.begun, done.staleness, done.tokens) == (START, 1, 1, 100)
    assert mine.late(3, True, 2)
    assert not mine.late(4, True, 2), "too stale"
    assert mine.settle(4) == 1
    assert mine.settle(4) is None
    assert mine.next_round(5, 0) == 5


def test_what_is_dropped_is_named_by_the_round_that_it_was_begun_for() -> None:
    mine = Working()
    mine.begin(3, START)
    assert mine.late(3, True, 8)
    assert mine.drop() == [3]
    assert mine.next_round(9, 0) == 9
    assert not mine.late(4, True, 8)
