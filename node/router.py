"""Which way to a peer: direct where its record has an address that answers, libp2p otherwise.

The way is chosen for each peer and remembered. A direct address gets a head start; if it has not answered by
then, as one behind a NAT never will, libp2p carries the call while the address is still being tried. One that
failed is tried again after a while. Callers name peers; the address book knows their newest signed records.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from atoll.node.traffic import Kind
from atoll.node.transport import STALL_S, BlobSink, Refused, Transport, Unreachable
from atoll.protocol.envelope import Record
from atoll.protocol.ids import BlobRef, PeerId
from atoll.protocol.wire import messages_pb2 as wire

RECORDS_MAX = 4096
SENDS_MAX, SENDS_PER_PEER = 64, 8
PULLS_MAX, PULLS_FROM_PEER = 16, 6
DIRECT_AGAIN_S = 30.0
HEAD_START_S = 0.4

Path = Literal["direct", "libp2p", "none"]


@dataclass(slots=True)
class _Entry:
    record: Record
    path: Path = "none"
    no_direct_until_s: float = 0.0
    reaching: asyncio.Future[None] | None = None
    sends: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SENDS_PER_PEER))
    pulls: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PULLS_FROM_PEER))


class Router:
    """`send` and `pull` by peer id. What is learned is bounded: the least recently used records go first.

    `reach` connects to a direct address without a call, Unreachable if that fails.
    """

    def __init__(
        self,
        me: PeerId,
        direct: Transport | None,
        libp2p: Transport | None,
        clock_s: Callable[[], float] = time.monotonic,
        reach: Callable[[Record], Awaitable[None]] | None = None,
    ) -> None:
        self._me, self._direct, self._libp2p, self._clock_s = me, direct, libp2p, clock_s
        self._reach = reach
        self._book: OrderedDict[PeerId, _Entry] = OrderedDict()
        self._sends, self._pulls = asyncio.Semaphore(SENDS_MAX), asyncio.Semaphore(PULLS_MAX)

    def learn(self, record: Record) -> bool:
        """Take a record whose signature was checked; False if it is not newer than the one at hand."""
        entry = self._book.get(record.peer)
        if record.peer == self._me or (entry is not None and record.sequence <= entry.record.sequence):
            return False
        if entry is None:
            self._book[record.peer] = _Entry(record)
            if len(self._book) > RECORDS_MAX:
                self._book.popitem(last=False)
        else:
            if entry.record.direct != record.direct or entry.record.certificate != record.certificate:
                entry.no_direct_until_s = 0.0
            entry.record = record
        return True

    def record_of(self, peer: PeerId) -> Record | None:
        entry = self._book.get(peer)
        return None if entry is None else entry.record

    def path_of(self, peer: PeerId) -> Path:
        """Over what this peer answered last; `none` if it has not, or no longer does."""
        entry = self._book.get(peer)
        return "none" if entry is None else entry.path

    def peers(self) -> list[PeerId]:
        return list(self._book)

    async def send(self, peer: PeerId, envelope: wire.Envelope, timeout_s: float) -> wire.Receipt:
        """Deliver an envelope within `timeout_s`, waiting for a turn included."""
        entry, until_s = self._entry(peer), self._clock_s() + timeout_s
        async with _turn(entry.sends, peer, timeout_s), _turn(self._sends, peer, timeout_s):
            return await self._send(entry, envelope, until_s)

    async def pull(
        self,
        peer: PeerId,
        ref: BlobRef,
        sink: BlobSink,
        *,
        kind: Kind,
        timeout_s: float,
        stall_s: float = STALL_S,
    ) -> None:
        """Stream the rest of a blob into a sink within `timeout_s`, waiting for a turn included."""
        entry, until_s = self._entry(peer), self._clock_s() + timeout_s
        async with _turn(entry.pulls, peer, timeout_s), _turn(self._pulls, peer, timeout_s):
            await self._pull(entry, ref, sink, kind, until_s, stall_s)

    async def close(self) -> None:
        for entry in self._book.values():
            if entry.reaching is not None:
                entry.reaching.cancel()
        for transport in (self._direct, self._libp2p):
            if transport is not None:
                await transport.close()

    async def _send(self, entry: _Entry, envelope: wire.Envelope, until_s: float) -> wire.Receipt:
        failed: Unreachable | None = None
        for path, transport in await self._ways(entry):
            try:
                receipt = await transport.send(entry.record, envelope, self._left_s(until_s))
            except Unreachable as error:
                failed = self._failed(entry, path, error, until_s)
            else:
                entry.path = path
                return receipt
        raise self._lost(entry, failed)

    async def _pull(
        self, entry: _Entry, ref: BlobRef, sink: BlobSink, kind: Kind, until_s: float, stall_s: float
    ) -> None:
        failed: Unreachable | None = None
        for path, transport in await self._ways(entry):
            try:
                await transport.pull(
                    entry.record, ref, sink, kind=kind, timeout_s=self._left_s(until_s), stall_s=stall_s
                )
            except Unreachable as error:
                failed = self._failed(entry, path, error, until_s)
            else:
                entry.path = path
                return
        raise self._lost(entry, failed)

    def _entry(self, peer: PeerId) -> _Entry:
        entry = self._book.get(peer)
        if entry is None:
            raise Unreachable(peer, "no record of it is known")
        self._book.move_to_end(peer)
        return entry

    async def _ways(self, entry: _Entry) -> list[tuple[Path, Transport]]:
        """The transports to try, in order."""
        ways: list[tuple[Path, Transport]] = []
        direct = entry.record.direct and entry.record.certificate
        if self._direct is not None and direct and self._clock_s() >= entry.no_direct_until_s:
            ways.append(("direct", self._direct))
        if self._libp2p is not None and entry.record.multiaddrs:
            ways.append(("libp2p", self._libp2p))
        if self._reach is not None and len(ways) == 2 and entry.path != "direct":
            reached = await self._reached(entry)
            return ways if reached else ways[1:] if reached is False else ways[::-1]
        return ways

    async def _reached(self, entry: _Entry) -> bool | None:
        """Whether the direct address answered; None if it is still being tried after its head start."""
        assert self._reach is not None
        if entry.reaching is None:
            entry.reaching = asyncio.ensure_future(self._try_direct(entry, self._reach))
        reaching = entry.reaching
        await asyncio.wait({reaching}, timeout=HEAD_START_S)
        return self._clock_s() >= entry.no_direct_until_s if reaching.done() else None

    async def _try_direct(self, entry: _Entry, reach: Callable[[Record], Awaitable[None]]) -> None:
        try:
            await reach(entry.record)
        except (Unreachable, Refused):
            entry.no_direct_until_s = self._clock_s() + DIRECT_AGAIN_S
        finally:
            entry.reaching = None

    def _failed(self, entry: _Entry, path: Path, error: Unreachable, until_s: float) -> Unreachable:
        """Raise if no other way is worth a try now: the peer died on a way that worked, or time is up."""
        if path == "direct" and not error.answered:
            entry.no_direct_until_s = self._clock_s() + DIRECT_AGAIN_S
        if error.answered or self._left_s(until_s) <= 0:
            entry.path = "none"
            raise error
        return error

    def _lost(self, entry: _Entry, failed: Unreachable | None) -> Unreachable:
        """No way is left: the peer rather than one of its addresses is gone, so all are tried next time."""
        entry.path, entry.no_direct_until_s = "none", 0.0
        return failed or Unreachable(entry.record.peer, "its record names no address that this peer can use")

    def _left_s(self, until_s: float) -> float:
        return max(0.0, until_s - self._clock_s())


@asynccontextmanager
async def _turn(places: asyncio.Semaphore, peer: PeerId, timeout_s: float) -> AsyncIterator[None]:
    try:
        await asyncio.wait_for(places.acquire(), timeout_s)
    except asyncio.TimeoutError:
        raise Unreachable(peer, f"no turn in {timeout_s:g} s: too many calls wait already") from None
    try:
        yield
    finally:
        places.release()
