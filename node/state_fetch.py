"""Brings a state here from all who hold it at once, in verified chunks. What to ask of whom: chunks.py.

Chunks come into memory, a few at a time, and go from there into files once their digest is known to be right.
Lists of digests may lie, so each blob's own digest decides in the end. Where that fails for all lists, the
blob is fetched from one donor at a time, as all others are.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from blake3 import blake3

from atoll.node.blobs import BlobStore, Fetcher, FetchFailed, OnFault, Puller
from atoll.node.chunks import DIGEST_BYTES, Ask, Chunks, bounds, chunk_bytes, chunk_count
from atoll.node.incoming import Incoming, discard
from atoll.node.transport import Refused, Unreachable
from atoll.node.uploads import BUSY
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import BlobRef, PeerId

STALL_S = 10.0
"""Longer than for other blobs: the other donors go on meanwhile, and are asked for a chunk that is late."""

HASHED_PER_S = 200 << 20
"""What a donor is thought to hash, at least, for a list that nobody asked it for before."""

LOOK_S = 0.25
log = structlog.get_logger("atoll.states")


class RangeSink:
    """Takes the bytes of one chunk, until it is `dropped`: before Python 3.12 a cancelled pull may go on."""

    digests = False
    dropped = False

    def __init__(self, ref: BlobRef, index: int) -> None:
        self.ref = ref
        self.start, self.stop = bounds(ref.size, index)
        self.received = self.start
        self.data = bytearray(self.stop - self.start)

    def write(self, data: bytes | memoryview) -> None:
        until = self.received + len(data)
        if self.dropped:
            raise RemoteProtocolError("the chunk is here already, from somebody else")
        if until > self.stop:
            raise RemoteProtocolError(f"more than the {self.stop - self.start} bytes of the chunk")
        self.data[self.received - self.start : until - self.start] = data
        self.received = until

    def finish(self) -> None:
        if self.received != self.stop:
            raise RemoteProtocolError(f"the chunk ended at {self.received}, not at {self.stop}")


class ListSink(RangeSink):
    """Takes the digests of a blob's chunks."""

    digests = True

    def __init__(self, ref: BlobRef) -> None:
        self.ref = ref
        self.start = self.received = 0
        self.stop = DIGEST_BYTES * chunk_count(ref.size)
        self.data = bytearray(self.stop)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things may take: `bytes_per_s_min` is what a link carries at least, by the run's rules."""

    bytes_per_s_min: int
    stall_s: float = STALL_S

    def pull_s(self, ref: BlobRef, ask: Ask) -> float:
        """For one request, of several that share a donor's link; a turn to wait for is in it."""
        if ask.chunk is None:
            return 10.0 + ref.size / HASHED_PER_S
        return 30.0 + 4 * chunk_bytes(ref.size) / self.bytes_per_s_min

    def state_s(self, blobs: Sequence[BlobRef]) -> float:
        return 60.0 + 2 * sum(ref.size for ref in blobs) / self.bytes_per_s_min


@dataclass(slots=True)
class _Load:
    """One state on its way."""

    blobs: list[BlobRef]
    chunks: Chunks
    files: Incoming
    running: dict[asyncio.Task[None], tuple[Ask, RangeSink]] = field(default_factory=dict)
    views: dict[int, memoryview] = field(default_factory=dict)
    reasons: dict[PeerId, Exception] = field(default_factory=dict)

    def failed(self) -> FetchFailed:
        missing = next(ref for blob, ref in enumerate(self.blobs) if blob not in self.views)
        return FetchFailed(missing, list(self.reasons.items()))


