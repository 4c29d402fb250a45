"""One machine: a `Peer`, its disk and memory, and the performance of its actions in virtual time.

A crash ends a life: whatever was under way for that life is dropped, memory is gone, and only completed
writes are read back. A frozen host does nothing and then, in order, everything that came meanwhile.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.fragments import fragment_of, start_digest
from atoll.protocol.ids import Digest, PeerId, digest_of
from atoll.protocol.peer import Peer, PeerConfig
from atoll.protocol.roster import Role
from atoll.simulator import content, measuring, transfers
from atoll.simulator.disk import Disk
from atoll.simulator.setting import STEP_MS, STEPS, TOKENS
from atoll.simulator.signing import SimulatedSigner

if TYPE_CHECKING:
    from atoll.simulator.world import World

FOUND_EVERY_MS = 5_000
WRITE_MS_MAX, SAVE_MS_MAX = 8, 1_000
LOST_NOTICED_SHARE = 0.5
UPLINKS = (100_000, 1_000_000)
"""What a host says of its uplink, whether it is so or not: one of two, by its name."""


class Host:
    lies = False

    def __init__(self, world: World, name: str, peer_id: PeerId, role: Role) -> None:
        self.world, self.name, self.id, self.role = world, name, peer_id, role
        self.signer = SimulatedSigner(peer_id, world.ring)
        self.rules = world.signed.manifest.rounds
        self.sizes = content.Sizes(self.rules.fragments, self.rules.exchange == "sparse")
        authority = world.authority if role is Role.WITNESS else None
        uplink = UPLINKS[digest_of(name.encode())[0] in "01234567"]
        shard = world.shard_of(name) if role is Role.WORKER else ""
        self.config = PeerConfig(
            world.signed.manifest,
            role,
            self.sizes.part_bytes,
            authority=authority,
            uplink=lambda: uplink,
            shard=shard,
        )
        self.disk = Disk()
        self.peer: Peer | None = None
        self.life = 0
        self.finished = False
        self.thaw_ms = 0
        self.step_ms = STEP_MS
        self.unit = -1
        self.full_until_ms = 0
        self.rate, self.offset_ms = 1.0, 0
        self._down()

    def _down(self) -> None:
        self.peer = None
        self.memory: dict[Digest, int] = {}
        self.state: e.StateLoaded | None = None
        self.queue: deque[a.Action] = deque()
        self.held_up = False
        self.fetching: set[Digest] = set()
        self.training: a.Train | None = None
        self.orders: set[int] = set()
        self.trained: dict[int, content.Contribution] = {}
        self.timers = self.rewinds = 0
        self.waiting: list[tuple[int, Callable[..., None], tuple[Any, ...]]] = []

    # ---- life -----------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.peer is not None

    @property
    def frozen(self) -> bool:
        return self.thaw_ms > self.world.clock.now_ms

    def now_ms(self) -> int:
        """This machine's monotonic clock: it starts anywhere in each life, and runs at its own rate."""
        now_ms = self.world.clock.now_ms
        return now_ms if self.rate == 1.0 else int(now_ms * self.rate) + self.offset_ms * self.life

    def boot(self) -> None:
        """Start a process on what the disk holds."""
        self.life += 1
        self.world.lives_changed()
        self.disk.check()
        ledger = self.disk.ledger(self.world.signed.genesis, self.signer)
        self.peer = Peer(self.config, self.signer, ledger, self.disk.saved())
        self.state = self.disk.newest()
        self.take(e.Started(self.state, tuple(self.disk.results)))
        self._find()

    def crash(self) -> None:
        self.world.note(self.name, "dies")
        self.life += 1
        self.thaw_ms = 0
        self._down()

    def freeze(self, for_ms: int) -> None:
        self.thaw_ms = max(self.thaw_ms, self.world.clock.now_ms + for_ms)
        self.world.clock.later(for_ms, self._thaw)

    def _thaw(self) -> None:
        """Everything that came meanwhile, in the order in which it came."""
        if not self.frozen:
            waiting, self.waiting = self.waiting, []
            for life, do, arguments in waiting:
                self.act(life, do, *arguments)

    def recover(self) -> None:
        """The end of a frost, of being slow, and of a full disk."""
        self.thaw_ms, self.step_ms, self.full_until_ms = 0, STEP_MS, 0
        self._thaw()

    def pause(self, on: bool) -> None:
        """The volunteer wants this machine for itself, or does no more."""
        if self.peer is not None and self.peer.paused is not on:
            self.act(self.life, self.take, e.Pause(on))

    def no_room(self) -> bool:
        """Whether a write fails: a node ends then, and can write again when there is room."""
        if self.full_until_ms <= self.world.clock.now_ms:
            return False
        self.world.note(self.name, "cannot write")
        self.crash()
        self.world.revive(self)
        return True

    def _find(self) -> None:
        """Discovery tells who takes part, dead ones too."""
        self.take(e.Found(self.world.known_to(self)))
        self.world.clock.later(FOUND_EVERY_MS, self.act, self.life, self._find)

    # ---- events in, actions out -----------------------------------------------------------------

    def act(self, life: int, do: Callable[..., None], *arguments: Any) -> None:
        """Do something as this process, if it still is the same one, and as soon as it is not frozen."""
        if life != self.life:
            return
        if self.thaw_ms and self.frozen:
            self.waiting.append((life, do, arguments))
        else:
            do(*arguments)

    def take(self, event: e.Event) -> None:
        """Hand an event to the peer, and perform what it wants."""
        peer = self.peer
        if peer is None:
            return
        if self.world.trace is not None:
            self.world.trace.event(self, event)
        now_ms = self.world.clock.now_ms if self.rate == 1.0 else self.now_ms()
        self.queue.extend(peer.handle(event, now_ms))
        if not self.held_up:
            self._drain()

    def _drain(self) -> None:
        """In order. A write, or a frost, holds up what comes after it."""
        queue, perform, world = self.queue, _PERFORM, self.world
        while queue and not self.held_up and self.peer is not None:
            action = queue.popleft()
            if world.trace is not None:
                world.trace.action(self, action)
            if world.traps and world.sprung(self, action):
                continue
            perform[type(action)](self, action)

    def has(self, digest: Digest) -> bool:
        """Whether a living process could give this blob."""
        return digest in self.memory or digest in self.disk.results

    def gives(self, digest: Digest) -> bool:
        """Whether it does give it to who asks."""
        return self.has(digest)

    def has_state(self, anchor: Digest) -> bool:
        return self.disk.state_of(anchor) is not None

    # ---- one method for each action -------------------------------------------------------------

    def _send(self, action: a.Send) -> None:
        if self.world.early or not isinstance(action.message, m.Summed):
            self.send_to(action.to, action)

    def send_to(self, receivers: tuple[PeerId, ...], action: a.Send) -> None:
        world = self.world
        world.sent(self, dataclasses.replace(action, to=receivers) if receivers is not action.to else action)
        event = e.Received(self.id, action.message, action.epoch)
        hosts, links, later = world.hosts, world.links, world.clock.later
        quiet = links.quiet
        for receiver in receivers:
            other = hosts.get(receiver)
            if quiet and other is not None and other.peer is not None:
                later(links.delay_ms(self.name, other.name), other.act, other.life, other.take, event)
            else:
                self._bring(other, event)

    def bring(self, receiver: PeerId, action: a.Send) -> None:
        """A message that left long ago is on its last leg."""
        self._bring(self.world.hosts.get(receiver), e.Received(self.id, action.message, action.epoch))

    def _bring(self, other: Host | None, event: e.Received) -> None:
        if other is None:
            return
        world, links = self.world, self.world.links
        if other.peer is None:
            self._give_up(other, (5, 100), other.life)
        elif not links.open(self.name, other.name):
            self._give_up(other, (500, 3_000))
        else:
            for delay_ms in links.delays_ms(self.name, other.name):
                world.clock.later(delay_ms, other.act, other.life, other.take, event)

    def _give_up(self, other: Host, within_ms: tuple[int, int], life: int | None = None) -> None:
        """Perhaps the transport says so, after a while, that this message could not be brought."""
        world = self.world
        if world.rng.random() < LOST_NOTICED_SHARE:
            world.clock.later(world.rng.randint(*within_ms), self.act, self.life, self._lose, other, life)

    def _lose(self, other: Host, life: int | None) -> None:
        """Of a dead process only while it is not back; behind a cut the news may be old."""
        if life is None or other.life == life:
            self.take(e.PeerLost(other.id))

    def _set_timer(self, action: a.SetTimer) -> None:
        self.timers += 1
        after_ms = action.after_ms if self.rate == 1.0 else 1 + int(action.after_ms / self.rate)
        self.world.clock.later(after_ms, self.act, self.life, self._fire, action.timer)

    def _fire(self, timer: e.Timer) -> None:
        self.timers -= 1
        self.take(e.TimerFired(timer))

    def _fetch(self, action: a.Fetch) -> None:
        digest = action.ref.digest
        if digest in self.fetching:
            return
        if self.has(digest):
            self.world.clock.later(1, self.act, self.life, self.take, e.BlobArrived(digest))
            return
        self.fetching.add(digest)
        transfers.start(
            self.world,
            transfers.Transfer(
                receiver=self,
                holders=action.holders,
                size=action.ref.size,
                digest=digest,
                has=_gives,
                arrived=self._arrived,
                failed=self._not_arrived,
                what=(digest, action.kind),
            ),
        )

    def _arrived(self, digest: Digest, kind: str) -> None:
        assert self.peer is not None
        self.fetching.discard(digest)
        if kind != "result":
            self.memory[digest] = self.peer.round
        elif self.no_room():
            return
        else:
            self.disk.save(digest, self.peer.round)
        self.take(e.BlobArrived(digest))

    def _not_arrived(self, digest: Digest, kind: str) -> None:
        self.fetching.discard(digest)
        self.take(e.BlobFailed(digest))

    def _train(self, action: a.Train) -> None:
        """From the fragment as it is now. By then, all rounds that are no longer ahead have been settled."""
        self.training = action
        assert self.state is not None
        assert self.peer is not None
        self.unit = self.peer.terms.unit(self.id) if self.rules.replicated else -1
        anchor = start_digest(self.state.blobs, action.round, self.rules.fragments)
        late = [round_ for round_ in self.orders if round_ < action.round - self.rules.overlap]
        self.world.require(not late, f"{self.name} never heard what became of its rounds {late}")
        self.orders.add(action.round)
        needed_ms = int(action.steps * self.step_ms * self.world.rng.uniform(0.8, 1.3))
        clock = self.world.clock
        clock.later(needed_ms // 2, self.act, self.life, self._progress, action)
        clock.later(needed_ms, self.act, self.life, self._trained, action, anchor, needed_ms)

    def _progress(self, action: a.Train) -> None:
        if self.training is action:
            self.take(e.Progress(action.round, action.steps // 2))

    def _trained(self, action: a.Train, anchor: Digest, train_ms: int) -> None:
        """Training ends, unless another began meanwhile; after a recovery that may be of the same round."""
        if self.training is not action:
            return
        self.training = None
        unit = self.unit
        tokens = max(300, TOKENS * action.steps // STEPS)
        tokens -= self.world.rng.randint(0, 2) * 100 if unit < 0 else 0
        if action.round in self.orders:
            done = content.Contribution(action.round, anchor, tokens, action.steps, unit)
            self.trained[action.round] = done
        self.take(e.Trained(action.round, tokens, action.steps, train_ms))

    def _encode(self, action: a.Encode) -> None:
        after_ms = self.world.rng.randint(0, 20)
        self.world.clock.later(after_ms, self.act, self.life, self._encoded, action)

    def _encoded(self, action: a.Encode) -> None:
        """Parts live in memory only, but for those that may become the update; none if the round is over."""
        done = self.trained.get(action.begun)
        if done is None:
            return
        sizes = self.sizes.part_bytes(fragment_of(action.round, self.rules.fragments), action.parts)
        done = content.encoded(self.id, self.life, done, sizes)
        store = self.disk.results if action.lasting else self.memory
        store.update((ref.digest, action.round) for ref in done.parts)
        self.world.encoded(self, action.round, done)
        self.take(e.Encoded(action.round, done.parts))

    def _aggregate(self, action: a.Aggregate) -> None:
        for _, _, ref in action.inputs:
            self.world.require(self.has(ref.digest), f"{self.name} sums a contribution that it does not hold")
        after_ms = self.world.rng.randint(5, 60)
        self.world.clock.later(after_ms, self.act, self.life, self._aggregated, action)

    def _aggregated(self, action: a.Aggregate) -> None:
        if self.no_room():
            return
        sizes = self.sizes.part_bytes(fragment_of(action.round, self.rules.fragments), action.parts)
        blob = content.mean(action, sizes[action.part], self.rules)
        self.disk.save(blob.digest, action.round)
        self.world.means[blob.digest] = action
        self.take(e.Aggregated(action.round, action.view, action.sum, action.part, blob))

    def _apply(self, action: a.Apply) -> None:
        body = action.body
        for ref in body.blobs:
            self.world.require(self.has(ref.digest), f"{self.name} applies an update that it does not hold")
        state = self.state
        self.world.require(
            state is not None and state.anchor == body.anchor,
            f"{self.name} applies update {body.round} to another state than it starts from",
        )
        after_ms = self.world.rng.randint(10, 120)
        self.world.clock.later(after_ms, self.act, self.life, self._applied, state, action, self.rewinds)

    def _applied(self, state: e.StateLoaded, action: a.Apply, rewinds: int) -> None:
        self._have(content.stepped(state, action.body, self.rules), rewinds)

    def _have(self, state: e.StateLoaded, rewinds: int) -> None:
        """Go on with a state at once; it comes to disk later, behind the peer's back.

        Unless the ledger was rewound since: then it is a state of rounds that went otherwise.
        """
        if rewinds != self.rewinds:
            return
        self.state = state
        self.world.loaded(self, state)
        after_ms = self.world.rng.randint(10, SAVE_MS_MAX)
        self.world.clock.later(after_ms, self.act, self.life, self._save, state, rewinds)
        self.take(state)

    def _save(self, state: e.StateLoaded, rewinds: int) -> None:
        if rewinds == self.rewinds and not self.no_room():
            self.disk.keep(state)

    def _load_state(self, action: a.LoadState) -> None:
        state = e.StateLoaded(action.round, action.anchor, action.blobs)
        transfers.start(
            self.world,
            transfers.Transfer(
                receiver=self,
                holders=action.holders,
                size=sum(ref.size for ref in action.blobs),
                digest=action.anchor,
                has=Host.has_state,
                arrived=self._have,
                failed=self._no_state,
                what=(state, self.rewinds),
            ),
        )

    def _no_state(self, state: e.StateLoaded, rewinds: int) -> None:
        if rewinds == self.rewinds:
            self.take(e.StateFailed(state.round))

    def _persist(self, action: a.Persist) -> None:
        self.world.decided(self, action.record)
        self.held_up = True
        after_ms = self.world.rng.randint(0, WRITE_MS_MAX)
        self.world.clock.later(after_ms, self.act, self.life, self._written, action.record)

    def _written(self, record: a.Record) -> None:
        if not self.no_room():
            self.write(record)
            self._go_on()

    def write(self, record: a.Record) -> None:
        """A write is complete. A commit that is on disk is one that this peer never takes back."""
        if isinstance(record, a.Committed):
            self.world.committed(self, record.commit)
        elif isinstance(record, a.Rebased):
            self.world.rebased(self, record.snapshot)
        self.rewinds += isinstance(record, a.Rewound)
        self.disk.write(record)

    def go_on_with(self, action: a.Action) -> None:
        """Do this action, and those behind it, when the frost is over."""
        self.queue.appendleft(action)
        self.held_up = True
        self.act(self.life, self._go_on)

    def _go_on(self) -> None:
        self.held_up = False
        self._drain()

    def _forget(self, action: a.Forget) -> None:
        self.disk.forget(action.before_round)
        if min(self.memory.values(), default=action.before_round) < action.before_round:
            self.memory = {digest: at for digest, at in self.memory.items() if at >= action.before_round}

    def _settle(self, action: a.Settle) -> None:
        known = action.round in self.orders
        self.world.require(known, f"{self.name} settles round {action.round} twice, or without work for it")
        self.orders.discard(action.round)
        self.trained.pop(action.round, None)
        self.world.note(self.name, f"contribution to round {action.round}: {action.included}")

    def _audit(self, action: a.Audit) -> None:
        for ref in (ref for work in action.works for ref in work.parts):
            self.world.require(self.has(ref.digest), f"{self.name} audits what it does not hold")
        after_ms = measuring.AUDIT_MS * len(action.works)
        self.world.clock.later(after_ms, self.act, self.life, self._audited, action)

    def _audited(self, action: a.Audit) -> None:
        self.take(e.Scored(action.round, measuring.falls(self, action)))

    def _rejected(self, action: a.Rejected) -> None:
        self.world.rejected[action.reason] += 1

    def _ended(self, action: a.Ended) -> None:
        """One that left is gone for good; when the run is complete, everybody stays to help the others."""
        self.world.note(self.name, f"ends: {action.reason}")
        if action.reason == "left":
            self.finished = True
            self.world.lives_changed()
            self.life += 1
            self._down()


def _gives(holder: Host, digest: Digest) -> bool:
    return holder.gives(digest)


_PERFORM: dict[type, Callable[[Host, Any], None]] = {
    a.Send: Host._send,
    a.SetTimer: Host._set_timer,
    a.Fetch: Host._fetch,
    a.Train: Host._train,
    a.Encode: Host._encode,
    a.Aggregate: Host._aggregate,
    a.Apply: Host._apply,
    a.Settle: Host._settle,
    a.LoadState: Host._load_state,
    a.Persist: Host._persist,
    a.Forget: Host._forget,
    a.Rejected: Host._rejected,
    a.Ended: Host._ended,
    a.Audit: Host._audit,
}
