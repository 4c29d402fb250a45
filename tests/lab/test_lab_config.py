"""What a LAB.toml may say, and how it is told what is wrong with it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from labs import ALL, STEPS, SYNC, TABLE, lab, table

from atoll.protocol.errors import ConfigError
from atoll.simulator.lab import config

DILOCO = {"name": "d", "algorithm": "diloco"}


def method(**keys: Any) -> dict[str, Any]:
    return table(SYNC, {**DILOCO, **keys})


WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({**table(), "labs": {}}, ["unknown section `labs`", "did you mean `lab`"]),
    ({**table(), "tokens": 3}, ["unknown key outside of a section `tokens`"]),
    (table(lab={"replica": 3}), ["[lab]", "unknown key `replica`", "did you mean `replicas`"]),
    (table(lab={"replicas": 0}), ["`replicas` is 0", "from 1 to"]),
    (table(lab={"seeds": [1, 1]}), ["`seeds`", "none twice"]),
    (table(lab={"device": "gpu"}), ["`device` is 'gpu'"]),
    (table(inner={"steps": 3}), ["[inner]", "`steps` has no meaning here", "each [[method]]"]),
    (table(inner={"warmup_steps": STEPS}), ["`warmup_steps`", "fewer than"]),
    (table(inner={"learning_rat": 1}), ["unknown key `learning_rat`", "did you mean `learning_rate`"]),
    (table(churn={"leave": 2}), ["[churn]", "`leave` is 2"]),
    (table(stragglers={"speeds": [0.5, 2]}), ["[stragglers]", "`speeds`"]),
    (table(stragglers={"speeds": [0.5] * 4}), ["`speeds` has 4 numbers", "at most 3"]),
    (table(shards={"kind": "topic"}), ["[shards]", "did you mean `topics`"]),
    (table(DILOCO), ["no synchronous baseline", 'algorithm = "sync"']),
    (table(SYNC, SYNC), ["two methods are called 'sync'"]),
    (table(SYNC, {"algorithm": "diloco"}), ["[[method]] 2", "`name` is ''"]),
    (table(SYNC, {"name": "x"}), ["missing key `algorithm`"]),
    (table(SYNC, {"name": "x", "algorithm": "dilocco"}), ["unknown algorithm", "did you mean `diloco`"]),
    (method(step=4), ["[[method]] 2 'd'", "unknown key `step`", "did you mean `steps`"]),
    (method(fragments=2), ["unknown key `fragments` of 'diloco'"]),
    (table({**SYNC, "steps": 3}), ["unknown key `steps` of 'sync'"]),
    (method(codec="int9"), ["`codec` is 'int9'", "did you mean `int8`"]),
    (method(codec="topk"), ["exchange = 'dense'", "an owner would encode the mean again"]),
    (method(codec="topk", exchange="sparse", feedback=0), ["feedback above 0"]),
    (method(outer={"rule": "nestorov"}), ["unknown outer rule", "'nesterov'"]),
    (method(outer={"rule": "nesterov", "lr": 0}), ["outer lr must be a positive number"]),
    (method(outer={"rule": "nesterov", "beta": 0.5}), ["unknown knob 'beta'"]),
    (method(outer={"lr": 1}), ["`outer` is", 'rule = "nesterov"']),
    (method(inner={"optimizer": "mun"}), ["'d': inner", "mun"]),
    (table(start={"tokens": -1}), ["[start]", "`tokens` is -1"]),
    (
        table(SYNC, {**DILOCO, "algorithm": "streaming", "steps": 4, "overlap": 2}),
        ["overlap must be from 0 to 1"],
    ),
    (table(SYNC, {**DILOCO, "algorithm": "eager", "outer": {"rule": "sgd"}}), ['rule = "eager"']),
]


@pytest.mark.parametrize(("content", "said"), WRONG)
def test_a_wrong_lab_is_told_where_and_what_would_be_right(content: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.of(content, Path("my/LAB.toml"))
    for words in ("my/LAB.toml", *said):
        assert words in str(caught.value)


def test_no_model_and_no_method() -> None:
    without = {name: section for name, section in table().items() if name != "model"}
    with pytest.raises(ConfigError, match=r"no section \[model\]"):
        config.of(without, Path("LAB.toml"))
    with pytest.raises(ConfigError, match=r"no \[\[method\]\]"):
        config.of(TABLE, Path("LAB.toml"))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for content, said in ((b"a = ", "not TOML"), (b"\xff", "not UTF-8 text at byte 0")):
        (tmp_path / "LAB.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            config.read(tmp_path / "LAB.toml")
    with pytest.raises(ConfigError, match=r"cannot read it: .*lab-small\.toml"):
        config.read(tmp_path / "none.toml")


def test_tokens_decide_the_steps_and_the_warm_up_follows() -> None:
    content = table(*ALL)
    whole, double = config.of(content, Path("L")), config.of(content, Path("L"), tokens=24 * 96)
    assert (whole.methods[0].steps, double.methods[0].steps) == (12, 24)
    assert {method.inner.total_steps for method in double.methods} == {24}
    assert (whole.methods[0].inner.warmup_steps, double.methods[0].inner.warmup_steps) == (2, 4)
    assert config.of(content, Path("L"), seeds=(4, 5)).lab.seeds == (4, 5)


def test_what_numbers_depend_on_is_in_the_digest() -> None:
    one = lab(*ALL)
    digests = {one.digest(method) for method in one.methods}
    assert len(digests) == len(ALL)
    for section in ({"data": {"bytes_max": 50_000}}, {"lab": {"replicas": 2}}, {"churn": {"leave": 0.1}}):
        other = lab(*ALL, **section)
        assert digests.isdisjoint({other.digest(method) for method in other.methods})
    slower = lab(*copy.deepcopy(ALL), lab={"save_seconds": 1.0})
    assert {slower.digest(method) for method in slower.methods} == digests


def test_the_example_is_a_lab() -> None:
    small = config.read(Path(__file__).parents[2] / "examples" / "lab-small.toml")
    assert len(small.methods) == 8
    assert small.lab.replicas == 8