class StateFetcher:
    """`fetch` a state's blobs into `folder`; `discard` them once the state is kept elsewhere.

    `repeated_bytes` counts what came in vain: chunks that came twice, broke off, or were wrong.
    """

    def __init__(
        self, folder: Path, store: BlobStore, router: Puller, pace: Pace, on_fault: OnFault | None = None
    ) -> None:
        self._folder, self._store, self._router, self._pace = folder, store, router, pace
        self._on_fault = on_fault
        self._single = Fetcher(store, router, on_fault)
        self.repeated_bytes = 0

    async def fetch(
        self, blobs: Sequence[BlobRef], holders: Iterable[PeerId], *, round: int
    ) -> list[memoryview]:
        """Every blob whole, in their order. FetchFailed, StoreFull, or OSError where the disk is full.

        What came before a failure is found again by the next call for the same blobs.
        """
        holders, wanted = tuple(holders), list(dict.fromkeys(blobs))
        have = {ref: view for ref in wanted if (view := self._store.get(ref.digest)) is not None}
        missing = [ref for ref in wanted if ref not in have]
        load = _Load(missing, Chunks(missing, holders), await _in_thread(Incoming, self._folder, missing))
        try:
            await self._load(load)
        except FetchFailed:
            if not any(load.chunks.false):
                raise
            log.warning("lists of chunks were false; one donor after the other now")
        finally:
            await self._end(load)
        have |= {missing[blob]: view for blob, view in load.views.items()}
        for ref in missing:
            if ref not in have:
                have[ref] = await self._from_one(ref, load.chunks.liars, holders, round)
        return [have[ref] for ref in blobs]

    async def discard(self, blobs: Sequence[BlobRef]) -> None:
        await _in_thread(discard, self._folder, blobs)

    async def _from_one(
        self, ref: BlobRef, liars: set[PeerId], holders: Sequence[PeerId], round: int
    ) -> memoryview:
        honest = [peer for peer in holders if peer not in liars]
        timeout_s = self._pace.state_s([ref])
        return await self._single.fetch(ref, honest, round=round, kind="state", timeout_s=timeout_s)

    async def _load(self, load: _Load) -> None:
        loop, chunks = asyncio.get_running_loop(), load.chunks
        until_s = loop.time() + self._pace.state_s(load.blobs)
        for blob in range(len(load.blobs)):
            chunks.found(blob, await _in_thread(load.files.digests, blob))
        while True:
            await self._verify(load)
            if len(load.views) == len(load.blobs):
                return
            for ask in chunks.next(loop.time()):
                self._start(load, ask)
            if loop.time() > until_s or (not load.running and chunks.hopeless(loop.time())):
                raise load.failed()
            if not load.running:
                await asyncio.sleep(LOOK_S)
                continue
            done, _ = await asyncio.wait(load.running, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task in load.running:
                    await self._take(load, task)

    async def _verify(self, load: _Load) -> None:
        """Blobs of which all chunks are here either are what they should be, or their list was false."""
        for blob in range(len(load.blobs)):
            while blob not in load.views and load.chunks.whole(blob):
                view = await _in_thread(load.files.verified, blob)
                if view is not None:
                    load.views[blob] = view
                    self._judge(load, load.chunks.proven, blob)
                elif await _in_thread(load.files.digests, blob) != (load.chunks.believed[blob] or b""):
                    raise OSError(errno.EIO, "the disk gives back other bytes", str(self._folder))
                else:
                    self._judge(load, load.chunks.disproved, blob)

    def _judge(self, load: _Load, verdict: Callable[[int], None], blob: int) -> None:
        """Name those whose list turned out to be false."""
        before = set(load.chunks.liars)
        verdict(blob)
        for peer in load.chunks.liars - before:
            self._blame(load, peer, RemoteProtocolError("its list of chunks is false"))

    def _start(self, load: _Load, ask: Ask) -> None:
        ref = load.blobs[ask.blob]
        sink = ListSink(ref) if ask.chunk is None else RangeSink(ref, ask.chunk)
        timeout_s, stall_s = self._pace.pull_s(ref, ask), self._pace.stall_s
        if ask.chunk is None:
            stall_s = timeout_s
        pull = self._router.pull(ask.peer, ref, sink, kind="state", timeout_s=timeout_s, stall_s=stall_s)
        load.running[asyncio.ensure_future(pull)] = (ask, sink)

    async def _take(self, load: _Load, task: asyncio.Task[None]) -> None:
        """See how a request ended."""
        ask, sink = load.running.pop(task)
        now_s, chunks = asyncio.get_running_loop().time(), load.chunks
        error = task.exception()
        if error is None:
            await self._took(load, ask, sink)
            return
        self.repeated_bytes += sink.received - sink.start
        match error:
            case Refused(reason=reason) if reason == BUSY:
                chunks.busy(ask, now_s)
            case Refused():
                chunks.refused(ask, now_s)
            case Unreachable():
                chunks.failed(ask, now_s)
            case RemoteProtocolError():
                chunks.lied(ask, now_s)
            case _:
                raise error
        assert isinstance(error, Exception)
        self._blame(load, ask.peer, error)

    async def _took(self, load: _Load, ask: Ask, sink: RangeSink) -> None:
        loop, chunks = asyncio.get_running_loop(), load.chunks
        if ask.chunk is None:
            chunks.listed(ask, bytes(sink.data), loop.time())
            return
        digest = await _in_thread(lambda: blake3(sink.data).digest())
        right = digest == chunks.digest(ask.blob, ask.chunk)
        if right:
            await _in_thread(load.files.write, ask.blob, sink.start, sink.data)
        else:
            self.repeated_bytes += len(sink.data)
        in_vain = chunks.arrived(ask, digest, loop.time())
        if ask.peer in chunks.liars and not right:
            self._blame(load, ask.peer, RemoteProtocolError("a chunk does not have its digest"))
        for other in in_vain:
            self._drop(load, other)

    def _drop(self, load: _Load, ask: Ask) -> None:
        """Somebody else was faster."""
        for task, (running, sink) in list(load.running.items()):
            if running == ask:
                self.repeated_bytes += sink.received - sink.start
                del load.running[task]
                sink.dropped = True
                task.cancel()
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
                load.chunks.dropped(ask, asyncio.get_running_loop().time())

    def _blame(self, load: _Load, peer: PeerId, error: Exception) -> None:
        load.reasons[peer] = error
        if self._on_fault is not None:
            self._on_fault(peer, error)

    async def _end(self, load: _Load) -> None:
        running = list(load.running)
        load.running.clear()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for task in running:
            task.cancelled() or task.exception()
        load.files.close()


async def _in_thread(function: Callable[..., Any], *args: object) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)
