"""A node says at once which rules of a manifest it cannot follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atoll.node.exchange_rules import check_exchange
from atoll.node.numbers import Numbers
from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import BlobRef, digest_of
from atoll.protocol.manifest import Assignment, Manifest, MembershipRules, RoundRules

CHANGES: list[dict[str, Any]] = [{"fragments": 2}, {"fragments": 2, "overlap": 1}, {"exchange": "sparse"}]


def manifest(rules: RoundRules) -> Manifest:
    names = (f"{fragment} {what}".encode() for fragment in range(rules.fragments) for what in "am")
    return Manifest(
        name="a run",
        authority="",
        numel=100,
        anchor_blobs=tuple(BlobRef(digest_of(name), 400 // rules.fragments) for name in names),
        assignment=Assignment(1, 1),
        rounds=rules,
        membership=MembershipRules(),
    )


def test_what_a_node_can_do_is_let_through() -> None:
    check_exchange(RoundRules(), "manifest")
    numbers = Numbers(manifest(RoundRules()))
    assert numbers.fragment_bytes(0, 3) == numbers.part_bytes(3)


@pytest.mark.parametrize("changes", CHANGES)
def test_what_it_cannot_do_is_named(changes: dict[str, Any]) -> None:
    key = next(iter(changes))
    with pytest.raises(ConfigError) as caught:
        Numbers(manifest(replace(RoundRules(), **changes)))
    assert caught.value.what == f"{key} = {changes[key]!r}"
    assert "know no other" in str(caught.value.right)
    assert "\n" not in str(caught.value)


def test_overlap_alone_is_named() -> None:
    with pytest.raises(ConfigError, match="overlap = 1"):
        check_exchange(replace(RoundRules(), overlap=1), str(Path("RUN.toml")))
