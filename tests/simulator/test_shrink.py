"""A failing seed becomes a short transcript, and the transcript runs again just as it did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from atoll.cli import boundary
from atoll.cli.main import app
from atoll.protocol.errors import ConfigError
from atoll.protocol.leading import Leading
from atoll.simulator import transcript
from atoll.simulator.run import Outcome, trial
from atoll.simulator.setting import setting
from atoll.simulator.shrink import kind_of, least
from atoll.simulator.strikes import Strike, strike_of


def forget_what_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leading, "bound_to", property(lambda self: None))


def failing_trial(peers: int, rounds: int, faults: str) -> Outcome:
    chosen = setting(peers, rounds, faults)
    outcomes = (trial(seed, chosen) for seed in range(100, 300))
    return next(o for o in outcomes if "two histories" in (o.violation or "") and len(o.strikes) > 1)


@pytest.mark.long
def test_a_failure_shrinks_and_replays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_what_was_accepted(monkeypatch)
    faults, path = "crash,partition,suspect,lag,twice,skew", tmp_path / "case.txt"
    before = failing_trial(5, 6, faults)
    command = ["simulate", "network", "--peers", "5", "--rounds", "6", "--faults", faults]
    command += ["--seeds", f"{before.seed}:{before.seed + 1}", "--shrink", str(path)]
    assert boundary.run(lambda: app(command, prog_name="atoll", standalone_mode=False)) == 1
    assert f"--replay {path}" in capsys.readouterr().err

    case = transcript.read(path)
    assert 0 < len(case.strikes) < len(before.strikes)
    assert case.setting.peers <= 5
    again = case.run(traced=True)
    assert kind_of(again) == kind_of(before)
    assert case.found == again.violation
    assert "# " + again.trace[-1] in path.read_text()
    for left_out in range(len(case.strikes)):
        fewer = tuple(s for i, s in enumerate(case.strikes) if i != left_out)
        assert kind_of(trial(case.seed, case.setting, strikes=fewer)) != kind_of(before)

    command = ["simulate", "network", "--replay", str(path), "--json"]
    assert boundary.run(lambda: app(command, prog_name="atoll", standalone_mode=False)) == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert (report["violations"], report["same_trace"]) == (1, True)
    assert "two histories" in said.err


def test_the_strikes_of_a_seed_give_its_very_trace() -> None:
    chosen = setting(5, 4, "heavy")
    for seed in range(4):
        drawn = trial(seed, chosen, traced=True)
        given = trial(seed, chosen, traced=True, strikes=drawn.strikes)
        assert len(drawn.strikes) > 0
        assert given.trace == drawn.trace


def test_a_part_that_fails_is_found() -> None:
    tried: list[Sequence[int]] = []

    def fails(items: Sequence[int]) -> bool:
        tried.append(items)
        return {3, 11} <= set(items)

    assert least(list(range(40)), fails) == [3, 11]
    assert len(tried) < 80
    assert least([1, 2], lambda items: True) == []


@pytest.mark.parametrize(
    "strike",
    [
        Strike(12, "crash", ("p1",), (), (300,)),
        Strike(0, "cut", ("p1", "w"), ("p2",), (500, 1, 0)),
        Strike(7, "trap-late", numbers=(500, 9000), moment="write promised"),
        Strike(0, "loss"),
    ],
)
def test_a_strike_is_a_line(strike: Strike) -> None:
    assert strike_of(str(strike)) == strike


@pytest.mark.parametrize(
    "text", ["", "seed 1\n", "strike 1 fire p1 - - -\n", "strike x\n", "seed 1\nsetting {\n"]
)
def test_what_is_no_transcript_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "case.txt"
    path.write_text(text)
    with pytest.raises(ConfigError):
        transcript.read(path)
    with pytest.raises(ConfigError):
        transcript.read(tmp_path / "nothing")
