"""Direct gRPC over TLS: the contract of every transport, and who may speak to whom."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from serve_peer import RUN
from transport_contract import Contract, Island, ProcessContract, World, noise, run, world

from atoll.node import direct, link
from atoll.node.addresses import split_address
from atoll.node.direct import Direct, DirectServer
from atoll.node.identity import CERTIFICATE_NAME, Identity, load_or_create
from atoll.node.link import SESSION_KEY, fetch_certificate
from atoll.node.rate_limit import RateLimit
from atoll.node.rpc.peer_pb2_grpc import PeerStub
from atoll.node.sessions import NONCE_S, SESSION_S, UNKNOWN, Doorkeeper, answer
from atoll.node.traffic import Traffic
from atoll.node.transport import Refused, Unreachable
from atoll.protocol.envelope import Record, seal
from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import digest_bytes, digest_of
from atoll.protocol.keys import Key
from atoll.protocol.wire import messages_pb2 as wire


class DirectWires:
    name = "direct"

    def __init__(self, listen: str = "127.0.0.1:0") -> None:
        self.listen = listen

    @asynccontextmanager
    async def serving(self, identity: Identity, island: Island, traffic: Traffic) -> AsyncIterator[Record]:
        server = DirectServer(identity, RUN, island, traffic, island.uploads)
        port = await server.start(self.listen)
        try:
            yield Record(RUN, identity.peer, 1, (f"127.0.0.1:{port}",), identity.certificate)
        finally:
            await server.stop(0)

    @asynccontextmanager
    async def calling(
        self, identity: Identity, traffic: Traffic, downloads: RateLimit | None = None
    ) -> AsyncIterator[Direct]:
        way = Direct(identity.key, RUN, traffic, downloads)
        try:
            yield way
        finally:
            await way.close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TestContract(Contract):
    wires = DirectWires()

    def at_no_address(self, record: Record) -> Record:
        return self.at_port(record, closed_port())

    def at_port(self, record: Record, port: int) -> Record:
        return replace(record, direct=(f"127.0.0.1:{port}",))

    def port_of(self, record: Record) -> int:
        return split_address(record.direct[0])[1]


@pytest.mark.swarm
class TestProcesses(ProcessContract):
    wires, daemons = DirectWires(), 0

    def listen_at(self, record: Record) -> str:
        return record.direct[0]


@asynccontextmanager
async def stranger(w: World) -> AsyncIterator[PeerStub]:
    """A caller that trusts the server's certificate and follows no rules beyond that."""
    address = w.record.direct[0]
    roots = ssl.DER_cert_to_PEM_cert(await fetch_certificate(address)).encode()
    options = [("grpc.ssl_target_name_override", CERTIFICATE_NAME)]
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(roots), options) as channel:
        yield PeerStub(channel)


def test_a_caller_without_a_session_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(DirectWires(), tmp_path) as w, stranger(w) as stub:
            ref = w.island.store.put(noise(100), round=1, kind="result")
            envelope = seal(w.caller.key, RUN, b"hello")
            request = wire.BlobRequest(run_id=digest_bytes(RUN), digest=digest_bytes(ref.digest), size=100)
            for metadata in (None, [(SESSION_KEY, b"")], [(SESSION_KEY, bytes(72))], [("session", "x")]):
                receipt = await stub.Deliver(envelope, metadata=metadata)
                assert (receipt.accepted, receipt.reason) == (False, UNKNOWN)
                chunks = [chunk async for chunk in stub.Pull(request, metadata=metadata)]
                assert [(chunk.refused, chunk.data) for chunk in chunks] == [(UNKNOWN, b"")]
            assert not w.island.taken

    run(story())


def test_garbage_in_place_of_messages_hurts_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(DirectWires(), tmp_path) as w:
            address = w.record.direct[0]
            roots = ssl.DER_cert_to_PEM_cert(await fetch_certificate(address)).encode()
            options = [("grpc.ssl_target_name_override", CERTIFICATE_NAME)]
            credentials = grpc.ssl_channel_credentials(roots)
            async with grpc.aio.secure_channel(address, credentials, options) as channel:
                with pytest.raises(grpc.aio.AioRpcError):
                    await channel.unary_unary("/atoll.Peer/Deliver")(b"\xff" * 1000)
            _, writer = await asyncio.open_connection(*split_address(address))
            writer.write(noise(10_000))
            writer.close()
            assert (await w.say(b"hello")).accepted

    run(story())


