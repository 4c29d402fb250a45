"""A peer: a deterministic state machine. `actions = peer.handle(event, now_ms)`; no I/O, clock or randomness.

This module holds the state and the tables that say which function takes which event or message; the functions
are in duties/, one module for each role. The rules they follow are in terms.py, leading.py, owning.py,
collecting.py, working.py and catchup.py. Agreement is single-decree Paxos for each round, with view 0 free
of promises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.auditing import Auditing
from atoll.protocol.catchup import Catchup, rotated
from atoll.protocol.collecting import Collecting
from atoll.protocol.commits import Body, Snapshot
from atoll.protocol.duties import (
    ahead,
    auditor,
    chain,
    collector,
    leader,
    owner,
    recovery,
    repeat,
    rounds,
    stages,
    voter,
    worker,
)
from atoll.protocol.evidence import Notebook
from atoll.protocol.ids import BlobRef, Digest, PeerId, readable
from atoll.protocol.keys import Signer
from atoll.protocol.leading import Leading, Outbox
from atoll.protocol.ledger import Ledger
from atoll.protocol.manifest import Manifest
from atoll.protocol.owning import Owning
from atoll.protocol.phases import phase_of
from atoll.protocol.proofs import Equivocation, Farewell, Joining, Sighting, Signatures
from atoll.protocol.roster import MEMBERS_MAX, Role
from atoll.protocol.terms import Terms
from atoll.protocol.views import Views
from atoll.protocol.waiting import Syncs
from atoll.protocol.working import Work, Working

PEERS_MAX = 2 * MEMBERS_MAX


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """What a peer is told once. `part_bytes(fragment, parts)` gives the encoded size of each part, and
    `uplink()` the bytes per second that this peer was seen to send, 0 as long as that is not known.
    `shard` names the data that it holds, in a run whose members bring their own."""

    manifest: Manifest
    role: Role
    part_bytes: Callable[[int, int], tuple[int, ...]]
    token: bytes = b""
    authority: Signer | None = None
    uplink: Callable[[], int] = lambda: 0
    shard: str = ""


@dataclass(slots=True)
class Saved:
    """What was persisted of the round in progress; survives a crash."""

    promised: tuple[int, int] = (0, 0)
    accepted: tuple[int, int, Body] | None = None
    proposed: tuple[int, int, Body] | None = None
    certificate: Signatures = ()
    prepared: tuple[int, int, Sighting] | None = None
    evidence: tuple[Equivocation, ...] = ()


class Peer:
    # of the round in progress, set by rounds.enter_round
    terms: Terms
    round: int
    since_ms: int
    retries: int
    hops: int
    asked_ms: int
    progress: int
    answered: set[PeerId]
    views: Views
    notebook: Notebook
    # of the view in progress, set by rounds.start_view
    view: int
    leading: Leading | None
    owning: Owning
    collecting: Collecting | None
    proposal: m.Propose | None
    prepared: m.Vote | None
    lock: m.Lock | None
    voted: m.Vote | None
    lacking: set[Digest] | None
    early: dict[int, Digest]
    reported: dict[int, int]
    planned: bool
    plan_ms: int | None
    view_ms: int
    stage_ms: int
    patience_end_ms: int
    fetch_failures: int

    def __init__(self, config: PeerConfig, signer: Signer, ledger: Ledger, saved: Saved) -> None:
        self.config, self.rules, self.signer = config, config.manifest.rounds, signer
        self.me, self.ledger, self.saved = signer.peer, ledger, saved
        self.catchup = Catchup(self.rules.keep_rounds, fragments=self.rules.fragments)
        self.why = "starting"
        self.ended: str | None = None
        self.finishing = self.paused = False
        self.sealed: Snapshot | None = None
        self.early_seal: tuple[PeerId, m.Seal] | None = None
        self.working = Working()
        self.syncs = Syncs()
        self.held: dict[Digest, int] = {}
        self.fetching: set[Digest] = set()
        self.heard: dict[PeerId, int] = {}
        self.lost: set[PeerId] = set()
        self.joiners: dict[PeerId, tuple[Role, int, str]] = {}
        self.following: dict[PeerId, int] = {}
        self.leavers: set[PeerId] = set()
        self.evidence: dict[PeerId, Equivocation] = {e.peer: e for e in saved.evidence}
        self.farewells: dict[PeerId, Farewell] = {}
        self.joinings: dict[PeerId, Joining] = {}
        self.vouchers: dict[PeerId, Digest] = {}
        self.found: tuple[PeerId, ...] = ()
        self.ahead: dict[PeerId, m.Offer] = {}
        self.got_ahead = False
        self.auditing = Auditing()
        self.now_ms = 0
        self.out: list[a.Action] = []
        self.inbox: deque[m.Message] = deque()

    def handle(self, event: e.Event, now_ms: int) -> list[a.Action]:
        """Take one event; the actions are to be performed in order."""
        self.now_ms = now_ms
        if isinstance(event, e.Received):
            receive(self, event.sender, event.message, event.epoch)
        else:
            _EVENTS[type(event)](self, event)
        self.react()
        while self.inbox:
            receive(self, self.me, self.inbox.popleft(), self.ledger.epoch)
            self.react()
        out, self.out = self.out, []
        return out

    def react(self) -> None:
        """Do what has become possible."""
        chain.react(self)
        worker.react(self)
        owner.react(self)
        collector.react(self)
        voter.react(self)
        ahead.react(self)
        auditor.react(self)
        leader.react(self)

    # ---- derived --------------------------------------------------------------------------------

    @property
    def mine(self) -> Work | None:
        """This peer's contribution to the round in progress, once it is encoded."""
        return self.working.offered(self.round)

    @property
    def is_member(self) -> bool:
        return self.me in self.terms.places

    @property
    def leader(self) -> PeerId:
        return self.terms.leader(self.view)

    @property
    def votes(self) -> bool:
        """Whether this member is of those who vote this round; all are, in swarms of usual size."""
        return self.me in self.terms.voting

    @property
    def role(self) -> Role:
        """What this peer wants to be."""
        resting = self.paused and self.config.role is Role.WORKER
        return Role.PAUSED if resting else self.config.role

    @property
    def accepted(self) -> tuple[int, Body] | None:
        """The view and body that this peer accepted last for the round in progress."""
        return self._of_this_round(self.saved.accepted)

    @property
    def proposed(self) -> tuple[int, Body] | None:
        """The view and body that this peer proposed last for the round in progress."""
        return self._of_this_round(self.saved.proposed)

    @property
    def sighting(self) -> Sighting | None:
        """What this peer gave its last first-stage vote to in the round in progress."""
        prepared = self.saved.prepared
        if prepared is None or prepared[:2] != (self.terms.epoch, self.round):
            return None
        return prepared[2]

    def _of_this_round(self, record: tuple[int, int, Body] | None) -> tuple[int, Body] | None:
        if record is None or record[0] != self.round or record[2].parent != self.terms.parent:
            return None
        return record[1:]

    @property
    def ready(self) -> bool:
        """Whether the state has caught up with the ledger."""
        state = self.catchup.state
        return state is not None and state.round + 1 == self.round

    @property
    def active(self) -> bool:
        """Whether this peer takes part in the round: trains, votes, leads."""
        return self.ended is None and not self.terms.complete and self.is_member

    @property
    def phase(self) -> str:
        """One word for a person who looks."""
        return phase_of(self)

    # ---- what every duty uses -------------------------------------------------------------------

    def tell(self, to: PeerId, message: m.Message) -> None:
        """Send to one peer; what one tells oneself is handled before `handle` returns."""
        if to == self.me:
            self.inbox.append(message)
        else:
            self.out.append(a.Send((to,), message, self.ledger.epoch))

    def post(self, outbox: Outbox) -> None:
        for receivers, message in outbox:
            others = tuple(peer for peer in receivers if peer != self.me)
            if others:
                self.out.append(a.Send(others, message, self.ledger.epoch))
            if self.me in receivers:
                self.inbox.append(message)

    def timer(self, name: str, after_ms: int) -> None:
        timer = e.Timer(name, self.round, 0 if name == "retry" else self.view)
        self.out.append(a.SetTimer(timer, max(1, after_ms)))

    def has(self, digest: Digest) -> None:
        """Note that a blob is held."""
        self.held[digest] = self.round
        self.catchup.arrived(digest)
        self.auditing.arrived(digest)
        if self.lacking:
            self.lacking.discard(digest)

    def fetch(self, ref: BlobRef, holders: tuple[PeerId, ...], kind: str, ahead: bool = False) -> None:
        """Ask for a blob once; `repeat` asks again."""
        if holders and ref.digest not in self.fetching:
            self.fetching.add(ref.digest)
            self.out.append(a.Fetch(ref, holders, kind, ahead))

    def refuse(self, sender: PeerId, reason: str) -> None:
        """Count a peer's fault, and tell it."""
        reason = readable(reason)
        self.out.append(a.Rejected(sender, reason))
        if sender != self.me:
            self.tell(sender, m.Refuse(self.round, reason))

    def others(self) -> tuple[PeerId, ...]:
        """Whom one may ask: those who vote, then whoever discovery knows; begun at a place of one's own."""
        known = dict.fromkeys((*self.terms.voters, *self.found))
        known.pop(self.me, None)
        return rotated(tuple(known), self.me, self.round)


