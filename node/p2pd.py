"""libp2p's daemon, p2pd, as a child process that cannot outlive this one.

hivemind ships the program. It ends by itself when the last persistent connection to its control socket
closes, also when this process was killed; until there is one, its idle timer counts. It gets a session of
its own, so that a Ctrl-C in the terminal does not end it before the peer has said goodbye. No hivemind
import here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import psutil

from atoll.node.transport import BootstrapFailed
from atoll.protocol.errors import ConfigError

log = logging.getLogger("atoll.p2pd")

IDLE_S = 30
STOP_S = 3.0
_PREFIX, _LOCK = "atoll-p2pd-", "lock"
_READY, _IN_USE = b"Peer ID:", b"address already in use"


def program() -> Path:
    """The p2pd inside the installed hivemind."""
    spec = importlib.util.find_spec("hivemind")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "hivemind_cli" / "p2pd"
        if path.is_file():
            return path
    raise ConfigError("hivemind's p2pd is not installed", right="pip install hivemind")


class PrivateFolder:
    """A folder in the temporary directory, locked for as long as this process lives.

    One that was killed leaves its folder behind; the next one that starts removes those that nobody locks.
    """

    def __init__(self) -> None:
        for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
            with contextlib.suppress(OSError), _locked(old):
                shutil.rmtree(old.parent, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = _locked(self.path / "new")
        os.rename(self.path / "new", self.path / _LOCK)  # locked before others look for it

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _locked(path: Path) -> IO[bytes]:
    """The file, locked; OSError if another process has it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file


class P2pd:
    """A running daemon: its control socket lies in a private folder that goes with it."""

    def __init__(self, process: asyncio.subprocess.Process, folder: PrivateFolder) -> None:
        self._process, self._private, self._folder = process, folder, folder.path
        self._reading: asyncio.Task[None] | None = None
        self._said = b""

    @classmethod
    async def start(
        cls,
        identity: Path,
        listen: Sequence[str],
        announce: Sequence[str] = (),
        relays: Sequence[str] = (),
        startup_s: float = 30.0,
    ) -> P2pd:
        """Start, and wait until it listens; ConfigError for an address in use, else BootstrapFailed."""
        folder = PrivateFolder()
        try:
            process = await asyncio.create_subprocess_exec(
                str(program()),
                *_flags(folder.path, identity, listen, announce, relays),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, "GOLOG_LOG_LEVEL": "error"},
                start_new_session=True,
            )
        except BaseException:
            folder.remove()
            raise
        self = cls(process, folder)
        try:
            await asyncio.wait_for(self._until_ready(listen), startup_s)
        except asyncio.TimeoutError:
            await self.stop()
            raise BootstrapFailed(f"p2pd did not start in {startup_s:g} s") from None
        except BaseException:
            await self.stop()
            raise
        self._reading = asyncio.ensure_future(self._read())
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def control(self) -> str:
        """The multiaddr of its control socket."""
        return f"/unix{self._folder / 'control.sock'}"

    def traffic_bytes(self) -> tuple[int, int] | None:
        """Bytes that p2pd has read and written, None where the system does not tell.

        It counts both of p2pd's sides, the network and this process, so it bounds the network's share.
        """
        try:
            counters = psutil.Process(self.pid).io_counters()
            return counters.read_chars, counters.write_chars
        except (psutil.Error, AttributeError):
            return None

    async def stop(self) -> None:
        """End it and remove its socket: SIGTERM, and SIGKILL if that does not help."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.communicate(), STOP_S)
        except asyncio.TimeoutError:
            self._process.kill()
            await self._process.communicate()
        self._private.remove()

    async def _until_ready(self, listen: Sequence[str]) -> None:
        assert self._process.stdout is not None
        while _READY not in self._said:
            piece = await self._process.stdout.read(4096)
            if not piece and _IN_USE in self._said:
                right = "a free port of this machine, or tcp/0 for any"
                raise ConfigError("the port is in use", f"libp2p listen {', '.join(listen)}", right)
            if not piece:
                raise BootstrapFailed(f"p2pd did not start: {self._said[-300:].decode(errors='replace')}")
            self._said = (self._said + piece)[-8192:]

    async def _read(self) -> None:
        """Empty its pipe for good, so that it never blocks on it."""
        assert self._process.stdout is not None
        while piece := await self._process.stdout.read(4096):
            log.debug("%s", piece.decode(errors="replace").rstrip())


def _flags(
    folder: Path, identity: Path, listen: Sequence[str], announce: Sequence[str], relays: Sequence[str]
) -> list[str]:
    public = not all("/127.0.0.1/" in address or "/::1/" in address for address in listen)
    return [
        f"-listen=/unix{folder / 'control.sock'}",
        f"-id={identity}",
        f"-hostAddrs={','.join(listen)}",
        f"-idleTimeout={IDLE_S}s",
        "-dhtServer=1",
        "-connManager=1",
        "-autonat=1",
        "-relay=1",
        "-tls=1",
        f"-natPortMap={int(public)}",
        f"-autoRelay={int(public and bool(relays))}",
        *([f"-announceAddrs={','.join(announce)}"] if announce else []),
        *([f"-trustedRelays={','.join(relays)}"] if public and relays else []),
    ]
