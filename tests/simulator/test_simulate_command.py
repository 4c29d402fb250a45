"""`atoll simulate network`: what it prints, how it ends, and that a failure can be seen again."""

from __future__ import annotations

import json

import pytest

from atoll.cli import boundary
from atoll.cli.main import app
from atoll.cli.simulate import seeds_of
from atoll.protocol import ledger, terms
from atoll.simulator.setting import FAULTS, faults_of


def run(*arguments: str) -> int:
    command = ["simulate", "network", "--peers", "4", "--rounds", "3", *arguments]
    return boundary.run(lambda: app(command, prog_name="atoll", standalone_mode=False))


def test_one_json_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--seeds", "0:3", "--faults", "crash,loss,reorder", "--json") == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert (report["seeds"], report["violations"], report["stuck"], report["failures"]) == (3, 0, 0, [])
    assert report["updates"] >= 3 * 5
    assert 1 < report["messages_per_peer_round"] < 200
    assert 100 < report["control_bytes_per_peer_round"] < 1_000_000
    assert report["events_per_s"] > 0
    assert said.err == ""


def test_a_person_reads_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--seeds", "5", "--faults", "none") == 0
    assert capsys.readouterr().out.startswith("1 seeds: 0 violations, 0 stuck\n")


def test_a_failure_names_its_seed_and_its_replay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ledger, terms):
        monkeypatch.setattr(module, "majority", lambda members: 1)
    assert run("--seeds", "2", "--faults", "none", "--json") == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    (failure,) = report["failures"]
    assert failure["seed"] == 2
    assert failure["replay"] == (
        "atoll simulate network --peers 4 --rounds 3 --seeds 2:3 --faults none --trace"
    )
    assert "FAIL seed=2: " in said.err
    assert failure["replay"] in said.err

    assert run(*failure["replay"].split()[3:], "--json") == 1
    again = capsys.readouterr()
    assert json.loads(again.out)["failures"] == report["failures"]
    assert "Propose r2 v0" in again.err


def test_a_mode_is_part_of_the_replay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ledger, terms):
        monkeypatch.setattr(module, "majority", lambda members: 1)
    assert run("--seeds", "2", "--faults", "none", "--mode", "sparse-streaming", "--json") == 1
    (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert failure["replay"].endswith("--faults none --mode sparse-streaming --trace")


def test_an_unknown_mode_is_told_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--seeds", "2", "--mode", "sparce") == 2
    assert "one of dense, fragments, streaming, sparse, sparse-streaming" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--faults", "crahs"], "did you mean 'crash'?"),
        (["--seeds", "9:3"], "A:B with 0 <= A < B"),
        (["--seeds", "abc"], "such as 0:200"),
        (["--seeds", "0:1000000000"], "at most"),
        (["--peers", "0"], "1 to 4097 workers"),
        (["--rounds", "0"], "1 to"),
        (["--trace", "--seeds", "0:2"], "one seed"),
        (["--sneeds", "0:2"], "--seeds"),
    ],
)
def test_bad_values_are_one_line_and_exit_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("atoll: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err


def test_lists_of_faults_and_seeds() -> None:
    assert faults_of("crash, loss") == {"crash", "loss"}
    assert faults_of("none") == faults_of("") == frozenset()
    assert faults_of("heavy") == set(FAULTS)
    assert list(seeds_of("3:6")) == [3, 4, 5]
    assert list(seeds_of("7")) == [7]
