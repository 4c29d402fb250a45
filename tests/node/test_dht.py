"""The rendezvous: peers find each other, nobody speaks for another, and who was cut off comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from serve_peer import RUN

from atoll.node import dht as dht_module
from atoll.node import dht_entries
from atoll.node.dht import HEAD_BYTES_MAX, Dht, DhtConfig, _id, _names
from atoll.node.dht_entries import LEASE_MAX_S, OWNERS_MAX, Rules, owner_of, subkey_of
from atoll.node.identity import load_or_create
from atoll.node.transport import BootstrapFailed
from atoll.protocol.envelope import RECORD_BYTES_MAX, Record, seal_record
from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import digest_of
from atoll.protocol.keys import Key

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 15) -> None:
    end_s = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < end_s, "it did not come true in time"
        await asyncio.sleep(0.05)


@dataclass
class Node:
    key: Key
    dht: Dht
    record: Record

    async def publish(self, sequence: int = 1) -> bool:
        record = replace(self.record, sequence=sequence)
        return await self.dht.publish(seal_record(self.key, record))


@asynccontextmanager
async def node(folder: Path, *known: Node, listen: tuple[str, ...] = LOOPBACK) -> AsyncIterator[Node]:
    identity = load_or_create(folder)
    initial = tuple(address for other in known for address in other.record.multiaddrs)
    config = DhtConfig(listen=listen, initial_peers=initial, bootstrap_s=5)
    dht = await Dht.start(identity, RUN, config)
    try:
        addresses = await dht.libp2p.multiaddrs()
        yield Node(identity.key, dht, Record(RUN, identity.peer, 1, multiaddrs=addresses))
    finally:
        await dht.close()


@pytest.mark.swarm
def test_peers_find_each_other_through_a_third(tmp_path: Path) -> None:
    async def story() -> None:
        async with node(tmp_path / "a") as a, node(tmp_path / "b", a) as b, node(tmp_path / "c", a) as c:
            for each in (a, b, c):
                assert await each.publish()
            everybody = {each.key.peer: each.record for each in (a, b, c)}
            for each in (a, b, c):
                await until(lambda d=each.dht: _found(d, everybody))  # type: ignore[misc]
            await b.publish(sequence=2)
            newer = {**everybody, b.key.peer: replace(b.record, sequence=2)}
            await until(lambda: _found(c.dht, newer))
            assert await b.dht.publish_head(b"round 7")
            assert await c.dht.publish_head(b"round 8")
            heads = {b.key.peer: b"round 7", c.key.peer: b"round 8"}
            await until(lambda: _has_heads(a.dht, heads))
            traffic = c.dht.traffic_bytes()
            assert traffic is None or min(traffic) > 1000

    async def _found(dht: Dht, wanted: dict[Any, Record]) -> bool:
        return {record.peer: record for record in await dht.find()} == wanted

    async def _has_heads(dht: Dht, wanted: dict[Any, bytes]) -> bool:
        return await dht.heads() == wanted

    run(story())


@pytest.mark.swarm
def test_nobody_speaks_for_another_or_wipes_the_dictionary(tmp_path: Path) -> None:
    """Forged, plain, oversized, too long-lived and foreign entries are refused by the other node."""

    async def story() -> None:
        async with node(tmp_path / "a") as a, node(tmp_path / "b", a) as b:
            assert await a.publish()
            assert await b.publish()
            members, now_s = _names(RUN)[0], dht_module.get_dht_time()
            mine, theirs = subkey_of(b.key.public), subkey_of(a.key.public)
            store = b.dht._node.store
            for key, value, lease_s, subkey in (
                (members, b"forged", 70, theirs),
                (members, b"plain", 70, None),
                (members, b"no owner", 70, "somebody"),
                (members, bytes(RECORD_BYTES_MAX + 100), 70, mine),
                (members, b"for long", 1000, mine),
                ("another key", b"anything", 70, mine),
            ):
                stored = await store(key, value, now_s + lease_s, subkey=subkey, exclude_self=True)
                assert not stored, value[:20]
            assert {record.peer for record in await a.dht.find()} == {a.key.peer, b.key.peer}
            assert await store(members, b"mine", now_s + 80, subkey=mine, exclude_self=True)
            assert {record.peer for record in await a.dht.find()} == {a.key.peer}, "signed, but no record"

    run(story())


@pytest.mark.swarm
def test_a_node_comes_back_after_its_bootstrap_peer_was_away(tmp_path: Path) -> None:
    """The only other node restarts at its address: both find each other again by themselves."""

    async def story() -> None:
        async with node(tmp_path / "a") as a:
            listen = (a.record.multiaddrs[0].partition("/p2p/")[0],)
            async with node(tmp_path / "b", a) as b:
                assert await b.publish()
                await a.dht.close()
                await until(lambda: _alone(b.dht))
                async with node(tmp_path / "a", listen=listen) as again:
                    assert again.key.peer == a.key.peer
                    await until(lambda: _sees(again.dht, b), 25)
                    assert b.dht.neighbours() == 1

    async def _alone(dht: Dht) -> bool:
        await dht.find()
        return dht.neighbours() == 0

    async def _sees(dht: Dht, other: Node) -> bool:
        return other.key.peer in {record.peer for record in await dht.find()}

    run(story())


@pytest.mark.swarm
def test_a_run_that_nobody_answers_for(tmp_path: Path) -> None:
    async def story() -> None:
        nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{Key.generate().peer}"
        config = DhtConfig(listen=LOOPBACK, initial_peers=(nobody,), bootstrap_s=0.5)
        with pytest.raises(BootstrapFailed, match="none of the run's addresses answers: "):
            await Dht.start(load_or_create(tmp_path), RUN, config)

    run(story())


@pytest.mark.parametrize(
    "address",
    ["", "x", "/ip4/127.0.0.1/tcp/1", "/ip4/1.2.3/tcp/1/p2p/" + Key(b"k" * 32).peer, "/p2p/12D3Koo"],
)
def test_a_bad_bootstrap_address_is_a_config_error(tmp_path: Path, address: str) -> None:
    async def story() -> None:
        config = DhtConfig(listen=LOOPBACK, initial_peers=(address,))
        with pytest.raises(ConfigError, match="not a libp2p address"):
            await Dht.start(load_or_create(tmp_path), RUN, config)

    run(story())


@dataclass(frozen=True)
class Entry:
    key: bytes
    subkey: bytes
    value: bytes
    expiration_time: float


class TestRules:
    """The rules by themselves, with a clock of our own."""

    members = _id(_names(RUN)[0])
    key = Key(b"k" * 32)

    def rules(self, key: Key | None = None) -> Rules:
        return Rules(key or self.key, {self.members: 100}, lambda: 1000.0)

    def entry(self, key: Key, value: bytes = b"value", until_s: float = 1060.0) -> Entry:
        plain = Entry(self.members, b"\xc4\x28" + subkey_of(key.public), value, until_s)
        return replace(plain, value=self.rules(key).sign_value(plain))

    def test_accepts_and_strips_its_own_signature(self) -> None:
        entry = self.entry(Key.generate())
        assert self.rules().validate(entry)
        assert self.rules().strip_value(entry) == b"value"

    def test_signs_only_its_own_entries(self) -> None:
        other = self.entry(Key.generate())
        assert self.rules().sign_value(other) == other.value

    @pytest.mark.parametrize("field", ["key", "subkey", "value", "expiration_time", "signature"])
    def test_every_field_is_signed(self, field: str) -> None:
        rules = Rules(self.key, {self.members: 100, _id("x"): 100}, lambda: 1000.0)
        entry = self.entry(Key.generate())
        changed = {
            "key": replace(entry, key=_id("x")),
            "subkey": replace(entry, subkey=b"\xc4\x28" + subkey_of(self.key.public)),
            "value": replace(entry, value=b"V" + entry.value[1:]),
            "expiration_time": replace(entry, expiration_time=1061.0),
            "signature": replace(entry, value=entry.value[:-1] + bytes([entry.value[-1] ^ 1])),
        }[field]
        assert rules.validate(entry)
        assert not rules.validate(changed)

    def test_refuses_what_is_large_late_or_elsewhere(self) -> None:
        rules, key = self.rules(), Key.generate()
        assert rules.validate(self.entry(key, bytes(100)))
        assert not rules.validate(self.entry(key, bytes(109)))
        assert not rules.validate(self.entry(key, until_s=1001.0 + LEASE_MAX_S))
        assert not rules.validate(self.entry(key, until_s=float("nan")))
        assert not rules.validate(self.entry(key, until_s=float("inf")))
        for subkey in (b"", b"\xc0", b"\xc4\x28", subkey_of(key.public)):
            assert not rules.validate(replace(self.entry(key), subkey=subkey))

    def test_an_entry_is_known_again_without_its_signature_being_checked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rules, entry = self.rules(), self.entry(Key.generate())
        assert rules.validate(entry)
        monkeypatch.setattr(dht_entries, "verify", lambda *_: False)
        assert rules.validate(entry)
        assert not rules.validate(self.entry(Key.generate()))

    def test_owners_are_bounded_and_make_room_when_they_expire(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dht_entries, "OWNERS_MAX", 3)
        now = [1000.0]
        rules = Rules(self.key, {self.members: 100}, lambda: now[0])
        first = [Key.generate() for _ in range(3)]
        assert all(rules.validate(self.entry(key)) for key in first)
        assert not rules.validate(self.entry(Key.generate()))
        assert rules.validate(self.entry(first[0], b"newer", 1061.0)), "a known owner may go on"
        now[0] = 1070.0
        assert rules.validate(self.entry(Key.generate(), until_s=1100.0))
        assert OWNERS_MAX > 1000

    def test_a_head_fits(self) -> None:
        assert HEAD_BYTES_MAX < RECORD_BYTES_MAX
        assert owner_of(subkey_of(self.key.public)) == self.key.public
        assert owner_of(b"ed25519:short") is None
        assert digest_of(b"x") != RUN