def receive(peer: Peer, sender: PeerId, message: m.Message, epoch: int) -> None:
    """Hand a message to who takes it: some are for any round, the others between members of this one.

    Peers of different epochs have nothing to say to each other but the commits that lead to the later one.
    """
    peer.lost.discard(sender)
    if sender in peer.heard or sender in peer.terms.places or len(peer.heard) < PEERS_MAX:
        peer.heard[sender] = peer.now_ms
    anywhere = _ANYWHERE.get(type(message))
    if epoch < peer.ledger.epoch:
        chain.answer_epoch(peer, sender, message, epoch)
    elif epoch > peer.ledger.epoch and not isinstance(message, m.Commits):
        chain.ask_new(peer, sender)
    elif anywhere is not None:
        anywhere(peer, sender, message)
    elif message.round < peer.round:
        chain.answer_old(peer, sender, message.round)
    elif message.round > peer.round or isinstance(message, m.Elsewhere):
        chain.ask_new(peer, sender)
    elif sender not in peer.terms.places:
        peer.refuse(sender, f"you are no member in round {peer.round}")
    elif peer.active:
        if peer.terms.two_thirds:
            rounds.hear_view(peer, sender, message)
        _IN_ROUND[type(message)](peer, sender, message)


_EVENTS: dict[type, Callable[[Peer, Any], None]] = {
    e.Started: rounds.on_started,
    e.TimerFired: lambda peer, event: on_timer(peer, event.timer),
    e.Trained: worker.on_trained,
    e.Encoded: worker.on_encoded,
    e.Progress: worker.on_progress,
    e.BlobArrived: worker.on_blob_arrived,
    e.BlobFailed: worker.on_blob_failed,
    e.Aggregated: owner.on_aggregated,
    e.StateLoaded: chain.on_state_loaded,
    e.StateFailed: chain.on_state_failed,
    e.PeerLost: leader.on_peer_lost,
    e.Found: chain.on_found,
    e.Finish: worker.on_finish,
    e.Pause: worker.on_pause,
    e.Recover: recovery.on_recover,
    e.Scored: auditor.on_scored,
}

