from __future__ import annotations

import json
import logging
import shutil
import stat
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from conftest import Atoll

from atoll.cli import keys, logs, places
from atoll.coordinator import runfile
from atoll.node.rpc import admin_pb2 as rpc
from atoll.node.rpc.admin_pb2_grpc import AdminServicer, add_AdminServicer_to_server

PEER = "12D3KooW9pP4Seg3kZYhySpuVjn1RPdQBsUFZKiFxGMGQN5MeL6A"
STATUS: dict[str, Any] = {
    "peer": PEER,
    "role": "worker",
    "run_id": "ab" * 32,
    "run": "tiny [red]",
    "pid": 7,
    "phase": "training",
    "why": "7 of 16 steps",
    "round": 4,
    "height": 3,
    "updates": 3,
    "rounds_total": 12,
    "view": 0,
    "leader": PEER,
    "leads": True,
    "members": [
        {
            "peer": PEER,
            "role": "worker",
            "missed": 0,
            "path": "",
            "you": True,
            "health": {"verdict": "slow compute", "why": "its steps take 2500 ms"},
            "reputation": {"value": 0.35, "judgements": 4, "audited": 3, "trials": 1, "weight": 0.0},
        }
    ],
    "anchor_digest": "cd" * 32,
    "anchor_round": 3,
    "training": {"step": 7, "steps": 16, "loss": 3.25, "tokens_per_s": None},
    "evaluation": [{"round": 0, "loss": 5.5}, {"round": 3, "loss": 3.5}],
    "commits": [
        {
            "round": 3,
            "kind": "update",
            "contributors": [PEER],
            "view": 0,
            "seconds": None,
            "sent_bytes": 1_844_598,
            "received_bytes": 12,
        }
    ],
    "traffic": {"result": {"sent": 1_000_000, "received": 0}},
    "rejected": {"an oversized message": 2},
    "ended": None,
    "state_dir": "/state",
}


class Daemon(AdminServicer):  # type: ignore[misc]
    """The admin service of a daemon, on a real unix socket: what a client of it sees."""

    def __init__(self, socket: Path) -> None:
        self.finish: bool | None = None
        self.paused: bool | None = None
        self.trains = True
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        add_AdminServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{socket}")
        self._server.start()

    def Status(self, request: Any, context: Any) -> rpc.StatusReply:
        return rpc.StatusReply(json=json.dumps(STATUS))

    def Watch(self, request: Any, context: Any) -> Any:
        for round_ in (3, 4):
            yield rpc.StatusReply(json=json.dumps({**STATUS, "height": round_}))

    def Stop(self, request: Any, context: Any) -> rpc.StopReply:
        self.finish = request.finish
        self._server.stop(0.5)
        return rpc.StopReply(reason="stops")

    def Pause(self, request: Any, context: Any) -> rpc.PauseReply:
        if not self.trains:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this peer votes and does not train")
        self.paused = request.on
        return rpc.PauseReply(reason="rests" if request.on else "trains again")

    def close(self) -> None:
        self._server.stop(0).wait(5)


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    folder = tmp_path / "run"
    folder.mkdir()
    served = Daemon(folder / "admin.sock")
    yield served
    served.close()


def test_version(atoll: Atoll) -> None:
    from atoll import __version__

    assert atoll("--version").out == f"atoll {__version__}\n"


def test_help_names_every_verb(atoll: Atoll) -> None:
    out = atoll("--help").out
    for verb in ("demo", "init", "coordinator", "join", "status", "stop", "export", "key", "simulate"):
        assert f" {verb} " in out
    for verb in ("pause", "resume", "recover"):
        assert f" {verb} " in out


def test_init_writes_a_run_and_overwrites_nothing(atoll: Atoll, tmp_path: Path) -> None:
    assert atoll("init", str(tmp_path / "new")).out.strip() == str(tmp_path / "new" / "RUN.toml")
    before = (tmp_path / "new" / "RUN.toml").read_text()
    assert runfile.read(tmp_path / "new" / "RUN.toml").name == "my-run"
    atoll("init", str(tmp_path / "new")).refused(2, "there is a file already")
    assert (tmp_path / "new" / "RUN.toml").read_text() == before
    assert atoll("init", str(tmp_path / "other.toml")).code == 0
    assert (tmp_path / "other.toml").read_text() == before


def test_key_new_makes_one_key_and_show_tells_it(atoll: Atoll, own_state_root: Path) -> None:
    atoll("key", "show").refused(2, "atoll key new")
    made = atoll("key", "new").out.strip()
    assert made.startswith("12D3Koo")
    assert atoll("key", "show").out.strip() == made
    atoll("key", "new").refused(2, "there is a key already")
    assert stat.S_IMODE((own_state_root / "key" / "identity.key").stat().st_mode) == 0o600


def test_a_new_state_folder_takes_the_users_key_once(atoll: Atoll, tmp_path: Path) -> None:
    keys.adopt(tmp_path / "before")
    assert not (tmp_path / "before").exists()
    made = atoll("key", "new").out.strip()
    keys.adopt(tmp_path / "state")
    assert atoll("key", "show", "--state", str(tmp_path / "state")).out.strip() == made
    other = atoll("key", "new", "--state", str(tmp_path / "other")).out.strip()
    keys.adopt(tmp_path / "other")
    assert atoll("key", "show", "--state", str(tmp_path / "other")).out.strip() == other != made


