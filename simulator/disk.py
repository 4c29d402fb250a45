"""What of a peer survives its crash: records whose write was completed, results, and the last few states.

As on a real node, a record that was cut off in the middle is cut away when the log is read, results whose
digest is wrong are thrown away at the start, and damaged states are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.protocol import actions as a
from atoll.protocol.commits import Commit, Kind, Snapshot
from atoll.protocol.events import StateLoaded
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.keys import Signer
from atoll.protocol.ledger import Genesis, Ledger
from atoll.protocol.peer import Saved

STATES_KEPT = 2


@dataclass(slots=True)
class Disk:
    """`rotten` are the digests of results, and the anchors of states, whose bytes are not what they were."""

    base: Snapshot | None = None
    commits: list[Commit] = field(default_factory=list)
    promised: a.Promised | None = None
    accepted: a.Accepted | None = None
    proposed: a.Proposed | None = None
    prepared: a.Prepared | None = None
    evidence: dict[PeerId, a.Accused] = field(default_factory=dict)
    results: dict[Digest, int] = field(default_factory=dict)
    states: list[StateLoaded] = field(default_factory=list)
    rotten: set[Digest] = field(default_factory=set)
    last_was_commit: bool = False

    def write(self, record: a.Record) -> None:
        self.last_was_commit = (
            isinstance(record, a.Committed) and record.commit.body.kind is not Kind.RECOVERY
        )
        match record:
            case a.Committed(commit):
                self.commits.append(commit)
            case a.Rewound(round_):
                self.commits = [commit for commit in self.commits if commit.body.round < round_]
                self.states = [state for state in self.states if state.round < round_]
            case a.Rebased(snapshot, kept):
                self.base, self.commits = snapshot, list(kept)
            case a.Promised():
                self.promised = record
            case a.Accepted():
                self.accepted = record
            case a.Proposed():
                self.proposed = record
            case a.Prepared():
                self.prepared = record
            case a.Accused(_, evidence):
                self.evidence[evidence.peer] = record

    def tear(self) -> bool:
        """Cut the last record of the log, if it was the last write of all; whether it was.

        A promise written after it would show that it had reached the disk. A recovery is flushed at once:
        an authority that forgets the one it signed would begin the same epoch twice.
        """
        if self.last_was_commit and self.commits:
            self.commits.pop()
            self.last_was_commit = False
            return True
        return False

    def rot(self, digests: list[Digest]) -> None:
        self.rotten.update(digests)

    def check(self) -> None:
        """What a starting node finds damaged it throws away or passes over."""
        self.results = {digest: at for digest, at in self.results.items() if digest not in self.rotten}
        self.states = [state for state in self.states if state.anchor not in self.rotten]
        self.rotten.clear()

    def save(self, digest: Digest, round_: int) -> None:
        """Write a result; one written anew is sound again."""
        self.results[digest] = round_
        self.rotten.discard(digest)

    def keep(self, state: StateLoaded) -> None:
        """The newest states; older ones go."""
        self.states = [*(s for s in self.states if s.anchor != state.anchor), state][-STATES_KEPT:]
        self.rotten.discard(state.anchor)

    @property
    def epoch(self) -> int:
        return self.commits[-1].body.epoch if self.commits else self.base.epoch if self.base else 0

    def newest(self) -> StateLoaded | None:
        """The newest state that the log knows of."""
        height = len(self.commits) + (self.base.round if self.base else 0)
        known = [state for state in self.states if state.round <= height]
        return known[-1] if known else None

    def state_of(self, anchor: Digest) -> StateLoaded | None:
        return next((state for state in self.states if state.anchor == anchor), None)

    def forget(self, before_round: int) -> None:
        if min(self.results.values(), default=before_round) < before_round:
            self.results = {digest: at for digest, at in self.results.items() if at >= before_round}

    def ledger(self, genesis: Genesis, signer: Signer) -> Ledger:
        """The ledger, verified again as it is read."""
        ledger = Ledger(genesis)
        if self.base is not None:
            ledger.rebase(self.base)
        for commit in self.commits:
            ledger.append(commit, signer)
        return ledger

    def saved(self) -> Saved:
        saved = Saved()
        if self.promised is not None:
            saved.promised = (self.promised.round, self.promised.view)
        if self.accepted is not None:
            saved.accepted = (self.accepted.round, self.accepted.view, self.accepted.body)
            saved.certificate = self.accepted.certificate
        if self.proposed is not None:
            saved.proposed = (self.proposed.round, self.proposed.view, self.proposed.body)
        if self.prepared is not None:
            saved.prepared = (self.prepared.epoch, self.prepared.round, self.prepared.seen)
        saved.evidence = tuple(record.evidence for record in self.evidence.values())
        return saved
