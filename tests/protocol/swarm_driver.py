"""A few real peers in one process, moved by hand: virtual time, mail that waits to be delivered, no chance.

Nothing happens unless a test asks for it: mail lies until `deliver`, a worker is done when `train` says so,
timers fire when `pass_time` lets them. Blobs are digests that machines have or have not. After every event
the driver checks what must always hold: one history, one anchor for each round, every message fits the wire.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from protocol_samples import ASSIGNED, fragment_bytes, initial_blobs, key, manifest, member, peer

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol.commits import Body, Commit, Snapshot
from atoll.protocol.fragments import blobs_of
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_bytes, digest_of
from atoll.protocol.ledger import Genesis, Ledger
from atoll.protocol.manifest import RoundRules
from atoll.protocol.messages import Commits, Message, Promise, Propose
from atoll.protocol.peer import Peer, PeerConfig, Saved
from atoll.protocol.roster import by_hash
from atoll.protocol.wire.convert import decode_with_epoch, encode

DELIVERIES_MAX = 20_000
ACTIONS_MAX = 200


@dataclass
class Disk:
    """What outlives a process."""

    base: Snapshot | None = None
    commits: list[Commit] = field(default_factory=list)
    saved: Saved = field(default_factory=Saved)
    results: dict[Digest, int] = field(default_factory=dict)
    states: list[e.StateLoaded] = field(default_factory=list)


class Machine:
    """One peer, and what it was asked to do and has not done yet."""

    def __init__(self, swarm: Swarm, name: str) -> None:
        self.swarm, self.name, self.id = swarm, name, peer(name)
        self.disk = Disk()
        self.peer: Peer | None = None
        self.fresh()

    def fresh(self) -> None:
        self.memory: set[Digest] = set()
        self.order: a.Train | None = None
        self.to_encode: a.Encode | None = None
        self.log: list[a.Action] = []
        self.in_touch = True
        self.stalls = False

    def start(self) -> None:
        """Begin on what the disk holds."""
        ledger = Ledger(self.swarm.genesis)
        if self.disk.base is not None:
            ledger.rebase(self.disk.base)
        for commit in self.disk.commits:
            ledger.append(commit, key(self.name))
        role = member(self.name).role
        sizes = fragment_bytes(self.swarm.manifest.rounds)
        authority = key("authority") if self.name == "coordinator" else None
        config = PeerConfig(self.swarm.manifest, role, sizes, authority=authority)
        self.peer = Peer(config, key(self.name), ledger, replace(self.disk.saved))
        state = self.disk.states[-1] if self.disk.states else None
        self.take(e.Started(state, tuple(self.disk.results)))
        self.take(e.Found(tuple(m.id for m in self.swarm.machines.values() if m is not self)))

    def has(self, digest: Digest) -> bool:
        return self.peer is not None and (digest in self.memory or digest in self.disk.results)

    def take(self, event: e.Event) -> list[a.Action]:
        """Hand an event to the peer and note what it wants; the swarm performs it."""
        assert self.peer is not None, f"{self.name} is dead"
        actions = self.peer.handle(event, self.swarm.now_ms)
        assert len(actions) <= ACTIONS_MAX, f"{self.name} wants {len(actions)} things at once"
        for action in actions:
            self.log.append(action)
            self.perform(action)
        order, self.to_encode = self.to_encode, None
        if order is not None:
            self.encode(order)
        self.swarm.check(self)
        return actions

    def perform(self, action: a.Action) -> None:
        """What is instant happens; the rest waits in the swarm's queues."""
        swarm = self.swarm
        match action:
            case a.Send(to, message, epoch):
                assert reads_as_written(message, epoch)
                assert self.id not in to
                swarm.mail.extend((self, swarm.by_id[receiver], message, epoch) for receiver in to)
            case a.SetTimer(timer, after_ms):
                assert after_ms > 0
                swarm.timers.append((swarm.now_ms + after_ms, self, timer))
            case a.Train():
                self.order = action
            case a.Encode():
                self.to_encode = action
            case a.Persist(record):
                self.write(record)
            case a.Fetch() | a.Aggregate() | a.Apply() | a.LoadState():
                swarm.chores.append((self, action))
            case a.Forget(before_round):
                kept = {digest: at for digest, at in self.disk.results.items() if at >= before_round}
                self.disk.results = kept
            case _:
                pass

    def store(self, digest: Digest, result: bool) -> None:
        """Results are on disk; contributions of others live in memory."""
        assert self.peer is not None
        if result:
            self.disk.results[digest] = self.peer.round
        else:
            self.memory.add(digest)

    def write(self, record: a.Record) -> None:
        saved = self.disk.saved
        match record:
            case a.Committed(commit):
                self.disk.commits.append(commit)
            case a.Promised(round_, view):
                saved.promised = (round_, view)
            case a.Accepted(round_, view, body, certificate):
                saved.accepted, saved.certificate = (round_, view, body), certificate
            case a.Prepared(epoch, round_, seen):
                saved.prepared = (epoch, round_, seen)
            case a.Accused(_, evidence):
                saved.evidence = (*saved.evidence, evidence)
            case a.Proposed(round_, view, body):
                saved.proposed = (round_, view, body)
            case a.Rewound(round_):
                self.disk.commits = [c for c in self.disk.commits if c.body.round < round_]
                self.disk.states = [s for s in self.disk.states if s.round < round_]
            case a.Rebased(snapshot, kept):
                self.disk.base, self.disk.commits = snapshot, list(kept)

    # ---- work -----------------------------------------------------------------------------------

    def train(self, tokens: int = ASSIGNED.tokens) -> None:
        order, self.order = self.order, None
        assert order is not None, f"{self.name} was not asked to train"
        self.take(e.Trained(order.round, tokens, order.steps))

    def encode(self, order: a.Encode) -> None:
        """At once. A contribution that may become the update itself is on disk before it is offered."""
        assert self.peer is not None
        seed = f"{self.name} {order.round} {self.swarm.now_ms}".encode()
        sizes = self.peer.config.part_bytes(order.round % self.swarm.manifest.rounds.fragments, order.parts)
        assert order.round > self.peer.round or sizes == self.peer.terms.part_bytes
        parts = tuple(BlobRef(digest_of(seed, bytes([part])), size) for part, size in enumerate(sizes))
        for ref in parts:
            self.store(ref.digest, result=order.lasting)
        self.take(e.Encoded(order.round, parts))

    def do(self, chore: a.Action) -> None:
        match chore:
            case a.Fetch(ref, holders):
                holder = self.swarm.holder(self, holders, lambda m: m.has(ref.digest))
                if holder is not None and holder.stalls:
                    return  # it began to give, and neither ends nor fails
                if holder is not None:
                    self.store(ref.digest, chore.kind == "result")
                self.take(e.BlobArrived(ref.digest) if holder else e.BlobFailed(ref.digest))
            case a.Aggregate():
                self.aggregate(chore)
            case a.Apply(body):
                self.keep(self.step(body))
            case a.LoadState(round_, anchor, blobs, holders):
                state = e.StateLoaded(round_, anchor, blobs)
                had = self.swarm.holder(
                    self, holders, lambda m: any(s.anchor == anchor for s in m.disk.states)
                )
                if had is None:
                    self.take(e.StateFailed(round_))
                else:
                    self.keep(state)

    def aggregate(self, order: a.Aggregate) -> None:
        assert order.inputs
        assert all(0 < weight <= ASSIGNED.tokens for _, weight, _ in order.inputs)
        assert all(self.has(ref.digest) for _, _, ref in order.inputs)
        pieces = (f"{who} {weight} {ref.digest}".encode() for who, weight, ref in order.inputs)
        assert self.peer is not None
        sizes = self.peer.config.part_bytes(order.round % self.swarm.manifest.rounds.fragments, order.parts)
        blob = BlobRef(digest_of(b"mean", *pieces), sizes[order.part])
        self.store(blob.digest, result=True)
        self.take(e.Aggregated(order.round, order.view, order.sum, order.part, blob))

    def step(self, body: Body) -> e.StateLoaded:
        """The outer step that a commit decided."""
        state = self.disk.states[-1]
        assert state.anchor == body.anchor
        assert all(self.has(ref.digest) for ref in body.blobs)
        update, fragments = (
            [digest_bytes(ref.digest) for ref in body.blobs],
            self.swarm.manifest.rounds.fragments,
        )
        assert body.fragment == body.round % fragments
        changed = blobs_of(state.blobs, body.fragment, fragments)
        return state_of(
            body.round,
            [
                BlobRef(digest_of(b"step", digest_bytes(r.digest), *update), r.size) if r in changed else r
                for r in state.blobs
            ],
        )

    def keep(self, state: e.StateLoaded) -> None:
        self.disk.states.append(state)
        self.take(state)