def test_the_certificate_must_be_the_one_in_the_record(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(DirectWires(), tmp_path) as w:
            other = replace(w.record, certificate=digest_of(b"another certificate"))
            with pytest.raises(Unreachable, match="certificate is not the one") as caught:
                await w.transport.send(other, seal(w.caller.key, RUN, b"hello"), 5)
            assert not caught.value.answered
            assert not w.island.taken
            assert (await w.say(b"hello")).accepted

    run(story())


def test_an_impostor_at_the_address_learns_nothing(tmp_path: Path) -> None:
    """Another peer listens where the record points: it has another certificate, so nothing is said to it."""

    async def story() -> None:
        impostor = Island()
        async with (
            world(DirectWires(), tmp_path) as w,
            DirectWires().serving(load_or_create(tmp_path / "x"), impostor, Traffic()) as false,
        ):
            record = replace(w.record, direct=(*false.direct, *w.record.direct))
            receipt = await w.transport.send(record, seal(w.caller.key, RUN, b"hello"), 5)
            assert receipt.accepted, "the second address is the peer's own"
            assert (impostor.taken, w.island.taken) == ([], [b"hello"])

    run(story())


def test_a_new_certificate_in_a_newer_record_replaces_the_channel(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(DirectWires(), tmp_path) as w:
            assert (await w.say(b"one")).accepted
            second = load_or_create(tmp_path / "second")
            moved = Identity(
                second.folder,
                load_or_create(tmp_path / "server").key,
                second.certificate_pem,
                second.certificate_key_pem,
                second.certificate,
            )
            async with DirectWires().serving(moved, w.island, Traffic()) as record:
                assert record.peer == w.record.peer
                assert (await w.transport.send(record, seal(w.caller.key, RUN, b"two"), 5)).accepted
            assert w.island.taken == [b"one", b"two"]

    run(story())


def test_a_server_of_another_run_refuses_with_its_reason(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(DirectWires(), tmp_path) as w:
            other = digest_of(b"another run")
            way = Direct(w.caller.key, other, Traffic())
            with pytest.raises(Refused, match="of another run"):
                await way.send(replace(w.record, run_id=other), seal(w.caller.key, other, b"hello"), 5)
            await way.close()

    run(story())


def test_a_restarted_server_asks_for_a_new_proof_once(tmp_path: Path) -> None:
    """The server forgets its secret, as a new process would; the caller's next call succeeds all the same."""

    async def story() -> None:
        caller, island = load_or_create(tmp_path / "caller"), Island()
        server, way = load_or_create(tmp_path / "server"), Direct(caller.key, RUN, Traffic())
        ref = island.store.put(noise(1000), round=1, kind="result")
        async with DirectWires().serving(server, island, Traffic()) as record:
            assert (await way.send(record, seal(caller.key, RUN, b"one"), 5)).accepted
            way._links[record.peer].token = bytes(72)
            assert (await way.send(record, seal(caller.key, RUN, b"two"), 5)).accepted
            way._links[record.peer].token = bytes(72)
            store = Island().store
            sink = store.receive(ref, round=1, kind="result")
            await way.pull(record, ref, sink, kind="result", timeout_s=5)
            assert store.has(ref.digest)
        await way.close()

    run(story())


def test_idle_links_are_closed_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "LINKS_MAX", 2)

    async def story() -> None:
        caller, island = load_or_create(tmp_path / "caller"), Island()
        server, way = load_or_create(tmp_path / "server"), Direct(caller.key, RUN, Traffic())
        async with DirectWires().serving(server, island, Traffic()) as record:
            for number in range(5):
                peer = Key.generate().peer
                there = replace(record, peer=peer)
                assert (await way.send(there, seal(caller.key, RUN, b"%d" % number), 5)).accepted
                assert len(way._links) <= 2
        await way.close()

    run(story())


@pytest.mark.parametrize(
    ("far_s", "size", "connections"), [(0.0, 1 << 20, 6), (9.0, 1 << 20, 1), (0.0, 1000, 1)]
)
def test_streams_that_come_from_far_get_connections_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, far_s: float, size: int, connections: int
) -> None:
    monkeypatch.setattr(link, "FAR_S", far_s)

    async def story() -> None:
        async with world(DirectWires(), tmp_path) as w:
            refs = [w.island.store.put(noise(size, n), round=1, kind="result") for n in range(8)]
            for _ in range(2):
                await asyncio.gather(*(w.pull(ref) for ref in refs))
            assert w.transport._links[w.record.peer].connections == connections

    run(story())


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    async def story() -> None:
        identity = load_or_create(tmp_path)
        async with DirectWires().serving(identity, Island(), Traffic()) as record:
            second = DirectServer(identity, RUN, Island(), Traffic())
            port = record.direct[0].rpartition(":")[2]
            with pytest.raises(ConfigError, match=f"port {port}: Address already in use"):
                await second.start(record.direct[0])
            await second.stop()

    run(story())


@pytest.mark.parametrize(
    "listen", ["", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", "no.such.host.invalid:1"]
)
def test_a_bad_listen_address_is_a_config_error(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigError):
        direct.check_free(listen)


class TestDoorkeeper:
    """The proof by itself, with a clock of our own."""

    certificate = digest_of(b"certificate")

    def proof(self, door: Doorkeeper, key: Key, now_s: float = 0.0) -> wire.Proof:
        nonce = door.greet(wire.Challenge(public_key=key.public), now_s).nonce
        return answer(key, self.certificate, nonce, RUN)

    def test_gives_a_session_to_who_signs(self) -> None:
        door, key = Doorkeeper(self.certificate, RUN), Key.generate()
        token = door.prove(self.proof(door, key), 1.0).token
        assert door.caller(token, SESSION_S) == key.peer
        assert door.caller(token, SESSION_S + 2) is None

    def test_a_nonce_is_for_one_key_and_a_short_time(self) -> None:
        door, key, other = Doorkeeper(self.certificate, RUN), Key.generate(), Key.generate()
        proof = self.proof(door, key)
        assert "too old" in door.prove(proof, NONCE_S + 1).refused
        theirs = answer(other, self.certificate, proof.nonce, RUN)
        assert "nonce" in door.prove(theirs, 1.0).refused

    @pytest.mark.parametrize(
        "change", ["signature", "certificate", "run", "public_key", "nonce", "short key", "nothing"]
    )
    def test_a_wrong_proof_is_refused_with_a_reason(self, change: str) -> None:
        door, key = Doorkeeper(self.certificate, RUN), Key.generate()
        proof = self.proof(door, key)
        if change == "signature":
            proof.signature = key.sign(b"something else")
        elif change == "certificate":
            proof = answer(key, digest_of(b"a man in the middle"), proof.nonce, RUN)
        elif change == "run":
            proof = answer(key, self.certificate, proof.nonce, digest_of(b"another run"))
        elif change == "public_key":
            proof.public_key = Key.generate().public
        elif change == "nonce":
            proof.nonce = bytes(72)
        elif change == "short key":
            proof.public_key = b"short"
        session = door.prove(proof, 1.0)
        assert (session.refused == "") == (change == "nothing")
        assert (session.token == b"") == (change != "nothing")

    def test_a_token_is_not_a_nonce_and_no_other_servers(self) -> None:
        door, key = Doorkeeper(self.certificate, RUN), Key.generate()
        proof = self.proof(door, key)
        token = door.prove(proof, 1.0).token
        assert door.caller(proof.nonce, 1.0) is None
        assert Doorkeeper(self.certificate, RUN).caller(token, 1.0) is None
        for at in range(len(token)):
            broken = bytearray(token)
            broken[at] ^= 1
            assert door.caller(bytes(broken), 1.0) is None


def test_an_address_that_never_answers_costs_one_deadline(tmp_path: Path) -> None:
    """A socket that accepts and says nothing, as a frozen peer's kernel does."""

    async def story() -> None:
        caller = load_or_create(tmp_path)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            record = Record(RUN, Key.generate().peer, 1, (f"127.0.0.1:{port}",), digest_of(b"x"))
            way, began = Direct(caller.key, RUN, Traffic()), time.monotonic()
            with pytest.raises(Unreachable):
                await way.send(record, seal(caller.key, RUN, b"hello"), 0.5)
            assert time.monotonic() - began < 1.5
            await way.close()

    run(story())
