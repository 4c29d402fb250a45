"""The daemon: the I/O shell around one protocol Peer. Turns the world into events and performs its actions.

Events go through one queue and are handled one at a time; actions are performed in the order in which the
peer gave them, and a `Persist` is on disk before the next one. Tensor work runs in one worker thread, disk
work in another, so the loop stays responsive.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog

from atoll.node.blobs import FetchFailed, StoreFull
from atoll.node.breakpoints import Breakpoints
from atoll.node.disk import Disk, StateFile, load_state
from atoll.node.evaluator import Evaluator
from atoll.node.history import History
from atoll.node.network import QUEUED_PER_PEER_MAX, Network
from atoll.node.numbers import Numbers
from atoll.node.training import Training
from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol.commits import Body, Kind
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, short
from atoll.protocol.keys import Signer
from atoll.protocol.ledger import Ledger
from atoll.protocol.manifest import SignedManifest
from atoll.protocol.messages import Elsewhere
from atoll.protocol.peer import Peer, PeerConfig
from atoll.protocol.wire.convert import decode_with_epoch

EVENTS_MAX = 20_000
KNOWN_MAX = 16
FOREVER = 1 << 60
log = structlog.get_logger("atoll.daemon")


@dataclass(frozen=True, slots=True)
class _Asked:
    """An event whose consequences somebody waits for."""

    event: e.Event
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Unread:
    """A message about a commit that may be on its way through the queue: it is read when its turn comes."""

    sender: PeerId
    body: bytes


class Daemon:
    """One peer of one run. `open` loads what is on disk, `run` lives until the peer's part is over."""

    def __init__(
        self,
        signed: SignedManifest,
        network: Network,
        disk: Disk,
        token: bytes,
        authority: Signer | None = None,
    ) -> None:
        self.signed, self.network, self.disk = signed, network, disk
        self.numbers = Numbers(signed.manifest)
        self.worker = ThreadPoolExecutor(1, "numbers")
        self.disk_worker = ThreadPoolExecutor(1, "disk")
        role, part_bytes = network.config.role, self.numbers.part_bytes
        self.config = PeerConfig(signed.manifest, role, part_bytes, token, authority)
        self.training: Training | None = None
        self.evaluator: Evaluator | None = None
        self.history = History(network.traffic)
        folder = network.config.breakpoints
        self._breakpoints = Breakpoints(folder) if folder else None
        self._queue: asyncio.Queue[e.Event | _Unread | _Asked] = asyncio.Queue()
        self._waiting: Counter[PeerId] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeping: dict[tuple[Digest, str], asyncio.Task[None]] = {}
        self._failed: BaseException | None = None
        self._dropped_before = self._rewound = 0
        self._known: tuple[str, ...] = ()

    # ---- life -----------------------------------------------------------------------------------

    def open(self) -> e.Started:
        """Load ledger, promises, state and results; ConfigError if they are damaged."""
        key = self.network.identity.key
        ledger: Ledger = self.disk.load_ledger(self.signed, key)
        self.peer = Peer(self.config, key, ledger, self.disk.load_saved(ledger))
        self.peer.paused = self.disk.paused
        self.network.store.put(self.signed.raw, round=FOREVER, kind="state")
        self.numbers.warm()
        for fragment in range(self.numbers.fragments):
            self.numbers.part_bytes(fragment, 1)
        held = []
        for round_, ref, path in list(self.disk.results()):
            try:
                self.network.store.put_file(path, 0, ref, round=round_, kind="result")
                held.append(ref.digest)
            except ConfigError as error:
                log.warning("a result is damaged and fetched again", reason=str(error))
                path.unlink()
        return e.Started(self._open_state(ledger.height), tuple(held))

    def _open_state(self, height: int) -> e.StateLoaded | None:
        """The newest state on disk that the ledger knows of."""
        for file in self.disk.states():
            if file.round > height:
                continue
            try:
                self.numbers.load(*load_state(file.path))
            except (ConfigError, RuntimeError) as error:
                log.warning("a state on disk is passed over", reason=str(error))
                continue
            state = self.numbers.state(file.round)
            self._serve_state(file, state)
            residual = self.disk.load_local(file.round)
            if residual is not None and residual.numel() == self.numbers.numel:
                self.numbers.load_residual(residual)
            return state
        return None

    async def run(self, started: e.Started) -> None:
        """Handle events until cancelled, or until something that cannot be survived: ConfigError if the
        disk is full or gone."""
        try:
            await self._run(started)
        except OSError as error:
            what = f"cannot write: {error.strerror or error}"
            raise ConfigError(what, str(self.disk.folder), "a disk with room") from None

    async def _run(self, started: e.Started) -> None:
        self.network.listen_to(self.take, self._found)
        self.feed(started)
        while True:
            event = await self._queue.get()
            if self._failed is not None:
                raise self._failed
            if isinstance(event, (_Unread, e.Received)):
                self._waiting[event.sender] -= 1
                if not self._waiting[event.sender]:
                    del self._waiting[event.sender]
            if isinstance(event, _Unread):
                try:
                    event = self._read(event.sender, event.body)
                except RemoteProtocolError as error:
                    self.network.reject(str(error), peer=short(event.sender))
                    continue
            asked = event if isinstance(event, _Asked) else None
            for action in self._handle(asked.event if asked else event):
                if self._breakpoints is not None:
                    self._breakpoints.before(action)
                await self._perform(action)
            if asked is not None and not asked.done.done():
                asked.done.set_result(None)

    def _handle(self, event: e.Event) -> list[a.Action]:
        """Let the peer take an event, and note a deadline that cost a view."""
        if self._breakpoints is not None:
            self._breakpoints.arrive(self.peer, event)
        due = event.timer if isinstance(event, e.TimerFired) and event.timer.name == "deadline" else None
        waited = due is not None and (due.round, due.view) == (self.peer.round, self.peer.view)
        actions = self.peer.handle(event, time.monotonic_ns() // 1_000_000)
        if due is not None and waited and self.peer.view > due.view:
            self.history.expired(due.round, due.view)
        return actions

    async def close(self) -> None:
        """End everything this daemon started; bounded in time."""
        for task in list(self._tasks):
            task.cancel()
        for part in (self.training, self.evaluator):
            if part is not None:
                await part.close()
        self.worker.shutdown(wait=True, cancel_futures=True)
        self.disk_worker.shutdown(wait=True)
        self.disk.close()

    # ---- events ---------------------------------------------------------------------------------

    def feed(self, event: e.Event) -> None:
        self._queue.put_nowait(event)

    async def ask(self, event: e.Event) -> None:
        """Have an event handled, and what follows from it on disk, before this returns."""
        asked = _Asked(event, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(asked)
        await asked.done

    async def pause(self, on: bool) -> str:
        """Leave the machine to its owner, or train again; either outlives a restart of this daemon.

        ConfigError if this peer does not train.
        """
        if self.training is None:
            raise ConfigError("this peer votes and does not train", str(self.disk.folder), "a worker")
        await self._write(self.disk.save_paused, on)
        self.training.rest(on)
        await self.ask(e.Pause(on))
        return "rests; it goes on to vote and to keep up" if on else "trains again"

    def take(self, sender: PeerId, body: bytes) -> bool:
        """A message of a proven sender; False if too many wait already."""
        if self._waiting[sender] >= QUEUED_PER_PEER_MAX or self._queue.qsize() >= EVENTS_MAX:
            return False
        event = self._read(sender, body)
        self._waiting[sender] += 1
        self._queue.put_nowait(_Unread(sender, body) if isinstance(event.message, Elsewhere) else event)
        return True

    def _read(self, sender: PeerId, body: bytes) -> e.Received:
        epoch, message = decode_with_epoch(body, self.peer.ledger.members_after)
        return e.Received(sender, message, epoch)

    def _found(self, peers: tuple[PeerId, ...]) -> None:
        """Discovery knows these: ask them if nobody else answers, and remember a few for the next start."""
        self.feed(e.Found(peers))
        records = [self.network.router.record_of(peer) for peer in peers]
        addresses = [record.multiaddrs[0] for record in records if record and record.multiaddrs]
        if addresses and (known := tuple(sorted(addresses)[:KNOWN_MAX])) != self._known:
            self._known = known
            self._spawn(self._write(self.disk.save_known, known))

    def _lost(self, peer: PeerId) -> None:
        self.feed(e.PeerLost(peer))

    def _spawn(self, coroutine: Any) -> None:
        self.watch(asyncio.ensure_future(coroutine))

    def watch(self, task: asyncio.Task[None]) -> None:
        """This daemon lives as long as the task does not fail."""
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        """A task that fails for another reason than a peer's is this daemon's end."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed = error
            self.feed(e.Found(()))

    async def _compute(self, function: Callable[..., Any], *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.worker, function, *args)

    async def _write(self, function: Callable[..., Any], *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.disk_worker, function, *args)

    # ---- actions --------------------------------------------------------------------------------

    async def _perform(self, action: a.Action) -> None:
        match action:
            case a.Send():
                for peer in action.to:
                    self.network.send(peer, action.message, action.epoch, self._lost)
            case a.SetTimer():
                fired = e.TimerFired(action.timer)
                asyncio.get_running_loop().call_later(action.after_ms / 1000, self.feed, fired)
            case a.Persist():
                self._rewound += isinstance(action.record, a.Rewound)
                await self._write(self.disk.persist, action.record, self.peer.saved)
                if isinstance(action.record, a.Committed):
                    self._on_commit(action.record)
            case a.Fetch():
                self._spawn(self._fetch(action))
            case a.Train() if self.training is not None:
                self.training.train(action, self._first_step(action))
            case a.Encode() if self.training is not None:
                self._spawn(self.training.encode(action))
            case a.Settle() if self.training is not None:
                self.training.settle(action, self._was_update(action.round))
            case a.Aggregate():
                self._spawn(self._aggregate(action))
            case a.Apply():
                self._spawn(self._apply(action.body))
            case a.LoadState():
                self._spawn(self._load_state(action))
            case a.Forget():
                self._forget(action.before_round)
            case a.Rejected():
                self.network.reject(action.reason, peer=short(action.peer))
            case a.Ended():
                log.info("ended", reason=action.reason)
            case a.Train() | a.Encode() | a.Settle():
                pass  # a witness does not train

    def _first_step(self, train: a.Train) -> int:
        """The run's global step at which a round begins that the ledger may not have reached yet."""
        terms = self.peer.terms
        return (terms.updates + train.round - self.peer.round) * terms.assignment.steps

    def _on_commit(self, record: a.Committed) -> None:
        body = record.commit.body
        self.history.committed(record.commit, time.monotonic())
        contributors = [short(c.peer) for c in body.contributors]
        log.info("commit", round=body.round, kind=body.kind.name.lower(), contributors=contributors)

    def _was_update(self, round_: int) -> bool:
        """Of a round that a snapshot hides nothing is known but that others may have moved its fragment."""
        ledger = self.peer.ledger
        return round_ <= ledger.begin or ledger.commit(round_).body.kind is Kind.UPDATE

    def _forget(self, before_round: int) -> None:
        if before_round > self._dropped_before:
            self._dropped_before = before_round
            self.network.store.forget_before(before_round)
            self._spawn(self._write(self.disk.forget_results, before_round))

    async def _fetch(self, fetch: a.Fetch) -> None:
        """Get a blob, see that it decodes, and bring a result to disk before the peer may vote on it."""
        round_ = self.peer.round
        timeout_s = 10 + fetch.ref.size / self.config.manifest.rounds.bytes_per_s_min
        kind: Any = fetch.kind
        await self.network.meet(fetch.holders)
        try:
            view = await self.network.fetcher.fetch(
                fetch.ref, fetch.holders, round=round_, kind=kind, timeout_s=timeout_s
            )
            await self._once(fetch, view, round_)
        except RemoteProtocolError as error:
            self.network.store.forget(fetch.ref.digest)
            self.network.reject(str(error), blob=fetch.ref.digest[:12])
            self.feed(e.BlobFailed(fetch.ref.digest))
        except (FetchFailed, StoreFull) as error:
            log.info("not fetched", reason=str(error))
            self.feed(e.BlobFailed(fetch.ref.digest))
        else:
            self.feed(e.BlobArrived(fetch.ref.digest))

    async def _once(self, fetch: a.Fetch, view: memoryview, round_: int) -> None:
        """Check and keep a blob, once for all who ask for it at a time: a repeated message asks again."""
        name = (fetch.ref.digest, fetch.kind)
        keeping = self._keeping.get(name)
        if keeping is None:
            keeping = self._keeping[name] = asyncio.ensure_future(self._accept(fetch, view, round_))
            keeping.add_done_callback(lambda _: self._keeping.pop(name))
        await asyncio.shield(keeping)

    async def _accept(self, fetch: a.Fetch, view: memoryview, round_: int) -> None:
        await self._compute(self.numbers.check, view)
        if fetch.kind == "result":
            await self._write(self.disk.save_result, round_, fetch.ref, view)

    async def _aggregate(self, action: a.Aggregate) -> None:
        store = self.network.store
        inputs = [(weight, store.get(ref.digest)) for _, weight, ref in action.inputs]
        payload = await self._compute(self.numbers.aggregate, action.round, action.part, action.parts, inputs)
        ref = store.put(payload, round=action.round, kind="result")
        await self._write(self.disk.save_result, action.round, ref, payload)
        self.feed(e.Aggregated(action.round, action.view, action.revision, action.part, ref))

    async def _apply(self, body: Body) -> None:
        payloads = [self.network.store.get(ref.digest) for ref in body.blobs]
        assert all(payload is not None for payload in payloads)
        rewound = self._rewound
        state = await self._compute(self.numbers.apply, body, payloads)
        if self.training is not None:
            self.training.moved(body.round)
        await self._keep(state, rewound)

    async def _keep(self, state: e.StateLoaded, rewound: int) -> None:
        """Go on at once; save the state, serve it and evaluate it behind the peer's back.

        One that a recovery made void meanwhile is dropped: no commit leads to it any more.
        """
        if rewound != self._rewound:
            return
        copying = asyncio.get_running_loop().run_in_executor(self.worker, self.numbers.copies)
        self.feed(state)
        anchor, momentum, residual = await copying
        if rewound != self._rewound:
            return
        if self.evaluator is not None and not self.peer.paused:
            self.evaluator.evaluate(state.round, anchor)
        await self._write(self._save, state, anchor, momentum, residual)

    def _save(self, state: e.StateLoaded, anchor: Any, momentum: Any, residual: Any) -> None:
        self.disk.save_state(state.round, self.signed.run_id, anchor, momentum)
        self.disk.save_local(state.round, residual)
        self._serve_state(self.disk.states()[0], state)

    def _serve_state(self, file: StateFile, state: e.StateLoaded) -> None:
        places = [offset + 4 * piece.start for piece in self.numbers.pieces for offset in file.offsets]
        for ref, offset in zip(state.blobs, places, strict=True):
            self.network.store.put_file(file.path, offset, ref, round=file.round + 1, kind="state")

    async def _load_state(self, load: a.LoadState) -> None:
        rewound = self._rewound
        await self.network.meet(load.holders)
        timeout_s = 30 + 2 * load.blobs[0].size / self.config.manifest.rounds.bytes_per_s_min
        try:
            views = [await self._fetch_state(ref, load, timeout_s) for ref in load.blobs]
            await self._compute(self.numbers.load_bytes, views)
            state = await self._compute(self.numbers.state, load.round)
            if self.training is not None:
                self.training.replaced()
        except (FetchFailed, StoreFull, RemoteProtocolError) as error:
            log.warning("no state", round=load.round, reason=str(error))
            self.feed(e.StateFailed(load.round))
            return
        for ref in load.blobs:
            self.network.store.forget(ref.digest)
        await self._keep(state, rewound)

    async def _fetch_state(self, ref: BlobRef, load: a.LoadState, timeout_s: float) -> memoryview:
        fetch = self.network.fetcher.fetch
        return await fetch(ref, load.holders, round=load.round + 1, kind="state", timeout_s=timeout_s)
