"""Trials that are killed, in this process and in one of their own; the command; Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from labs import ALL, REPLICAS, SYNC, lab, numbers, run, table

from atoll.cli import boundary
from atoll.cli.main import app
from atoll.protocol.errors import ConfigError
from atoll.simulator.lab import pool
from atoll.simulator.lab.methods import rounds
from atoll.simulator.lab.plot import draw
from atoll.simulator.lab.pool import Job
from atoll.simulator.lab.report import report

LONG = 40  # steps that nobody waits for
DEADLINE_S = 120.0


class Killed(BaseException):
    """What no code of the lab catches."""


def written(path: Path, content: dict[str, Any]) -> Path:
    """A LAB.toml. Values of JSON are values of TOML, but for tables, which are written as such."""
    lines: list[str] = []
    for name, section in content.items():
        for each in section if isinstance(section, list) else [section]:
            lines.append(f"[[{name}]]" if isinstance(section, list) else f"[{name}]")
            lines += [f"{key} = {toml(value)}" for key, value in each.items()]
    path.write_text("\n".join(lines), encoding="utf8")
    return path


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


@pytest.mark.long
def test_a_trial_that_was_ended_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every method is stopped once, where it has just saved, and goes on in new objects."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    churn = {"every_steps": 2, "leave": 0.2, "miss": 0.3}
    chosen = lab(*ALL, churn=churn, lab={"save_seconds": 0.0})
    whole = run(lab(*ALL, churn=churn), tmp_path / "whole")

    def stop_late(job: Job, steps: float, loss: float) -> None:
        if steps > 9 and not (tmp_path / "halves" / f"{job.method}").exists():
            (tmp_path / "halves").mkdir(exist_ok=True)
            (tmp_path / "halves" / f"{job.method}").touch()
            raise Killed

    stopped = 0
    for _ in range(len(ALL) + 1):
        try:
            results = pool.run(chosen, tmp_path / "halves", 1, True, stop_late, lambda *done: None)
        except Killed:
            stopped += 1
    assert stopped == len(ALL)
    for place, method in enumerate(chosen.methods):
        assert numbers(results[Job(place, 0)]) == numbers(whole[method.name]), method.name


@pytest.mark.long
def test_a_process_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL in the middle of a trial; the parent says so, and a later call gives the same numbers."""
    chosen = lab(SYNC, ALL[2], lab={"save_seconds": 0.02, "tokens": REPLICAS * LONG * 32})
    killed: list[int] = []

    def kill(job: Job, steps: float, loss: float) -> None:
        if job.method == 1 and steps > LONG / 2 and not killed:
            (process,) = processes._pipes.values()
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)

    processes = pool._Processes(chosen, tmp_path / "a", 1, kill, lambda *done: None)
    with pytest.raises(pool.TrialDied, match="died with status -9"):
        processes.run([Job(0, 0), Job(1, 0)])
    state = next((tmp_path / "a").glob("trials/02-*/seed-0/state.json"))
    assert 0 < json.loads(state.read_bytes())["step"] < LONG
    resumed, whole = run(chosen, tmp_path / "a", resume=True), run(chosen, tmp_path / "b")
    for name, result in whole.items():
        assert numbers(resumed[name]) == numbers(result)
    assert not list((tmp_path / "a").rglob("at-*")), "states are not kept once a trial is done"


def test_without_resume_all_begins_anew_and_other_labs_are_not_resumed(tmp_path: Path) -> None:
    run(lab(), tmp_path)
    result = next(tmp_path.rglob("result.json"))
    before = result.stat().st_mtime_ns
    run(lab(), tmp_path, resume=True)
    assert result.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"another LAB\.toml.*--out"):
        run(lab(inner={"learning_rate": 1e-3}), tmp_path, resume=True)
    run(lab(inner={"learning_rate": 1e-3}), tmp_path)
    assert result.stat().st_mtime_ns != before


def test_a_damaged_state_is_told(tmp_path: Path) -> None:
    (tmp_path / "trials/01-sync/seed-0").mkdir(parents=True)
    (tmp_path / "trials/01-sync/seed-0/state.json").write_bytes(b"{")
    with pytest.raises(ConfigError, match="damaged"):
        run(lab(), tmp_path, resume=True)


def test_a_model_that_a_method_cannot_cut_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    many = {"name": "s", "algorithm": "streaming", "steps": 120, "codec": "int8", "fragments": 60}
    with pytest.raises(ConfigError, match=r"'s': .* do not fill 60 fragments"):
        run(lab(SYNC, many), tmp_path)
    assert not list(tmp_path.rglob("result.json"))
    assert rounds.PARTITIONS.keys() == {"balanced", "sequential", "strided"}


def test_the_command_prints_one_object_and_draws_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "LAB.toml", table(*ALL[:2], lab={"seeds": [0, 1]}))
    out = tmp_path / "out"
    arguments = ["simulate", "training", str(path), "--workers", "1", "--out", str(out)]
    code = boundary.run(lambda: app([*arguments, "--json"], prog_name="atoll", standalone_mode=False))
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    sync, diloco = report["methods"]
    for row in report["methods"]:
        assert {"method", "loss", "loss_vs_sync", "bytes_per_replica", "bytes_vs_sync"} <= row.keys()
        assert row["loss"] == pytest.approx(sum(row["losses"]) / 2)
        assert row["spread"] == pytest.approx(abs(row["losses"][0] - row["losses"][1]))
        assert (row["seeds"], row["tokens"]) == ([0, 1], 1152)
    assert (sync["loss_vs_sync"], sync["bytes_vs_sync"]) == (1.0, 1.0)
    assert diloco["loss_vs_sync"] == diloco["loss"] / sync["loss"]
    assert diloco["bytes_vs_sync"] == diloco["bytes_per_replica"] / sync["bytes_per_replica"] < 0.1
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    kept = json.loads((out / "results.json").read_bytes())
    assert kept["methods"] == report["methods"]
    assert [(curve["method"], curve["seed"]) for curve in kept["curves"]] == [
        (name, seed) for seed in (0, 1) for name in ("sync", "diloco")
    ]
    assert boundary.run(lambda: app([*arguments, "--resume"], prog_name="atoll", standalone_mode=False)) == 0
    shown = capsys.readouterr().out
    assert "diloco" in shown
    assert "seeds 0, 1" in shown


def test_a_replica_alone_sends_nothing_and_is_drawn_all_the_same(tmp_path: Path) -> None:
    chosen = lab(SYNC, ALL[1], lab={"replicas": 1, "tokens": 4 * 32})
    results = pool.run(chosen, tmp_path, 1, False, lambda *news: None, lambda *done: None)
    draw(chosen, results, tmp_path / "loss.png")
    found = report(chosen, results, 1.0)
    assert [(row["bytes_per_replica"], row["bytes_vs_sync"]) for row in found["methods"]] == [(0, None)] * 2
    json.dumps(found, allow_nan=False)


def test_an_interrupt_ends_it_at_once_and_leaves_a_state(tmp_path: Path) -> None:
    path = written(
        tmp_path / "LAB.toml",
        table(SYNC, ALL[1], lab={"save_seconds": 0.0, "tokens": REPLICAS * 100_000 * 32}),
    )
    command = [sys.executable, "-m", "atoll.cli.main", "simulate", "training", str(path), "--workers", "1"]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not list((tmp_path / "out").rglob("state.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
        assert time.monotonic() - began < 10
    finally:
        process.kill()
    assert process.returncode == boundary.INTERRUPTED
    assert "--resume goes on" in said
