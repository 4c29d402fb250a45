"""What a round asks of tensors, disk and network: fetch, encode, sum, apply, save. Each answer is an event.

Tensor work runs in one worker thread, disk work in another, each in the order in which it was asked for.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
import torch

from atoll.node.allocator import give_back
from atoll.node.audits import Audits
from atoll.node.blobs import FetchFailed, StoreFull
from atoll.node.disk import STATES_AUDITED, Disk, StateFile, load_state
from atoll.node.evaluator import Evaluator
from atoll.node.network import Network
from atoll.node.numbers import Numbers
from atoll.node.state_fetch import Pace, StateFetcher
from atoll.node.state_files import Draft
from atoll.node.training import Training
from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol.commits import Body
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import Digest, PeerId, short
from atoll.protocol.manifest import SignedManifest

log = structlog.get_logger("atoll.rounds")
DRAFTS_NICE = 10
"""More than trainers have: states are saved while other peers of the round are still busy with it."""


def behind_all() -> None:
    """Let this thread have the processor when nobody else wants it; Linux only."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), DRAFTS_NICE)


class Rounds:
    """The tensors of one node and whatever moves them. `rewound` counts the recoveries that took rounds back.

    `training` is there on a worker, `evaluator` on who evaluates, from the time that they are started.
    """

    def __init__(
        self, signed: SignedManifest, network: Network, disk: Disk, feed: Callable[[e.Event], None]
    ) -> None:
        self.numbers = Numbers(signed.manifest)
        self.worker = ThreadPoolExecutor(1, "numbers")
        self.training: Training | None = None
        if signed.manifest.audit is not None:
            disk.states_kept = STATES_AUDITED
        self.evaluator: Evaluator | None = None
        self.rewound = 0
        self._signed, self._network, self._disk, self._feed = signed, network, disk, feed
        pace, incoming = Pace(signed.manifest.rounds.bytes_per_s_min), disk.folder / "incoming"
        self.states = StateFetcher(incoming, network.store, network.router, pace, self._blame)
        self._disk_worker = ThreadPoolExecutor(1, "disk")
        self._drafts = ThreadPoolExecutor(1, "drafts", behind_all)
        self._audits: Audits | None = None
        self._keeping: dict[tuple[Digest, str], asyncio.Task[None]] = {}

    def close(self) -> None:
        """End the threads; what is being written is."""
        self.worker.shutdown(wait=True, cancel_futures=True)
        self._drafts.shutdown(wait=True)
        self._disk_worker.shutdown(wait=True)

    async def compute(self, function: Callable[..., Any], *args: object) -> Any:
        """The function's result, from the thread for tensors."""
        return await asyncio.get_running_loop().run_in_executor(self.worker, function, *args)

    async def write(self, function: Callable[..., Any], *args: object) -> Any:
        """The same, from the thread for the disk."""
        return await asyncio.get_running_loop().run_in_executor(self._disk_worker, function, *args)

    async def copy_anchor(self, into: torch.Tensor) -> int:
        """Copy the newest anchor; the round that it is of."""
        return int(await self.compute(self.numbers.copy_anchor, into))

    # ---- what is on disk ------------------------------------------------------------------------

    def open_results(self) -> tuple[Digest, ...]:
        """Serve what was exchanged in an earlier life; what of it is held."""
        self.numbers.warm()
        for fragment in range(self.numbers.fragments):
            self.numbers.part_bytes(fragment, 1)
        held = []
        for round_, ref, path in list(self._disk.results()):
            try:
                self._network.store.put_file(path, 0, ref, round=round_, kind="result")
                held.append(ref.digest)
            except ConfigError as error:
                log.warning("a result is damaged and fetched again", reason=str(error))
                path.unlink()
        return tuple(held)

    def open_state(self, height: int) -> e.StateLoaded | None:
        """The newest state on disk that the ledger knows of."""
        for file in self._disk.states():
            if file.round > height:
                continue
            try:
                self.numbers.load(*load_state(file.path))
            except (ConfigError, RuntimeError) as error:
                log.warning("a state on disk is passed over", reason=str(error))
                continue
            state = self.numbers.state(file.round)
            self._serve_state(file, state)
            residual = self._disk.load_local(file.round)
            if residual is not None and residual.numel() == self.numbers.numel:
                self.numbers.load_residual(residual)
            return state
        return None

    # ---- blobs ----------------------------------------------------------------------------------

    async def encode(self, order: a.Encode) -> None:
        """Encode a contribution: on disk before it is offered, if it may become the update itself."""
        assert self.training is not None
        payloads = await self.training.encode(order)
        kind: Any = "result" if order.lasting else "contribution"
        refs = [self._network.store.put(payload, round=order.round, kind=kind) for payload in payloads]
        for ref, payload in zip(refs, payloads, strict=True):
            if order.lasting:
                await self.write(self._disk.save_result, order.round, ref, payload)
        if refs:
            self._feed(e.Encoded(order.round, tuple(refs)))

    async def fetch(self, fetch: a.Fetch, round_: int) -> None:
        """Get a blob, see that it decodes, and bring a result to disk before the peer may vote on it."""
        timeout_s = 10 + fetch.ref.size / self._signed.manifest.rounds.bytes_per_s_min
        kind: Any = fetch.kind
        await self._network.meet(fetch.holders)
        try:
            view = await self._network.fetcher.fetch(
                fetch.ref, fetch.holders, round=round_, kind=kind, timeout_s=timeout_s
            )
            await self._once(fetch, view, round_)
        except RemoteProtocolError as error:
            self._network.store.forget(fetch.ref.digest)
            self._network.reject(str(error), blob=fetch.ref.digest[:12])
            self._feed(e.BlobFailed(fetch.ref.digest))
        except (FetchFailed, StoreFull) as error:
            log.info("not fetched", reason=str(error))
            self._feed(e.BlobFailed(fetch.ref.digest))
        else:
            self._feed(e.BlobArrived(fetch.ref.digest))

    async def _once(self, fetch: a.Fetch, view: memoryview, round_: int) -> None:
        """Check and keep a blob, once for all who ask for it at a time: a repeated message asks again."""
        name = (fetch.ref.digest, fetch.kind)
        keeping = self._keeping.get(name)
        if keeping is None:
            keeping = self._keeping[name] = asyncio.ensure_future(self._accept(fetch, view, round_))
            keeping.add_done_callback(lambda _: self._keeping.pop(name))
        await asyncio.shield(keeping)

    async def _accept(self, fetch: a.Fetch, view: memoryview, round_: int) -> None:
        await self.compute(self.numbers.check, view)
        if fetch.kind == "result":
            await self.write(self._disk.save_result, round_, fetch.ref, view)

    async def aggregate(self, action: a.Aggregate) -> None:
        store = self._network.store
        inputs = [(weight, store.get(ref.digest)) for _, weight, ref in action.inputs]
        payload = await self.compute(self.numbers.aggregate, action.round, action.part, action.parts, inputs)
        ref = store.put(payload, round=action.round, kind="result")
        await self.write(self._disk.save_result, action.round, ref, payload)
        self._feed(e.Aggregated(action.round, action.view, action.sum, action.part, ref))

    async def audit(self, order: a.Audit, late: Callable[[], bool]) -> None:
        """Measure contributions when the trainer is idle, unless it is too `late` by then."""
        if self._audits is None:
            assert self.training is not None
            self._audits = Audits(self.training, self.numbers, self._disk, self._network.store, self._drafts)
        self._feed(await self._audits.audit(order, late))

    async def put_aside(self, before_round: int) -> None:
        """Serve what earlier rounds exchanged from files: who is behind may ask for it, memory is for now."""
        store = self._network.store
        for digest, view in store.in_memory(before_round):
            try:
                store.move(digest, await self.write(self._disk.aside, view))
            except OSError as error:
                log.warning("what was exchanged stays in memory", reason=str(error))
                return

    # ---- states ---------------------------------------------------------------------------------

    async def apply(self, body: Body) -> None:
        payloads = [self._network.store.get(ref.digest) for ref in body.blobs]
        assert all(payload is not None for payload in payloads)
        rewound = self.rewound
        state = await self.compute(self.numbers.apply, body, payloads)
        await self._keep(state, rewound)

    async def _keep(self, state: e.StateLoaded, rewound: int) -> None:
        """Go on at once; save the state, serve it and evaluate it behind the peer's back.

        One that a recovery made void meanwhile is dropped: no commit leads to it any more.
        """
        if rewound != self.rewound:
            return
        drafting = asyncio.get_running_loop().run_in_executor(self.worker, self._drafted, state.round)
        self._feed(state)
        drafts = await drafting
        if rewound != self.rewound:
            for made in filter(None, drafts):
                made.written.unlink(missing_ok=True)
            return
        if self.evaluator is not None and not self._disk.paused:
            self.evaluator.evaluate(state.round)
        await self.write(self._save, state, *drafts)
        await self.put_aside(state.round + 1)
        await self.write(give_back)

    def _drafted(self, round_: int) -> tuple[Draft, Draft | None]:
        """Before the worker changes them again: it waits, and the processor is for who has more to do."""
        return self._drafts.submit(self._draft, round_).result()

    def _draft(self, round_: int) -> tuple[Draft, Draft | None]:
        numbers = self.numbers
        state = self._disk.draft_state(round_, self._signed.run_id, numbers.anchor, numbers.momentum)
        residuals = [residual.buffer for residual in numbers.residuals]
        return state, self._disk.draft_local(round_, residuals) if residuals else None

    def _save(self, state: e.StateLoaded, whole: Draft, local: Draft | None) -> None:
        self._disk.keep_state(whole)
        if local is not None:
            self._disk.keep_local(local)
        self._serve_state(self._disk.states()[0], state)

    def _serve_state(self, file: StateFile, state: e.StateLoaded) -> None:
        places = [offset + 4 * piece.start for piece in self.numbers.pieces for offset in file.offsets]
        for ref, offset in zip(state.blobs, places, strict=True):
            self._network.store.put_file(
                file.path, offset, ref, round=file.round + 1, kind="state", check=False
            )

    async def load_state(self, load: a.LoadState) -> None:
        rewound = self.rewound
        await self._network.meet(load.holders)
        try:
            views = await self.states.fetch(load.blobs, load.holders, round=load.round + 1)
            await self.compute(self.numbers.load_bytes, views)
            state = await self.compute(self.numbers.state, load.round)
            if self.training is not None:
                self.training.replaced()
        except (FetchFailed, StoreFull, RemoteProtocolError) as error:
            log.warning("no state", round=load.round, reason=str(error))
            self._feed(e.StateFailed(load.round))
            return
        for ref in load.blobs:
            self._network.store.forget(ref.digest)
        await self._keep(state, rewound)
        await self.states.discard(load.blobs)

    def _blame(self, donor: PeerId, error: Exception) -> None:
        """Who sent wrong bytes of a state is counted; who did not answer is not to blame."""
        if isinstance(error, RemoteProtocolError):
            self._network.reject(str(error), peer=short(donor))
