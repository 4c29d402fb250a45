"""Private shards on the command line: what a volunteer says, and what the status shows."""

from __future__ import annotations

import pytest

from atoll.cli.join import _shard
from atoll.cli.status_view import differing_text, shards_text
from atoll.protocol.errors import ConfigError


def test_a_shard_is_a_name_and_files() -> None:
    assert _shard("clinic-7=/data/*.txt", "") == ("clinic-7", "text:/data/*.txt")
    assert _shard("a=text:b=c", "") == ("a", "text:b=c")
    assert _shard("", "text:x") == ("", "text:x")


@pytest.mark.parametrize("wrong", ["clinic", "=files", "a=", "a b=files", "-=files"])
def test_what_is_no_shard_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="NAME=GLOB"):
        _shard(wrong, "")


def test_a_shard_is_the_data() -> None:
    with pytest.raises(ConfigError, match="--shard and --data"):
        _shard("a=files", "text:others")


def test_the_status_lists_shards_with_the_fewest_holders_first() -> None:
    members = [{"shard": name} for name in ("b", "a", "b", "", "c", "c")] + [{}]
    assert shards_text({"members": members}) == "a × 1, b × 2, c × 2"
    many = [{"shard": f"{number:02}"} for number in range(20)]
    assert shards_text({"members": many}).endswith("11 × 1, and 8 more")
    assert shards_text({"members": []}) == ""


def test_the_status_says_whose_replicas_differ() -> None:
    commits = [{"round": 3, "differ": {"x" * 20 + "12345678": "trained it, in other bytes"}}, {"round": 4}]
    assert differing_text({"commits": commits}) == "12345678 in round 3: trained it, in other bytes"
    assert differing_text({"commits": commits[1:]}) == ""
