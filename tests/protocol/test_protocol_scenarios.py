"""Every story of tests/scenarios/ comes out as it is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from transcripts import play

STORIES = sorted((Path(__file__).parent.parent / "scenarios").glob("*.txt"))


def test_there_are_stories() -> None:
    assert len(STORIES) >= 15


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_comes_out_as_told(path: Path) -> None:
    play(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("expect commit 1 is a skip", "line 3: expect commit 1 is a skip\nthe ledger has 0 commits"),
        ("w2 dances", "nobody knows what this means"),
        ("w1 trains\nw1 trains", "line 4: w1 trains\nw1 was not asked to train"),
        ("expect w1 are in round 2", "w1 is in round 1"),
    ],
)
def test_a_story_that_does_not_come_out_says_where(line: str, words: str) -> None:
    with pytest.raises(AssertionError) as caught:
        play(f"# a story\nmembers: coordinator w1 w2\n{line}\n")
    assert words in str(caught.value)
    assert "w1: round 1 view 0" in str(caught.value) or "dances" not in line
