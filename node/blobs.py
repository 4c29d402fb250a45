"""Blobs by content: whoever asks for a digest gets bytes of that digest, whole, or an error.

The store holds blobs in memory within a byte budget, and ranges of files that the peer keeps anyway
(mapped, not counted). Each blob has the round it was made in, and old rounds are forgotten first. `fetch`
tries one holder after the other and goes on where the last one stopped.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from blake3 import blake3

from atoll.node.traffic import Kind
from atoll.node.transport import STALL_S, Blob, BlobSink, Refused, Unreachable
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_of, short

BLOBS_MAX = 65_536


class StoreFull(Exception):
    """The budget has no room, and everything older is forgotten already."""


class FetchFailed(Exception):
    """No holder gave the blob; `reasons` says for each what happened."""

    def __init__(self, ref: BlobRef, reasons: list[tuple[PeerId, Exception]]) -> None:
        self.ref, self.reasons = ref, reasons
        told = "; ".join(f"{short(peer)}: {reason}" for peer, reason in reasons) or "nobody holds it"
        super().__init__(f"blob {ref.digest[:12]} ({ref.size} bytes): {told}")


@dataclass(slots=True)
class _Entry:
    view: memoryview
    kind: Kind
    round: int
    counted: int


class BlobStore:
    """Blobs in memory up to `budget_bytes`, and ranges of files."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes, self.used_bytes = budget_bytes, 0
        self._entries: dict[Digest, _Entry] = {}

    def put(self, data: bytes | bytearray | memoryview, *, round: int, kind: Kind) -> BlobRef:
        """Keep bytes (not copied: the caller leaves them alone from now on) and name them.

        Raises StoreFull if there is no room after forgetting the rounds before `round`.
        """
        view = memoryview(data).toreadonly().cast("B")
        ref = BlobRef(digest_of(view), len(view))
        if not self._renew(ref.digest, round):
            self._reserve(ref.size, round)
            self._entries[ref.digest] = _Entry(view, kind, round, ref.size)
        return ref

    def put_file(
        self, path: Path, offset: int, ref: BlobRef, *, round: int, kind: Kind, check: bool = True
    ) -> None:
        """Serve a range of a file as a blob; its digest is checked once, unless the caller has just written
        it: whoever fetches it checks it. The file must not change any more.

        Raises ConfigError if the file cannot be read or its bytes are not those of `ref`.
        """
        if self._renew(ref.digest, round):
            return
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            with path.open("rb") as file:
                pages = mmap.mmap(
                    file.fileno(), ref.size + offset - start, access=mmap.ACCESS_READ, offset=start
                )
        except (OSError, ValueError) as error:
            raise ConfigError(str(error), str(path), f"a file of {offset + ref.size} bytes") from None
        view = memoryview(pages)[offset - start :]
        if check and digest_of(view) != ref.digest:
            raise ConfigError("the bytes do not have their digest", str(path), "remove the damaged file")
        self._reserve(0, round)
        self._entries[ref.digest] = _Entry(view, kind, round, 0)

    def get(self, digest: Digest) -> memoryview | None:
        entry = self._entries.get(digest)
        return None if entry is None else entry.view

    def open(self, digest: Digest) -> Blob | None:
        """The blob as it is served to others."""
        entry = self._entries.get(digest)
        return None if entry is None else Blob(entry.view, entry.kind, entry.round)

    def has(self, digest: Digest) -> bool:
        return digest in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def forget(self, digest: Digest) -> None:
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self.used_bytes -= entry.counted

    def forget_before(self, round: int) -> None:
        """Drop what was made before `round`. Streams being served keep their bytes to their end."""
        for digest in [digest for digest, entry in self._entries.items() if entry.round < round]:
            self.forget(digest)

    def in_memory(self, before_round: int) -> list[tuple[Digest, memoryview]]:
        """What the budget counts of rounds before this one: candidates to be moved."""
        return [
            (digest, entry.view)
            for digest, entry in self._entries.items()
            if entry.counted and entry.round < before_round
        ]

    def move(self, digest: Digest, view: memoryview) -> None:
        """Serve the blob from `view`, the same bytes in a file; its own memory goes when nobody reads it."""
        entry = self._entries.get(digest)
        if entry is not None:
            self.used_bytes -= entry.counted
            entry.view, entry.counted = view, 0

    def receive(self, ref: BlobRef, *, round: int, kind: Kind) -> Sink:
        """A sink whose blob enters the store when it is whole; room for it is taken now."""
        self._reserve(ref.size, round)
        return Sink(self, ref, round, kind)

    def release(self, size: int) -> None:
        """Give back the room of a sink that was given up."""
        self.used_bytes -= size

    def keep(self, ref: BlobRef, view: memoryview, round: int, kind: Kind) -> None:
        """Enter a received blob whose room is taken and whose digest is checked."""
        if self._renew(ref.digest, round):
            self.release(ref.size)
        else:
            self._entries[ref.digest] = _Entry(view, kind, round, ref.size)

    def _renew(self, digest: Digest, round: int) -> bool:
        entry = self._entries.get(digest)
        if entry is not None:
            entry.round = max(entry.round, round)
        return entry is not None

    def _reserve(self, size: int, round: int) -> None:
        if not self._fits(size):
            for digest, entry in sorted(self._entries.items(), key=lambda item: item[1].round):
                if entry.round >= round or self._fits(size):
                    break
                self.forget(digest)
        if not self._fits(size):
            room = self.budget_bytes - self.used_bytes
            raise StoreFull(f"no room for {size} bytes: {room} of {self.budget_bytes} are free")
        self.used_bytes += size

    def _fits(self, size: int) -> bool:
        return self.used_bytes + size <= self.budget_bytes and len(self._entries) < BLOBS_MAX


