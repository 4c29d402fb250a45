from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atoll.coordinator import runfile
from atoll.protocol.errors import ConfigError
from atoll.protocol.manifest import AuditTable
from atoll.workload.toml_files import FILE_BYTES_MAX

GOOD = """\
[run]
name = "a-run"
rounds = 12
[model]
architecture = "llama"
[inner]
steps = 20
warmup_steps = 10
total_steps = 240
[outer]
codec = "int8"
[rounds]
start_workers = 4
"""


def read(folder: Path, text: str | bytes) -> runfile.RunFile:
    path = folder / "RUN.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return runfile.read(path)


def test_a_run_file_is_read(tmp_path: Path) -> None:
    run = read(tmp_path, GOOD)
    assert (run.name, run.rules.rounds, run.rules.start_workers) == ("a-run", 12, 4)
    assert (run.inner.steps, run.outer.codec, run.membership.policy) == (20, "int8", "open")


def test_a_rule_without_momentum_has_defaults_of_its_own(tmp_path: Path) -> None:
    for rule in ("sgd", "average"):
        outer = read(tmp_path, GOOD.replace('"int8"', f'"int8"\nrule = "{rule}"')).outer
        assert (outer.rule, outer.learning_rate, outer.momentum) == (rule, 1.0, 0.0)
    outer = read(tmp_path, GOOD.replace('"int8"', '"int8"\nrule = "sgd"\nlearning_rate = 0.65')).outer
    assert (outer.learning_rate, outer.momentum) == (0.65, 0.0)
    assert (read(tmp_path, GOOD).outer.learning_rate, read(tmp_path, GOOD).outer.momentum) == (0.7, 0.9)


def test_what_init_writes_is_a_run(tmp_path: Path) -> None:
    from atoll.cli.init import template

    run = read(tmp_path, template())
    assert run.inner.total_steps == run.inner.steps * run.rules.rounds


def test_a_run_is_audited_if_it_says_so(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD).audit is None
    assert read(tmp_path, GOOD + "[audit]\n").audit == AuditTable()
    assert read(tmp_path, GOOD + "[audit]\ntargets = 6\nfloor = 0.25\n").audit == AuditTable(
        targets=6, floor=0.25
    )


