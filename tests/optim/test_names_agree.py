"""A manifest names rules and codecs without importing them; the names are those of the registries."""

from __future__ import annotations

from atoll.optim.codecs import CODECS
from atoll.optim.rules import RULES
from atoll.protocol import combinations


def test_a_manifest_knows_every_rule_and_no_other() -> None:
    assert tuple(RULES) == combinations.RULES


def test_a_manifest_knows_every_codec_and_no_other() -> None:
    assert set(CODECS) == set(combinations.CODECS)


def test_it_knows_which_of_them_need_error_feedback() -> None:
    assert {name for name, codec in CODECS.items() if codec.feedback} == set(combinations.FEEDBACK_CODECS)
