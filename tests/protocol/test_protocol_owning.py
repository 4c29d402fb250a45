"""An owner of parts: what it fetches, when it reports, what it sums, and what a later cut makes it forget."""

from __future__ import annotations

import pytest
from protocol_samples import blobs, contributor, digest, peer

from atoll.protocol.events import Aggregated
from atoll.protocol.ids import BlobRef, Digest
from atoll.protocol.messages import Column, Cut, Held, Plan, Reduced
from atoll.protocol.owning import Owning

NAMES = ("w1", "w2", "w3")
W1, W2, W3 = map(peer, NAMES)


def plan(*parts: int, revision: int = 1, names: tuple[str, ...] = NAMES, label: str = "") -> Plan:
    columns = tuple(Column(part, tuple(blobs(name + label)[part] for name in names)) for part in parts)
    return Plan(1, 0, revision, tuple(contributor(name) for name in names), columns)


def blob(name: str, part: int) -> Digest:
    return blobs(name)[part].digest


def cut(*names: str, revision: int = 2) -> Cut:
    return Cut(1, 0, revision, tuple(contributor(name, 10 * at) for at, name in enumerate(names, 1)))


def owning(*parts: int, held: str = "", by: Cut | None = None) -> Owning:
    """An owner of parts that already holds what these peers contributed."""
    mine = Owning(1, 0, 3)
    mine.plan(plan(*parts), {blob(name, part) for name in held.split() for part in parts})
    if by is not None:
        mine.follow(by)
    return mine


def missing(mine: Owning) -> set[tuple[str, int]]:
    names = {blob(name, part): (name, part) for name in NAMES for part in range(3)}
    for who, ref in mine.missing():
        assert who == peer(names[ref.digest][0])
    return {names[ref.digest] for _, ref in mine.missing()}


# ---- columns ------------------------------------------------------------------------------------


def test_an_owner_fetches_what_it_lacks() -> None:
    mine = owning(0, 2, held="w2")
    assert missing(mine) == {("w1", 0), ("w3", 0), ("w1", 2), ("w3", 2)}
    mine.arrived(blob("w1", 2))
    assert missing(mine) == {("w1", 0), ("w3", 0), ("w3", 2)}
    assert mine.reports() == []
    assert mine.sums() == []


def test_a_known_column_stays_and_a_newer_one_replaces_it() -> None:
    mine = owning(0, held="w1 w2")
    assert not mine.plan(plan(0, label=" changed"), ())
    assert missing(mine) == {("w3", 0)}
    assert mine.plan(plan(0, revision=2, label=" changed"), ())
    assert len(mine.missing()) == 3
    assert not mine.plan(plan(0), ())
    assert mine.parts[0].revision == 2
    assert mine.plan(plan(1), ())
    assert set(mine.parts) == {0, 1}


# ---- reports ------------------------------------------------------------------------------------


def test_a_part_is_reported_once_nothing_more_will_come() -> None:
    mine = owning(1, held="w1")
    mine.arrived(blob("w3", 1))
    assert mine.reports() == []
    mine.failed(blob("w2", 1))
    assert mine.reports() == [Held(1, 0, 1, tuple(sorted((W1, W3))))]
    mine.arrived(blob("w2", 1))
    assert mine.reports() == [Held(1, 0, 1, tuple(sorted((W1, W2, W3))))]
    assert mine.parts[1].failed == set()


def test_a_failure_after_the_arrival_is_none() -> None:
    mine = owning(1, held="w1 w2")
    mine.failed(blob("w1", 1))
    assert mine.parts[1].failed == set()
    assert mine.reports() == []


def test_an_impatient_owner_reports_what_it_has() -> None:
    mine = owning(0, 1, held="w2")
    mine.impatient()
    assert mine.reports() == [Held(1, 0, 0, (W2,)), Held(1, 0, 1, (W2,))]


def test_an_owner_that_has_nothing_reports_nothing() -> None:
    """It will be silent, and its parts move."""
    mine = owning(0)
    mine.impatient()
    for name in NAMES:
        mine.failed(blob(name, 0))
    assert mine.reports() == []


def test_blobs_of_others_change_nothing() -> None:
    mine = owning(0)
    mine.arrived(digest("something else"))
    mine.failed(digest("something else"))
    assert len(missing(mine)) == 3


# ---- sums ---------------------------------------------------------------------------------------


