"""What a peer gives away of its states: to few callers at a time, and the digests of their chunks.

A joiner takes whatever a link carries, and each connection gets its share of the uplink: if all who come were
served at once, updates would find no room. Who finds no place is told so, and asks others, or again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from atoll.node import transport
from atoll.node.chunks import CHUNK_BYTES, digests_of
from atoll.node.rate_limit import RateLimit
from atoll.node.transport import Blob, Host
from atoll.node.uplink import Uplink
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.wire import messages_pb2 as wire

CALLERS_MAX = 2
PULLS_PER_CALLER = 8
BUSY = "busy: others are being served a state"
LISTS_KEPT = 64
_HASHING = ThreadPoolExecutor(1, "chunk-digests")
"""One for the process: however many ask, hashing takes no more than one core."""


class Uploads:
    """Shared by all servers of a peer. Blobs of one chunk are no burden: anybody gets them, at any time.

    `uplink` is told of every byte that they send, and `limit` asked before.
    """

    def __init__(self, limit: RateLimit | None = None) -> None:
        self.uplink, self.limit = Uplink(), limit or RateLimit()
        self._pulls: Counter[PeerId] = Counter()
        self._lists: OrderedDict[Digest, asyncio.Future[bytes]] = OrderedDict()

    async def turn(self, caller: PeerId, blob: Blob, size: int) -> None:
        """Wait until `size` bytes of a blob may go; a contribution is for its own round."""
        round_ = blob.round if blob.kind == "contribution" else 0
        await self.limit.turn(caller, blob.kind, size, round_)

    async def open(self, host: Host, request: wire.BlobRequest, run_id: Digest) -> Blob | str:
        """What a caller asks for, or the reason why it gets none."""
        blob = transport.open_requested(host, request, run_id)
        if isinstance(blob, str) or not request.digests:
            return blob
        if blob.kind != "state" or request.stop:
            return "only the blobs of states have lists"
        digests = await asyncio.shield(self._list(Digest(request.digest.hex()), blob.view))
        return Blob(memoryview(digests), "state")

    @contextmanager
    def place(self, caller: PeerId, blob: Blob | str, request: wire.BlobRequest) -> Iterator[Blob | str]:
        """The blob, with a place of the caller's for as long as it is served; or why there is none."""
        if isinstance(blob, str) or blob.kind != "state" or request.digests or request.size <= CHUNK_BYTES:
            yield blob
            return
        full = caller not in self._pulls and len(self._pulls) >= CALLERS_MAX
        if full or self._pulls[caller] >= PULLS_PER_CALLER:
            yield BUSY
            return
        self._pulls[caller] += 1
        try:
            yield blob
        finally:
            self._pulls[caller] -= 1
            if not self._pulls[caller]:
                del self._pulls[caller]

    def _list(self, digest: Digest, view: memoryview) -> asyncio.Future[bytes]:
        """A blob's list, hashed once for all who ask."""
        found = self._lists.pop(digest, None)
        if found is None:
            found = asyncio.get_running_loop().run_in_executor(_HASHING, digests_of, view)
        self._lists[digest] = found
        if len(self._lists) > LISTS_KEPT:
            self._lists.popitem(last=False)
        return found
