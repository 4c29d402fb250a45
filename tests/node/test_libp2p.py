"""libp2p streams: the contract of every transport, over two daemons."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import psutil
import pytest
from serve_peer import RUN
from transport_contract import Contract, Island, ProcessContract, noise, run, world

from atoll.node.dht import DhtConfig, Libp2p
from atoll.node.identity import Identity, load_or_create
from atoll.node.p2pd import P2pd
from atoll.node.rate_limit import RateLimit
from atoll.node.streams import Streams, StreamServer, _protocol, _read, _write
from atoll.node.traffic import Traffic
from atoll.node.transport import MESSAGE_BYTES_MAX, PULLS_PER_PEER, BootstrapFailed, Refused, Unreachable
from atoll.protocol.envelope import Record, seal
from atoll.protocol.errors import ConfigError
from atoll.protocol.keys import Key
from atoll.protocol.wire import messages_pb2 as wire

pytestmark = pytest.mark.swarm


class Libp2pWires:
    name = "libp2p"

    def __init__(self, listen: str = "/ip4/127.0.0.1/tcp/0") -> None:
        self.listen = listen

    @asynccontextmanager
    async def libp2p(self, identity: Identity) -> AsyncIterator[Libp2p]:
        libp2p = await Libp2p.start(identity, DhtConfig(listen=(self.listen,)))
        try:
            yield libp2p
        finally:
            await libp2p.close()

    @asynccontextmanager
    async def serving(self, identity: Identity, island: Island, traffic: Traffic) -> AsyncIterator[Record]:
        async with self.libp2p(identity) as libp2p:
            await StreamServer(libp2p, RUN, island, traffic, island.uploads).start()
            yield Record(RUN, identity.peer, 1, multiaddrs=await libp2p.multiaddrs())

    @asynccontextmanager
    async def calling(
        self, identity: Identity, traffic: Traffic, downloads: RateLimit | None = None
    ) -> AsyncIterator[Streams]:
        async with Libp2pWires().libp2p(identity) as libp2p:
            yield Streams(libp2p, RUN, traffic, downloads)


class TestContract(Contract):
    wires = Libp2pWires()

    def at_no_address(self, record: Record) -> Record:
        other = Key.generate().peer
        return self.at_port(replace(record, peer=other), 1)

    def at_port(self, record: Record, port: int) -> Record:
        return replace(record, multiaddrs=(f"/ip4/127.0.0.1/tcp/{port}/p2p/{record.peer}",))

    def port_of(self, record: Record) -> int:
        return int(record.multiaddrs[0].split("/")[4])


class TestProcesses(ProcessContract):
    wires, daemons = Libp2pWires(), 1

    def listen_at(self, record: Record) -> str:
        return record.multiaddrs[0].partition("/p2p/")[0]


def test_a_length_that_a_stranger_names_is_not_read(tmp_path: Path) -> None:
    """A frame of 2 GiB is refused after its four bytes of length; garbage is refused as such."""

    async def story() -> None:
        async with world(Libp2pWires(), tmp_path) as w:
            libp2p = w.transport._libp2p  # type: ignore[attr-defined]
            assert (await w.say(b"hello")).accepted
            for sent, said in (
                ((2 << 30).to_bytes(4, "big"), f"at most {MESSAGE_BYTES_MAX} are read"),
                ((10).to_bytes(4, "big") + b"\xff" * 10, "not a Envelope"),
            ):
                reader, writer = await libp2p.open(w.record.peer, _protocol(RUN, "deliver"))
                writer.write(sent)
                receipt, _ = await asyncio.wait_for(_read(reader, wire.Receipt), 5)
                assert said in receipt.reason
                writer.transport.abort()
            assert (await w.say(b"again")).accepted

    run(story())


def test_the_caller_ends_a_stream_first(tmp_path: Path) -> None:
    """Who closes over an answer that is still on its way may lose it: p2pd resets such a stream at times."""

    async def story() -> None:
        caller, ends = load_or_create(tmp_path), socket.socketpair()
        (here, send), (there, answer) = [await asyncio.open_connection(sock=end) for end in ends]
        server = StreamServer(cast(Libp2p, None), RUN, Island(), Traffic())
        serving = asyncio.ensure_future(server._deliver(caller.peer, there, answer))
        await _write(send, seal(caller.key, RUN, b"hello"))
        receipt, _ = await asyncio.wait_for(_read(here, wire.Receipt), 5)
        assert receipt.accepted
        assert await asyncio.wait({serving}, timeout=0.05) == (set(), {serving})
        send.close()
        await asyncio.wait_for(serving, 5)
        answer.close()

    run(story())


def test_pulls_of_one_caller_are_bounded(tmp_path: Path) -> None:
    """Pulls that say nothing take places; the next is told so, many more are cut off; places come back."""

    async def story() -> None:
        async with world(Libp2pWires(), tmp_path) as w:
            ref = w.island.store.put(noise(10), round=1, kind="result")
            libp2p = w.transport._libp2p  # type: ignore[attr-defined]
            await libp2p.connect(w.record.peer, w.record.multiaddrs, 5)
            idle = []
            for _ in range(PULLS_PER_PEER):
                idle.append(await libp2p.open(w.record.peer, _protocol(RUN, "pull")))
                idle[-1][1].write(b"\0")

            async def refused() -> bool:
                with contextlib.suppress(Refused):
                    await w.pull(ref)
                    return False
                return True

            while not await refused():
                w.store.forget(ref.digest)
            for _ in range(PULLS_PER_PEER + 1):
                idle.append(await libp2p.open(w.record.peer, _protocol(RUN, "pull")))
                idle[-1][1].write(b"\0")
            answers = [asyncio.ensure_future(reader.read()) for reader, _ in idle]
            done, _ = await asyncio.wait(answers, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            assert [answer.result() for answer in done] == [b""]
            for _, writer in idle:
                writer.transport.abort()
            await asyncio.wait(answers)
            until = asyncio.get_running_loop().time() + 30
            while asyncio.get_running_loop().time() < until:
                with contextlib.suppress(Unreachable):  # cut off, while the other end still counts our pulls
                    if not await refused():
                        break
            assert w.store.get(ref.digest) == noise(10)

    run(story())


def test_a_daemon_ends_cleanly_and_leaves_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        daemon = await P2pd.start(load_or_create(tmp_path).p2p_file, ["/ip4/127.0.0.1/tcp/0"])
        folder, pid = Path(daemon.control.removeprefix("/unix")).parent, daemon.pid
        assert folder.exists()
        assert (daemon.alive, psutil.pid_exists(pid)) == (True, True)
        traffic = daemon.traffic_bytes()
        assert traffic is None or min(traffic) >= 0
        await daemon.stop()
        assert (daemon.alive, psutil.pid_exists(pid), folder.exists()) == (False, False, False)

    run(story())


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    async def story() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        identity = load_or_create(tmp_path)
        with pytest.raises(ConfigError, match=f"tcp/{port}: the port is in use"):
            await Libp2p.start(identity, DhtConfig(listen=(f"/ip4/127.0.0.1/tcp/{port}",)))
        server.close()
        await server.wait_closed()

    run(story())


def test_a_daemon_that_does_not_start_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        bad = tmp_path / "p2p-identity.bin"
        bad.write_bytes(b"not a key")
        with pytest.raises(BootstrapFailed, match="did not start"):
            await P2pd.start(bad, ["/ip4/127.0.0.1/tcp/0"])
        good = load_or_create(tmp_path / "good").p2p_file
        with pytest.raises(BootstrapFailed, match=r"in 0\.0001 s"):
            await P2pd.start(good, ["/ip4/127.0.0.1/tcp/0"], startup_s=0.0001)

    run(story())
