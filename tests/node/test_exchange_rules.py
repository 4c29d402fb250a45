"""A node says at once which rules of a manifest it cannot follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atoll.node.exchange_rules import OUTER_KNOWN, check_outer_known
from atoll.protocol.errors import ConfigError
from atoll.protocol.manifest import OuterRules


def test_what_a_node_can_do_is_let_through() -> None:
    for rule in OUTER_KNOWN["rule"]:
        check_outer_known(replace(OuterRules(), rule=str(rule)), "manifest")


@pytest.mark.parametrize(("key", "value"), [("rule", "co2"), ("aggregation", "rda")])
def test_what_only_the_lab_can_do_is_named(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_outer_known(replace(OuterRules(), **{key: value}), "manifest: outer")
    assert caught.value.what == f"{key} = {value!r}"
    assert "know no other" in str(caught.value.right)
    assert "\n" not in str(caught.value)