def test_status_of_a_daemon(atoll: Atoll, daemon: Daemon, tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "run"))
    (tmp_path / "run" / "invite").write_text("atoll://x\n")
    assert json.loads(atoll("status", "--json", *state).out) == {**STATUS, "invite": "atoll://x"}
    shown = atoll("status", *state).out
    for part in (PEER, "tiny [red]", "training: 7 of 16 steps", "3 of 12", "3.500 after round 3", "1.8 MB"):
        assert part in shown
    assert "2 × an oversized message" in shown
    assert "is slow compute: its steps take 2500 ms" in shown
    unfolded = " ".join(shown.split())
    assert "0 of 1 workers weigh all" in unfolded
    assert "weighs 0.00: its reputation is 0.35 of 4 judgements, 1 are to come" in unfolded


def test_watch_goes_on_until_the_daemon_ends(atoll: Atoll, daemon: Daemon, tmp_path: Path) -> None:
    watched = atoll("status", "--json", "--watch", "--state", str(tmp_path / "run"))
    assert [json.loads(line)["height"] for line in watched.out.splitlines()] == [3, 4]
    assert watched.code == 0


@pytest.mark.parametrize("finish", [False, True])
def test_stop_waits_until_the_daemon_has_ended(
    atoll: Atoll, daemon: Daemon, tmp_path: Path, finish: bool
) -> None:
    ran = atoll("stop", "--state", str(tmp_path / "run"), *(["--finish"] if finish else []))
    assert (ran.code, daemon.finish) == (0, finish)
    assert not places.answers(tmp_path / "run")


def test_pause_and_resume_tell_the_daemon(atoll: Atoll, daemon: Daemon, tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "run"))
    assert "rests" in atoll("pause", *state).out
    assert daemon.paused is True
    assert "trains again" in atoll("resume", *state).out
    assert daemon.paused is False
    daemon.trains = False
    atoll("pause", *state).refused(2, "votes and does not train")
    atoll("pause", "--state", str(tmp_path / "idle")).refused(4, "no daemon answers")


def test_status_names_a_pause_and_a_later_epoch() -> None:
    from atoll.cli.status_view import _lines

    before = dict(_lines(STATUS))
    assert (before["paused"], before["round"].split(",")[0]) == ("", "4")
    after = dict(_lines({**STATUS, "paused": True, "epoch": 2}))
    assert "atoll resume" in after["paused"]
    assert after["round"].startswith("4 of epoch 2, ")


def test_the_one_running_daemon_is_found(atoll: Atoll, own_state_root: Path) -> None:
    (own_state_root / "one").mkdir(parents=True)
    (own_state_root / "idle").mkdir()
    one = Daemon(own_state_root / "one" / "admin.sock")
    try:
        assert json.loads(atoll("status", "--json").out)["peer"] == PEER
        (own_state_root / "two").mkdir()
        two = Daemon(own_state_root / "two" / "admin.sock")
        try:
            atoll("status").refused(2, "more than one running daemon", "one", "two", "--state")
        finally:
            two.close()
    finally:
        one.close()


def test_a_socket_elsewhere_is_found(atoll: Atoll, daemon: Daemon, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    (deep / "admin.path").write_text(f"{tmp_path / 'run' / 'admin.sock'}\n")
    assert json.loads(atoll("status", "--json", "--state", str(deep)).out)["peer"] == PEER


def test_export_loads_in_transformers_and_is_the_newest_sound_state(atoll: Atoll, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from atoll.coordinator.publish import publish
    from atoll.node.disk import load_state
    from atoll.workload import vector

    (tmp_path / "text.txt").write_text("a text of several words. " * 4000)
    run_file, state, model = tmp_path / "RUN.toml", tmp_path / "state", tmp_path / "model"
    run_file.write_text(
        '[model]\narchitecture = "llama"\n[model.config]\nhidden_size = 32\nintermediate_size = 64\n'
        "num_hidden_layers = 1\nnum_attention_heads = 2\n"
        f'[data]\nsource = "text:{tmp_path}/text.txt"\nsequence_tokens = 32\n'
    )
    publish(runfile.read(run_file), state)
    shutil.copy(state / "state-0.safetensors", state / "state-3.safetensors")
    (state / "state-12.safetensors").write_bytes(b"torn")
    ran = atoll("export", str(model), "--state", str(state))
    assert (ran.code, "after round 3" in ran.out) == (0, True)
    flat = torch.empty(load_state(state / "state-0.safetensors")[0].numel())
    vector.write(AutoModelForCausalLM.from_pretrained(model), flat)
    assert torch.equal(flat, load_state(state / "state-0.safetensors")[0])
    atoll("export", str(model), "--state", str(state)).refused(2, "not empty")


def test_the_log_is_lines_of_json_in_the_state_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    import structlog

    try:
        logs.configure(tmp_path / "state", as_json=False)
        logging.getLogger("atoll.node").info("commit %d", 3)
        structlog.get_logger("atoll.node").warning("rejected", peer="abc")
        logging.getLogger("somebody").info("chatter")
        logging.getLogger("somebody").warning("trouble")
    finally:
        logging.captureWarnings(False)
        for name in ("atoll", "asyncio"):
            logging.getLogger(name).setLevel(logging.NOTSET)
        structlog.reset_defaults()
        for handler in root.handlers:
            handler.close()
    lines = [json.loads(line) for line in (tmp_path / "state" / "atoll.log").read_text().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("commit 3", "info"),
        ("rejected", "warning"),
        ("trouble", "warning"),
    ]
    assert lines[1]["peer"] == "abc"
    err = capsys.readouterr().err
    assert "event=rejected peer=abc" in err
    assert "chatter" not in err