def reads_as_written(message: Message, epoch: int) -> bool:
    """Whether a peer that knows the members of the round would read just this."""
    match message:
        case Commits(commits=(first, *_)):
            body: Body | None = first.body
        case Propose(body=proposed) | Promise(accepted=(_, proposed)):
            body = proposed
        case _:
            body = None
    known = {body.parent: body.before} if body is not None else {}
    return decode_with_epoch(encode(message, epoch), known.get) == (epoch, message)


def state_of(round_: int, blobs: list[BlobRef]) -> e.StateLoaded:
    return e.StateLoaded(round_, digest_of(*(digest_bytes(ref.digest) for ref in blobs)), tuple(blobs))


class Swarm:
    """The members begin at round 1 with the initial state; `outsiders` know the manifest and nothing else."""

    def __init__(self, members: list[str], outsiders: list[str], rules: RoundRules, order: Order) -> None:
        self.manifest = manifest(rules)
        everybody = sorted((member(name) for name in members), key=lambda m: m.peer)
        run, authority = order.run_id(members, rules.votes), peer("authority")
        start = (run, self.manifest.anchor, tuple(everybody), authority, rules.committee_max, rules.votes)
        self.genesis = Genesis(*start)
        self.machines = {name: Machine(self, name) for name in (*members, *outsiders)}
        self.by_id = {machine.id: machine for machine in self.machines.values()}
        self.now_ms = 0
        self.mail: deque[tuple[Machine, Machine, Message, int]] = deque()
        self.timers: list[tuple[int, Machine, e.Timer]] = []
        self.chores: deque[tuple[Machine, a.Action]] = deque()
        self.history: dict[tuple[int, int], Digest] = {}
        self.anchors: dict[Digest, Digest] = {self.genesis.run_id: self.manifest.anchor}
        for name in members:
            self.machines[name].disk.states.append(state_of(0, list(initial_blobs(rules.fragments))))
            self.machines[name].start()

    @property
    def alive(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.peer is not None]

    # ---- what must always hold ------------------------------------------------------------------

    def check(self, machine: Machine) -> None:
        """One history in each epoch, one anchor after each commit."""
        assert machine.peer is not None
        ledger, state = machine.peer.ledger, machine.peer.catchup.state
        for body in (commit.body for commit in ledger.commits):
            digest = self.history.setdefault((body.epoch, body.round), body.digest)
            assert digest == body.digest, f"two commits of round {body.round}"
        if state is not None and ledger.begin <= state.round <= ledger.height:
            anchor = self.anchors.setdefault(ledger.digest_of_round(state.round), state.anchor)
            assert anchor == state.anchor, f"two anchors after round {state.round}"

    # ---- the world ------------------------------------------------------------------------------

    def touch(self, one: Machine, other: Machine) -> bool:
        return one is other or (one.in_touch and other.in_touch)

    def holder(
        self, asker: Machine, holders: tuple[PeerId, ...], has: Callable[[Machine], bool]
    ) -> Machine | None:
        machines = [self.by_id[holder] for holder in holders]
        return next((m for m in machines if m.peer and self.touch(asker, m) and has(m)), None)

    def step(self) -> bool:
        """Deliver one letter, or do one chore; whether there was any."""
        if self.mail:
            sender, receiver, message, epoch = self.mail.popleft()
            if receiver.peer is not None and self.touch(sender, receiver):
                receiver.take(e.Received(sender.id, message, epoch))
        elif self.chores:
            machine, chore = self.chores.popleft()
            if machine.peer is not None:
                machine.do(chore)
        else:
            return False
        return True

    def deliver(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Until nothing is under way, or until something has happened; no time passes."""
        for _ in range(DELIVERIES_MAX):
            if until():
                return True
            if not self.step():
                return until()
        raise AssertionError("the peers never come to rest")

    def pass_time(self, for_ms: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Timers fire in order, and everything that follows is delivered at once."""
        end_ms = self.now_ms + for_ms
        while not self.deliver(until):
            due = min((at for at, _, _ in self.timers), default=end_ms + 1)
            if due > end_ms:
                self.now_ms = end_ms
                return False
            index = next(i for i, (at, _, _) in enumerate(self.timers) if at == due)
            self.now_ms, machine, timer = self.timers.pop(index)
            if machine.peer is not None:
                machine.take(e.TimerFired(timer))
        return True

    def kill(self, name: str) -> None:
        """The process is gone with its memory; letters from and to it are lost."""
        dead = self.machines[name]
        dead.peer = None
        dead.fresh()
        self.forget(dead)

    def forget(self, machine: Machine) -> None:
        self.mail = deque(letter for letter in self.mail if machine not in letter[:2])
        self.chores = deque(chore for chore in self.chores if chore[0] is not machine)
        self.timers = [timer for timer in self.timers if timer[1] is not machine]


@dataclass(frozen=True)
class Order:
    """Who is to lead round 1, and to own its parts: a run id is looked for under which chance has it so."""

    leaders: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()

    def run_id(self, members: list[str], votes: str = "majority") -> Digest:
        """In two-thirds runs the rotation has moved on by one in round 1, and owners differ by view."""
        voters = [peer(name) for name in members]
        workers = [peer(name) for name in members if not member(name).role]
        for attempt in range(100_000):
            run = digest_of(b"scenario", str(attempt).encode())
            lasting = votes == "two-thirds"
            order = by_hash(run, voters, "leader")
            leaders = (order[1:] + order[:1] if lasting else order)[: len(self.leaders)]
            owners = by_hash(run, workers, "owner 0" if lasting else "owner")[: len(self.owners)]
            if (leaders, owners) == (list(map(peer, self.leaders)), list(map(peer, self.owners))):
                return run
        raise AssertionError(f"no run id gives {self}")