def test_the_sum_follows_the_cut_in_its_order_with_its_weights() -> None:
    mine = owning(0, held="w1 w2 w3", by=cut("w3", "w1"))
    (action,) = mine.sums()
    assert action.inputs == ((W3, 10, blobs("w3")[0]), (W1, 20, blobs("w1")[0]))
    assert (action.round, action.view, action.part, action.parts) == (1, 0, 0, 3)
    assert mine.sums() == []  # once is enough
    assert mine.reports() == []  # the leader will hear the sum instead


def test_a_sum_waits_for_all_of_the_cut_and_for_nobody_else() -> None:
    mine = owning(0, held="w1", by=cut("w1", "w2"))
    assert mine.sums() == []
    assert missing(mine) == {("w2", 0)}
    mine.arrived(blob("w2", 0))
    assert len(mine.sums()) == 1


def test_a_cut_names_what_the_owner_lacks() -> None:
    """It says so, and the cut shrinks."""
    mine = owning(0, held="w1", by=cut("w1", "w2"))
    mine.failed(blob("w2", 0))
    mine.failed(blob("w3", 0))
    assert mine.reports() == [Held(1, 0, 0, (W1,))]


MEAN = BlobRef(digest("mean"), 333)


def summed(mine: Owning, part: int = 0) -> Aggregated:
    """The mean that was asked for last of this part."""
    return Aggregated(1, 0, mine.parts[part].sum, part, MEAN)


def test_a_result_is_told_once_for_each_cut_and_repeated_when_asked() -> None:
    mine = owning(0, held="w1 w2 w3", by=cut("w1", "w2"))
    (action,) = mine.sums()
    assert not mine.aggregated(Aggregated(1, 0, action.sum + 1, 0, MEAN))
    assert not mine.aggregated(Aggregated(1, 0, action.sum, 2, MEAN))
    assert mine.news() == mine.results() == []
    assert mine.aggregated(summed(mine))
    assert mine.news() == [Reduced(1, 0, 2, 0, MEAN)]
    assert mine.news() == []
    assert mine.results() == [Reduced(1, 0, 2, 0, MEAN)]
    assert missing(mine) == set()


def test_a_smaller_cut_is_summed_anew() -> None:
    mine = owning(0, held="w1 w2 w3", by=cut("w1", "w2", "w3"))
    mine.sums()
    first = summed(mine)
    mine.aggregated(first)
    mine.follow(cut("w1", "w2", revision=3))
    (action,) = mine.sums()
    assert len(action.inputs) == 2
    assert mine.results() == []
    assert not mine.aggregated(first)
    assert mine.aggregated(summed(mine))
    assert mine.news() == [Reduced(1, 0, 3, 0, MEAN)]


def test_the_same_cut_in_a_later_revision_is_told_again_and_not_summed() -> None:
    """A part of another owner moved."""
    mine = owning(0, held="w1 w2 w3", by=cut("w1", "w2"))
    mine.sums()
    mine.aggregated(summed(mine))
    mine.news()
    mine.follow(cut("w1", "w2", revision=3))
    assert mine.sums() == []
    assert mine.news() == [Reduced(1, 0, 3, 0, MEAN)]


def everybody(revision: int = 2) -> Cut:
    return Cut(1, 0, revision, plan(0).participants)


def test_a_whole_column_is_summed_before_the_cut() -> None:
    mine = owning(0, 1, held="w1 w2")
    assert mine.sums() == []
    mine.arrived(blob("w3", 1))
    (action,) = mine.sums()
    assert (action.part, [peer for peer, _, _ in action.inputs]) == (1, [W1, W2, W3])
    assert mine.aggregated(summed(mine, 1))
    assert mine.news() == []  # the leader has not said of what yet
    mine.follow(everybody())
    assert mine.sums() == []
    assert mine.news() == [Reduced(1, 0, 2, 1, MEAN)]


def test_a_sum_before_the_cut_is_void_if_somebody_is_left_out() -> None:
    mine = owning(0, held="w1 w2 w3")
    mine.sums()
    early = summed(mine)
    mine.follow(cut("w1", "w3"))
    (action,) = mine.sums()
    assert [peer for peer, _, _ in action.inputs] == [W1, W3]
    assert not mine.aggregated(early)
    assert mine.news() == []


@pytest.mark.parametrize("parts", [(0,), (0, 1, 2)])
def test_every_part_is_summed(parts: tuple[int, ...]) -> None:
    mine = owning(*parts, held="w1 w2 w3", by=cut("w1", "w2", "w3"))
    assert [action.part for action in mine.sums()] == list(parts)
