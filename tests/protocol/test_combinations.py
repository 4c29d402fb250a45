"""What may not stand together: each refusal with its reason, and what stands beside it that is allowed."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from atoll.protocol.combinations import (
    AGGREGATIONS,
    CODECS,
    FEEDBACK_CODECS,
    REFUSED,
    RULES,
    SPARSE_CODECS,
    Choices,
    check_combinations,
)
from atoll.protocol.errors import ConfigError

SPARSE = Choices(codec="topk", exchange="sparse")
LAB = Choices(rule="eager", ledger=False)
CASES = [
    (replace(SPARSE, feedback=0.0), replace(SPARSE, feedback=0.95), "most of the score is lost"),
    (replace(SPARSE, exchange="dense"), SPARSE, "nobody sends later"),
    (
        replace(SPARSE, aggregation="rda"),
        replace(SPARSE, codec="2bit", aggregation="rda"),
        "norm of a sparse",
    ),
    (
        Choices(aggregation="rda"),
        Choices(aggregation="rda", exchange="sparse"),
        "needs the norm of all of it",
    ),
    (
        replace(LAB, aggregation="rda"),
        replace(LAB, rule="co2", aggregation="rda"),
        "own share can be swapped",
    ),
    (
        Choices(aggregation="rda", clip="median", ledger=False),
        Choices(aggregation="rda", ledger=False),
        "vote",
    ),
    (Choices(aggregation="krum"), Choices(aggregation="krum", exchange="sparse"), "a part of each"),
    (
        Choices(aggregation="median", codec="topk", exchange="sparse"),
        Choices(aggregation="centered-clipping", codec="topk", exchange="sparse"),
        "zero",
    ),
    (Choices(work="by-speed", clip="median"), Choices(work="by-speed"), "come further"),
    (Choices(work="by-speed", aggregation="median"), Choices(work="by-speed"), "knows no weights"),
    (
        Choices(replicas=2, feedback=0.0, exchange="sparse"),
        Choices(replicas=2, feedback=0.0),
        "nothing to add",
    ),
    (
        Choices(replicas=2, feedback=0.0, fragments=2),
        Choices(replicas=2, feedback=0.0),
        "depends on who trains",
    ),
    (Choices(replicas=2), Choices(replicas=2, feedback=0.0), "is its own"),
    (Choices(replicas=2, feedback=0.0, work="by-speed"), Choices(replicas=2, feedback=0.0), "as far as"),
    (
        Choices(replicas=2, feedback=0.0, weights="rate"),
        Choices(replicas=2, feedback=0.0),
        "whoever of its replicas",
    ),
    (
        Choices(weights="rate", aggregation="median"),
        Choices(weights="rate", aggregation="centered-clipping"),
        "whatever they weigh",
    ),
    (
        Choices(weights="participation", aggregation="centered-clipping"),
        Choices(weights="participation"),
        "known of a mean only",
    ),
    (Choices(weights="participation", work="by-speed"), Choices(weights="participation"), "seldom here"),
    (
        Choices(weights="participation", votes="two-thirds"),
        Choices(weights="rate", votes="two-thirds"),
        "ten times as much",
    ),
    (
        Choices(late="merge", replicas=2, feedback=0.0),
        Choices(late="carry", replicas=2, feedback=0.0),
        "nothing to add",
    ),
    (Choices(late="merge", fragments=2), Choices(late="merge"), "local model"),
    (Choices(late="merge", exchange="sparse"), Choices(late="merge"), "forgotten before"),
    (Choices(late="merge", work="by-speed"), Choices(late="merge"), "done in time"),
    (
        Choices(late="merge", aggregation="centered-clipping"),
        Choices(late="merge", clip="median"),
        "for a lie",
    ),
    (
        Choices(late="merge", weights="participation"),
        Choices(late="merge", weights="rate"),
        "not forgotten",
    ),
    (Choices(rule="eager"), Choices(rule="nesterov"), "each worker's own"),
    (Choices(rule="co2"), Choices(rule="co2", ledger=False), "a round earlier"),
    (Choices(rule="delayed-nesterov"), Choices(rule="delayed-nesterov", ledger=False), "single pushes"),
    (replace(LAB, grace_ms=1), LAB, "only makes it older"),
]
"""(refused, the same with one choice made right, words of the reason): one for each line of the table."""


@pytest.mark.parametrize("place", range(len(REFUSED)))
def test_each_refusal_names_the_choices_and_the_reason(place: int) -> None:
    refused, allowed, words = CASES[place]
    assert [refusal.when(refused) for refusal in REFUSED].index(True) == place
    with pytest.raises(ConfigError) as caught:
        check_combinations(refused, "RUN.toml")
    error = caught.value
    assert error.where == "RUN.toml"
    assert error.what == REFUSED[place].what(refused)
    assert words in error.right
    assert "\n" not in str(error)
    check_combinations(allowed, "RUN.toml")


def test_every_line_of_the_table_has_a_case() -> None:
    assert len(CASES) == len(REFUSED)


def test_what_is_refused_in_one_line_says_which_values_meet() -> None:
    with pytest.raises(ConfigError, match=r"RUN\.toml: codec = '1bit' with exchange = 'dense' \("):
        check_combinations(Choices(codec="1bit"), "RUN.toml")


def test_every_method_is_allowed_somewhere() -> None:
    """No name is refused whatever stands beside it: each runs in the lab at least."""
    met: set[str] = set()
    for rule, aggregation, codec, exchange in product(RULES, AGGREGATIONS, CODECS, ("dense", "sparse")):
        chosen = Choices(rule, aggregation, codec, 1.0, exchange, ledger=False)
        if not any(refusal.when(chosen) for refusal in REFUSED):
            met |= {rule, aggregation, codec}
    assert met == {*RULES, *AGGREGATIONS, *CODECS}


def test_the_defaults_of_a_manifest_are_allowed() -> None:
    for codec in CODECS:
        if codec not in FEEDBACK_CODECS:
            check_combinations(Choices(codec=codec, grace_ms=30_000), "manifest")
    assert set(SPARSE_CODECS) < set(FEEDBACK_CODECS) < set(CODECS)
