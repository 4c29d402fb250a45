"""Fragments: which round is for which, and what a contribution starts from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from protocol_samples import RULES, digest, manifest

from atoll.protocol.catchup import Catchup
from atoll.protocol.events import StateLoaded
from atoll.protocol.fragments import anchor_digest, blobs_of, fragment_of, start_digest
from atoll.protocol.ids import BlobRef

BLOBS = tuple(BlobRef(digest(str(place)), 8) for place in range(8))


def test_rounds_take_turns() -> None:
    assert [fragment_of(round_, 4) for round_ in range(1, 9)] == [1, 2, 3, 0, 1, 2, 3, 0]
    assert {fragment_of(round_, 1) for round_ in range(9)} == {0}


def test_a_state_is_listed_fragment_by_fragment() -> None:
    assert [blobs_of(BLOBS, fragment, 4) for fragment in range(4)] == [BLOBS[i : i + 2] for i in (0, 2, 4, 6)]
    assert blobs_of(BLOBS, 0, 1) == BLOBS


def test_with_one_fragment_a_round_starts_from_the_anchor() -> None:
    made = manifest()
    assert start_digest(made.anchor_blobs, 5, 1) == made.anchor
    assert anchor_digest(made.anchor_blobs) == made.anchor


def test_an_update_to_one_fragment_leaves_the_starts_of_the_others() -> None:
    changed = (*BLOBS[:2], BlobRef(digest("new"), 8), *BLOBS[3:])
    same = [start_digest(BLOBS, round_, 4) == start_digest(changed, round_, 4) for round_ in range(1, 5)]
    assert same == [False, True, True, True]
    assert anchor_digest(BLOBS) != anchor_digest(changed)


@pytest.mark.parametrize(("at", "known"), [(2, False), (3, True), (4, True), (6, True)])
def test_a_start_is_known_once_the_last_update_to_its_fragment_is_here(at: int, known: bool) -> None:
    """Round 7 of 4 fragments is for the fragment of round 3."""
    catchup = Catchup(4, StateLoaded(at, anchor_digest(BLOBS), BLOBS), fragments=4)
    assert (catchup.start(7) == start_digest(BLOBS, 7, 4)) is known
    assert (catchup.start(7) is None) is not known


def test_nothing_is_known_without_a_state() -> None:
    assert Catchup(4, fragments=4).start(1) is None


def test_a_manifest_of_fragments_begins_with_the_digest_of_all() -> None:
    made = manifest(replace(RULES, fragments=4, overlap=2))
    assert len(made.anchor_blobs) == 8
    assert anchor_digest(made.anchor_blobs) == made.anchor
    assert len({start_digest(made.anchor_blobs, round_, 4) for round_ in range(8)}) == 4