class Sink:
    """Assembles one blob in order and checks it: never more bytes than its reference says."""

    def __init__(self, store: BlobStore, ref: BlobRef, round: int, kind: Kind) -> None:
        self._store, self._ref, self._round, self._kind = store, ref, round, kind
        self._buffer, self._received, self._hasher = memoryview(np.empty(ref.size, np.uint8)), 0, blake3()
        self._open = True

    @property
    def ref(self) -> BlobRef:
        return self._ref

    @property
    def received(self) -> int:
        return self._received

    @property
    def stop(self) -> int:
        return self._ref.size

    @property
    def digests(self) -> bool:
        return False

    def write(self, data: bytes | memoryview) -> None:
        until = self._received + len(data)
        if until > self._ref.size:
            raise RemoteProtocolError(f"more than the {self._ref.size} bytes of the blob")
        self._buffer[self._received : until] = data
        self._received = until
        self._hasher.update(data)

    def finish(self) -> None:
        """Hand the blob to the store; RemoteProtocolError if it is short or its digest is another."""
        if self._received != self._ref.size:
            raise RemoteProtocolError(f"the last chunk came after {self._received} of {self._ref.size} bytes")
        if self._hasher.hexdigest() != self._ref.digest:
            raise RemoteProtocolError(f"the bytes do not have the digest {self._ref.digest[:12]}")
        self._open = False
        self._store.keep(self._ref, self._buffer.toreadonly(), self._round, self._kind)

    def restart(self) -> None:
        """Forget what came: one of those who sent it sent other bytes."""
        self._received, self._hasher = 0, blake3()

    def abandon(self) -> None:
        """Give the room back, unless the blob is in the store."""
        if self._open:
            self._open = False
            self._store.release(self._ref.size)


class Puller(Protocol):
    """The part of the router that `Fetcher` needs."""

    async def pull(
        self,
        peer: PeerId,
        ref: BlobRef,
        sink: BlobSink,
        *,
        kind: Kind,
        timeout_s: float,
        stall_s: float = STALL_S,
    ) -> None: ...


OnFault = Callable[[PeerId, Exception], None]


@dataclass(slots=True)
class _Transfer:
    """A blob on its way, and who else may have it. Fetches of the same digest share one."""

    holders: list[PeerId]
    tried: list[tuple[PeerId, Exception]] = field(default_factory=list)
    waiting: int = 0
    task: asyncio.Task[memoryview] | None = None


class Fetcher:
    """Brings blobs into a store from whoever holds them."""

    def __init__(self, store: BlobStore, router: Puller, on_fault: OnFault | None = None) -> None:
        self._store, self._router, self._on_fault = store, router, on_fault
        self._transfers: dict[BlobRef, _Transfer] = {}

    async def fetch(
        self,
        ref: BlobRef,
        holders: Iterable[PeerId],
        *,
        round: int,
        kind: Kind,
        timeout_s: float,
        stall_s: float = STALL_S,
    ) -> memoryview:
        """The blob, from the store or from the first of `holders` that can give it whole.

        `timeout_s` is for one holder. Raises FetchFailed after the last holder, StoreFull without room.
        """
        have = self._store.get(ref.digest)
        if have is not None:
            return have
        transfer = self._transfers.get(ref)
        if transfer is None:
            transfer = self._transfers[ref] = _Transfer(list(dict.fromkeys(holders)))
            work = self._transfer(ref, transfer, round, kind, timeout_s, stall_s)
            transfer.task = asyncio.ensure_future(work)
        else:
            transfer.holders += [peer for peer in holders if peer not in transfer.holders]
        return await self._share(ref, transfer)

    async def _share(self, ref: BlobRef, transfer: _Transfer) -> memoryview:
        """Wait for a transfer; when the last who waits is cancelled, so is the transfer."""
        assert transfer.task is not None
        transfer.waiting += 1
        try:
            return await asyncio.shield(transfer.task)
        finally:
            transfer.waiting -= 1
            if not transfer.waiting:
                transfer.task.cancel()
                if self._transfers.get(ref) is transfer:
                    del self._transfers[ref]

    async def _transfer(
        self,
        ref: BlobRef,
        transfer: _Transfer,
        round: int,
        kind: Kind,
        timeout_s: float,
        stall_s: float,
    ) -> memoryview:
        sink = self._store.receive(ref, round=round, kind=kind)
        try:
            for peer in transfer.holders:
                if await self._from(peer, sink, transfer, kind, timeout_s, stall_s):
                    blob = self._store.get(ref.digest)
                    assert blob is not None
                    return blob
        finally:
            sink.abandon()
        raise FetchFailed(ref, transfer.tried)

    async def _from(
        self, peer: PeerId, sink: Sink, transfer: _Transfer, kind: Kind, timeout_s: float, stall_s: float
    ) -> bool:
        """One holder's turn. If bytes of several holders do not fit, it may send all of them alone."""
        while True:
            resumed = sink.received > 0
            try:
                await self._router.pull(peer, sink.ref, sink, kind=kind, timeout_s=timeout_s, stall_s=stall_s)
                return True
            except RemoteProtocolError as error:
                sink.restart()
                if resumed:
                    continue
                self._fault(peer, error, transfer)
            except (Unreachable, Refused) as error:
                self._fault(peer, error, transfer)
            return False

    def _fault(self, peer: PeerId, error: Exception, transfer: _Transfer) -> None:
        transfer.tried.append((peer, error))
        if self._on_fault is not None:
            self._on_fault(peer, error)
