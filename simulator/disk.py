"""What of a peer survives its crash: records whose write was completed, results, and the last few states."""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.protocol import actions as a
from atoll.protocol.events import StateLoaded
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.keys import Signer
from atoll.protocol.ledger import Commit, Genesis, Ledger
from atoll.protocol.peer import Saved

STATES_KEPT = 2


@dataclass(slots=True)
class Disk:
    commits: list[Commit] = field(default_factory=list)
    promised: a.Promised | None = None
    accepted: a.Accepted | None = None
    proposed: a.Proposed | None = None
    prepared: a.Prepared | None = None
    evidence: dict[PeerId, a.Accused] = field(default_factory=dict)
    results: dict[Digest, int] = field(default_factory=dict)
    states: list[StateLoaded] = field(default_factory=list)

    def write(self, record: a.Record) -> None:
        match record:
            case a.Committed(commit):
                self.commits.append(commit)
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

    def keep(self, state: StateLoaded) -> None:
        """The newest states; older ones go."""
        self.states = [*(s for s in self.states if s.anchor != state.anchor), state][-STATES_KEPT:]

    def state_of(self, anchor: Digest) -> StateLoaded | None:
        return next((state for state in self.states if state.anchor == anchor), None)

    def forget(self, before_round: int) -> None:
        self.results = {digest: at for digest, at in self.results.items() if at >= before_round}

    def ledger(self, genesis: Genesis, signer: Signer) -> Ledger:
        """The ledger, verified again as it is read."""
        ledger = Ledger(genesis)
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
            saved.prepared = (self.prepared.round, self.prepared.seen)
        saved.evidence = tuple(record.evidence for record in self.evidence.values())
        return saved