def without(text: str) -> str:
    assert text in GOOD
    return GOOD.replace(text, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "[iner]\nsteps = 3\n", ["`iner`", "did you mean `inner`?"]),
        ("steps = 3\n" + GOOD, ["`steps`", "outside of a section"]),
        (GOOD.replace("steps = 20", "step = 20"), ["[inner]", "`step`", "did you mean `steps`?"]),
        (GOOD.replace("steps = 20", 'steps = "20"'), ["[inner]", "`steps`", "'20'", "a whole number"]),
        (GOOD.replace("codec", "codek"), ["[outer]", "'codek'", "did you mean 'codec'?"]),
        (GOOD.replace('"int8"', '"int9"'), ["[outer]", "'int9'", "did you mean 'int8'?"]),
        (GOOD.replace('"int8"', "8"), ["[outer]", "codec = 8", "codec is text"]),
        (GOOD.replace('"int8"', '"int8"\nrule = "sdg"'), ["[outer]", "'sdg'", "did you mean 'sgd'?"]),
        (GOOD.replace('"int8"', '"int8"\nrule = 3'), ["[outer]", "rule = 3", "rule is text"]),
        (GOOD.replace('"int8"', '"1bit"'), ["'1bit' with exchange = 'dense'", "nobody sends later"]),
        (GOOD.replace('"int8"', '"int8"\nrule = "eager"'), ["rule = 'eager'", "no majority signs it"]),
        (
            GOOD.replace('"int8"', '"int8"\nrule = "sgd"\nmomentum = 0.9'),
            ["momentum = 0.9", "'sgd' has none"],
        ),
        (GOOD + "qorum = 0.5\n", ["[rounds]", "'qorum'", "did you mean 'quorum'?"]),
        (GOOD + "quorum = 2\n", ["[rounds]", "quorum = 2"]),
        (GOOD + "rounds = 3\n", ["[rounds]", "[run]"]),
        (GOOD + "replicas = 0\n", ["[rounds]", "replicas = 0", "1 to 64"]),
        (GOOD + "replicas = 2\n", ["replicas = 2 with feedback = 1.0", "different bytes"]),
        (
            GOOD.replace('"int8"', '"int8"\nfeedback = 0.0') + "replicas = 2\n",
            ["replicas = 2 with [inner] state = 'kept'", "state = 'unit'"],
        ),
        (
            GOOD.replace('"int8"', '"int8"\nfeedback = 0.0') + 'shards = "private"\n',
            ["shards = 'private' with [inner] state = 'kept'", "state = 'unit'"],
        ),
        (
            GOOD + 'shards = "private"\nreplicas = 2\n',
            ["replicas = 2", "as many replicas as members hold it"],
        ),
        (GOOD.replace("rounds = 12", "rounds = 0"), ["[run]", "rounds = 0"]),
        (GOOD.replace("rounds = 12", "rounds = true"), ["[run]", "rounds = True", "a whole number"]),
        (GOOD.replace("a-run", "a/run"), ["[run]", "name = 'a/run'"]),
        (without('[model]\narchitecture = "llama"\n'), ["[model]"]),
        (without('architecture = "llama"\n'), ["[model]", "architecture"]),
        (GOOD.replace("warmup_steps = 10", "warmup_steps = 240"), ["[inner]", "`warmup_steps` is 240"]),
        (GOOD + '[membership]\npolicy = "tokens"\n', ["[membership]", "did you mean `token`?"]),
        (GOOD + '[membership]\npolicy = "allowlist"\n', ["[membership]", "without `allow`"]),
        (GOOD + '[membership]\npolicy = "allowlist"\nallow = ["bob"]\n', ["[membership]", "'bob'"]),
        (GOOD + '[membership]\nallow = ["bob"]\n', ["[membership]", "no meaning"]),
        (GOOD + "[audit]\nauditor = 3\n", ["[audit]", "did you mean 'auditors'?"]),
        (GOOD + "[audit]\nauditors = 2\n", ["auditors = 2", "cannot be outvoted"]),
        (GOOD + "fragments = 2\n[audit]\n", ["fragments = 2 with [audit]"]),
        (GOOD + "[coordinator]\nport = 3\n", ["[coordinator]", "'port'"]),
        (
            GOOD + "[coordinator]\ninvite_expires_hours = nan\n",
            ["[coordinator]", "invite_expires_hours = nan"],
        ),
        (GOOD + "[coordinator]\ndht_listen = []\n", ["[coordinator]", "dht_listen is empty"]),
        (GOOD + '[data]\nsource = "texts/*.txt"\n', ["[data]", "`source`", "text:"]),
        ("model = 3\n", ["[model]", "3 is not a section"]),
        (GOOD + "lease_ms = = 3\n", ["not TOML", "line 14"]),
        (b"\xff\xfe", ["not UTF-8"]),
        ("#" * (FILE_BYTES_MAX + 1), ["larger than"]),
    ],
)
def test_a_wrong_run_file_is_refused_in_one_line(tmp_path: Path, text: Any, said: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    line = str(refused.value)
    assert line.startswith(str(tmp_path / "RUN.toml")), line
    assert "\n" not in line
    assert all(part in line for part in said), line


def test_a_missing_run_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot read it: No such file"):
        runfile.read(tmp_path / "none.toml")


EXAMPLES = sorted(
    path
    for path in (Path(__file__).parents[2] / "examples").glob("*.toml")
    if not path.name.startswith("lab-")
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_runs(path: Path) -> None:
    run = runfile.read(path)
    assert run.name == path.stem
    assert run.inner.total_steps == run.inner.steps * run.rules.rounds


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2
