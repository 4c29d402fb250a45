"""Bad input: one clear line, the right exit code, no stack trace, nothing half-written."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
import typer
from conftest import Atoll

from atoll.cli import boundary
from atoll.node.transport import BootstrapFailed, Unreachable
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import PeerId, digest_of, peer_id
from atoll.protocol.invite import Invite

PEER = peer_id(bytes(range(32)))
INVITE = Invite(digest_of(b"a run"), (f"/ip4/127.0.0.1/tcp/9/p2p/{PEER}",), 1200)


def test_an_unknown_verb_or_option_names_the_nearest(atoll: Atoll) -> None:
    atoll("joim").refused(2, "joim", "join")
    atoll("status", "--jsn").refused(2, "--jsn", "--json")
    atoll("join").refused(2, "INVITE")
    atoll("demo", "--rounds", "3").refused(2, "--rounds")


def test_a_wrong_run_file(atoll_process: Atoll, tmp_path: Path) -> None:
    run_file, state = tmp_path / "RUN.toml", tmp_path / "state"
    run_file.write_text('[model]\narchitecture = "llama"\n[inner]\nstep = 3\n')
    said = (str(run_file), "[inner]", "`step`", "did you mean `steps`?")
    atoll_process("coordinator", str(run_file), "--state", str(state)).refused(2, *said)
    assert not state.exists()


def test_a_run_file_that_is_no_toml_or_not_there(atoll: Atoll, tmp_path: Path) -> None:
    (tmp_path / "RUN.toml").write_text("[run\n")
    atoll("coordinator", str(tmp_path / "RUN.toml")).refused(2, "RUN.toml", "line 1")
    atoll("coordinator", str(tmp_path / "none.toml")).refused(2, "none.toml", "No such file")


def test_a_glob_that_matches_nothing(atoll: Atoll, tmp_path: Path) -> None:
    run_file, state = tmp_path / "RUN.toml", tmp_path / "state"
    run_file.write_text('[model]\narchitecture = "llama"\n[data]\nsource = "text:/nowhere/*.txt"\n')
    run_file.write_text(run_file.read_text() + "[model.config]\nhidden_size = 32\nnum_attention_heads = 2\n")
    atoll("coordinator", str(run_file), "--state", str(state)).refused(2, "/nowhere/*.txt", "no file")
    assert not state.exists()
    atoll("join", str(INVITE), "--data", "text:/nowhere/*.txt", "--state", str(state)).refused(2, "--data")
    assert not state.exists()


def test_a_port_in_use(atoll_process: Atoll, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a text of several words. " * 4000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "RUN.toml").write_text(
            f'[model]\narchitecture = "llama"\n[data]\nsource = "text:{tmp_path}/text.txt"\n[model.config]\n'
            "hidden_size = 32\nintermediate_size = 64\nnum_hidden_layers = 1\nnum_attention_heads = 2\n"
            f'[coordinator]\nlisten = "127.0.0.1:0"\ndht_listen = ["/ip4/127.0.0.1/tcp/{port}"]\n'
        )
        ran = atoll_process("coordinator", str(tmp_path / "RUN.toml"), "--state", str(tmp_path / "state"))
    ran.refused(2, str(port), "in use")


def test_a_state_folder_that_cannot_be_written(atoll: Atoll, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    state = str(tmp_path / "file" / "state")
    atoll("key", "new", "--state", state).refused(2, state)
    atoll("join", str(INVITE), "--state", state).refused(2, state)


def test_a_damaged_a_cut_off_and_an_expired_invite(
    atoll_process: Atoll, atoll: Atoll, tmp_path: Path
) -> None:
    line, state = str(INVITE), ("--state", str(tmp_path / "state"))
    atoll_process("join", line.replace("1200", "1201"), *state).refused(2, "invite", "damaged")
    atoll("join", line[:-3], *state).refused(2, "invite", "cut off")
    atoll("join", line.replace("atoll:", "atol:"), *state).refused(2, "invite", "not an invite")
    expired = Invite(INVITE.run_id, INVITE.bootstrap, 1200, expires=1_000_000_000)
    atoll("join", str(expired), *state).refused(2, "invite", "expired")
    assert not (tmp_path / "state").exists()


def test_options_that_contradict_each_other(atoll: Atoll) -> None:
    atoll("join", str(INVITE), "--listen", "127.0.0.1:0", "--libp2p-only").refused(2, "--libp2p-only")


@pytest.mark.parametrize("wrong", ["0", "1.5", "nan"])
def test_an_effort_that_is_no_share(atoll: Atoll, wrong: str) -> None:
    atoll("join", str(INVITE), "--effort", wrong).refused(2, "--effort", "0.05 to 1")


@pytest.mark.parametrize("wrong", ["0.1", "-5", "nan", "1e9"])
def test_a_limit_that_no_link_has(atoll: Atoll, wrong: str) -> None:
    for option in ("--upload-mbit", "--download-mbit"):
        atoll("join", str(INVITE), option, wrong).refused(2, option, "or 0 for no limit")


@pytest.mark.parametrize("verb", [["status"], ["status", "--json"], ["status", "--watch"], ["stop"]])
def test_no_daemon_is_unreachable(atoll: Atoll, tmp_path: Path, verb: list[str]) -> None:
    atoll(*verb).refused(4, "no daemon is running")
    (tmp_path / "state-7.safetensors").touch()
    (tmp_path / "state-11.safetensors").touch()
    atoll(*verb, "--state", str(tmp_path)).refused(4, str(tmp_path), "the last round saved there is 11")


def test_a_socket_that_nobody_serves_is_unreachable(atoll: Atoll, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "admin.sock"))
    atoll("status", "--state", str(tmp_path)).refused(4, str(tmp_path), "nothing is saved there")


def test_export_without_a_run(atoll: Atoll, tmp_path: Path) -> None:
    atoll("export", str(tmp_path / "model")).refused(2, "nothing to export")
    atoll("export", str(tmp_path / "model"), "--state", str(tmp_path)).refused(2, "no run here")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    atoll("export", str(tmp_path / "full"), "--state", str(tmp_path)).refused(2, "not empty")


def test_the_demo_keeps_nothing_in_a_full_folder(atoll: Atoll, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    atoll("demo", "--keep", str(tmp_path)).refused(2, str(tmp_path), "not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def fails(error: BaseException) -> int:
    def command() -> None:
        raise error

    return boundary.run(command)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a", "b", "c"), 2),
        (RemoteProtocolError("not signed"), 2),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/state"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "/root"), 2),
        (typer.BadParameter("no"), 2),
        (boundary.PromiseBroken("no peer was killed"), 1),
        (boundary.NotRunning("nobody"), 4),
        (Unreachable(PeerId(PEER), "refused"), 4),
        (BootstrapFailed("nobody answers"), 4),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
    ],
)
def test_every_kind_of_error_has_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fails(error) == code
    assert capsys.readouterr().err.count("\n") == (0 if code == 130 else 1)


def test_a_full_disk_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    fails(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/state"))
    assert capsys.readouterr().err == "atoll: /full/state: No space left on device\n"


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(KeyError):
        fails(KeyError("bug"))
    with pytest.raises(OSError):
        fails(OSError(errno.EBADF, "Bad file descriptor"))
