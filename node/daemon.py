"""The daemon: the I/O shell around one protocol Peer. Turns the world into events and performs its actions.

Events go through one queue and are handled one at a time; actions are performed in the order in which the
peer gave them, and a `Persist` is on disk before the next one. What takes long is done elsewhere (rounds.py).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import structlog

from atoll.node.breakpoints import Breakpoints
from atoll.node.disk import Disk
from atoll.node.history import History
from atoll.node.network import QUEUED_PER_PEER_MAX, Network
from atoll.node.rounds import Rounds
from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol.audited import AFTER
from atoll.protocol.commits import Kind
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import PeerId, short
from atoll.protocol.keys import Signer
from atoll.protocol.ledger import Ledger
from atoll.protocol.manifest import SignedManifest
from atoll.protocol.messages import Elsewhere
from atoll.protocol.peer import Peer, PeerConfig
from atoll.protocol.replicas import disputed
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
        self.rounds = Rounds(signed, network, disk, self.feed)
        role, part_bytes = network.config.role, self.rounds.numbers.part_bytes
        self.config = PeerConfig(
            signed.manifest,
            role,
            part_bytes,
            token,
            authority,
            lambda: network.uplink_bytes_per_s,
            network.config.shard,
        )
        self.history = History(network.traffic, signed.manifest.assignment.steps)
        folder = network.config.breakpoints
        self._breakpoints = Breakpoints(folder) if folder else None
        self._queue: asyncio.Queue[e.Event | _Unread | _Asked] = asyncio.Queue()
        self._waiting: Counter[PeerId] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: BaseException | None = None
        self._dropped_before = 0
        self._known: tuple[str, ...] = ()

    # ---- life -----------------------------------------------------------------------------------

    def open(self) -> e.Started:
        """Load ledger, promises, state and results; ConfigError if they are damaged."""
        key = self.network.identity.key
        ledger: Ledger = self.disk.load_ledger(self.signed, key)
        self.peer = Peer(self.config, key, ledger, self.disk.load_saved(ledger))
        self.peer.paused = self.disk.paused
        self.network.store.put(self.signed.raw, round=FOREVER, kind="state")
        held = self.rounds.open_results()
        return e.Started(self.rounds.open_state(ledger.height), held)

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
        self.network.uploads.limit.enter(self.peer.round)
        if due is not None and waited and self.peer.view > due.view:
            self.history.expired(due.round, due.view)
        return actions

    async def close(self) -> None:
        """End everything this daemon started; bounded in time."""
        for task in list(self._tasks):
            task.cancel()
        for part in (self.rounds.training, self.rounds.evaluator):
            if part is not None:
                await part.close()
        self.rounds.close()
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
        if self.rounds.training is None:
            raise ConfigError("this peer votes and does not train", str(self.disk.folder), "a worker")
        await self.rounds.write(self.disk.save_paused, on)
        self.rounds.training.rest(on)
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
            self._spawn(self.rounds.write(self.disk.save_known, known))

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
                self.rounds.rewound += isinstance(action.record, a.Rewound)
                await self.rounds.write(self.disk.persist, action.record, self.peer.saved)
                if isinstance(action.record, a.Committed):
                    self._on_commit(action.record)
            case a.Fetch():
                self._spawn(self.rounds.fetch(action, self.peer.round + action.ahead))
            case a.Train() if self.rounds.training is not None:
                self.rounds.training.train(action, self._first_step(action))
            case a.Encode() if self.rounds.training is not None:
                self._spawn(self.rounds.encode(action))
            case a.Settle() if self.rounds.training is not None:
                self.rounds.training.settle(action, self._was_update(action.round))
            case a.Audit() if self.rounds.training is not None:
                over = action.round + AFTER
                self._spawn(self.rounds.audit(action, lambda: self.peer.round > over))
            case a.Aggregate():
                self._spawn(self.rounds.aggregate(action))
            case a.Apply():
                self._spawn(self.rounds.apply(action.body))
            case a.LoadState():
                self._spawn(self.rounds.load_state(action))
            case a.Forget():
                self._forget(action.before_round)
            case a.Rejected():
                self.network.reject(action.reason, peer=short(action.peer))
            case a.Ended():
                log.info("ended", reason=action.reason)
            case a.Train() | a.Encode() | a.Settle() | a.Audit():
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
        for peer, told in disputed(body).items():
            log.warning("replicas differ", round=body.round, peer=short(peer), reason=told)

    def _was_update(self, round_: int) -> bool:
        """Of a round that a snapshot hides nothing is known but that others may have moved its fragment."""
        ledger = self.peer.ledger
        return round_ <= ledger.begin or ledger.commit(round_).body.kind is Kind.UPDATE

    def _forget(self, before_round: int) -> None:
        if before_round > self._dropped_before:
            self._dropped_before = before_round
            self.network.store.forget_before(before_round)
            self._spawn(self.rounds.write(self.disk.forget_results, before_round))