_TIMERS: dict[str, Callable[[Peer], None]] = {
    "retry": repeat.on_retry,
    "deadline": rounds.on_deadline,
    "plan": lambda peer: None,  # `react` looks at the clock
    "exchange": leader.on_exchange,
    "hold": owner.on_hold,
    "collect": collector.on_collect,
}

_ANYWHERE: dict[type, Callable[[Peer, PeerId, Any], None]] = {
    m.Commits: chain.on_commits,
    m.AskCommits: chain.on_ask_commits,
    m.AskState: chain.on_ask_state,
    m.State: chain.on_state,
    m.Join: chain.on_join,
    m.Leave: chain.on_leave,
    m.Refuse: chain.on_refuse,
    m.Accuse: stages.on_accuse,
    m.Seal: recovery.on_seal,
    m.Ahead: ahead.on_ahead,
    m.AskParts: auditor.on_ask_parts,
    m.Parts: auditor.on_parts,
}

_IN_ROUND: dict[type, Callable[[Peer, PeerId, Any], None]] = {
    m.Offer: leader.on_offer,
    m.Alive: rounds.on_alive,
    m.Promise: leader.on_promise,
    m.Held: leader.on_held,
    m.Reduced: leader.on_reduced,
    m.Summed: voter.on_summed,
    m.Vote: leader.on_vote,
    m.Waiting: rounds.on_waiting,
    m.Prepare: rounds.on_prepare,
    m.Plan: owner.on_plan,
    m.Cut: owner.on_cut,
    m.Propose: voter.on_propose,
    m.Lock: stages.on_lock,
    m.Scores: auditor.on_scores,
}


def on_timer(peer: Peer, timer: e.Timer) -> None:
    """A timer of another round or view has lost its meaning."""
    if timer.round == peer.round and (timer.name == "retry" or timer.view == peer.view):
        _TIMERS[timer.name](peer)
