"""Servers in processes of their own, so that tests can kill, freeze and restart them.

They are forked from one process that has imported hivemind (which takes seconds) and nothing else.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from atoll.protocol.envelope import Record, open_record, seal_record
from atoll.protocol.ids import digest_of

RUN = digest_of(b"a run of the tests")
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["atoll.node.dht"])


@dataclass(frozen=True)
class Server:
    """A running server process and where it can be reached."""

    pid: int
    record: Record

    def signal(self, sign: signal.Signals) -> None:
        os.kill(self.pid, sign)


@contextmanager
def process(name: str, folder: Path, listen: str = "") -> Iterator[Server]:
    """A server of the transport `name` which serves 32 MiB of noise; killed in the end."""
    ours, theirs = _FORKS.Pipe()
    child = _FORKS.Process(target=_serve, args=(theirs, name, str(folder), listen))
    child.start()
    theirs.close()
    try:
        assert ours.poll(60), "the server did not start"
        assert child.pid is not None
        yield Server(child.pid, open_record(ours.recv_bytes(), RUN))
    finally:
        if child.is_alive():
            child.kill()  # which also ends a stopped process
        child.join()
        child.close()
        ours.close()


def _serve(ready: Connection, name: str, folder: str, listen: str) -> None:
    asyncio.run(_serve_until_killed(ready, name, Path(folder), listen))


async def _serve_until_killed(ready: Connection, name: str, folder: Path, listen: str) -> None:
    from test_direct import DirectWires
    from test_libp2p import Libp2pWires
    from transport_contract import MIB, Island, noise

    from atoll.node.identity import load_or_create
    from atoll.node.traffic import Traffic

    island, identity = Island(), load_or_create(folder)
    island.store.put(noise(32 * MIB), round=1, kind="result")
    wires = {"direct": DirectWires, "libp2p": Libp2pWires}[name]
    async with (wires(listen) if listen else wires()).serving(identity, island, Traffic()) as record:
        ready.send_bytes(seal_record(identity.key, record))
        await asyncio.Event().wait()
