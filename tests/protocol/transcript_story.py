"""What the sentences of a transcript are about: a swarm by the names of its machines, and what they did."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from swarm_driver import Machine, Swarm

from atoll.protocol import actions as a
from atoll.protocol import messages as m
from atoll.protocol.ids import PeerId
from atoll.protocol.peer import Peer


def sends(kind: type) -> Callable[[a.Action], bool]:
    return lambda action: isinstance(action, a.Send) and isinstance(action.message, kind)


def writes(kind: type) -> Callable[[a.Action], bool]:
    return lambda action: isinstance(action, a.Persist) and isinstance(action.record, kind)


DEEDS: dict[str, Callable[[a.Action], bool]] = {
    "offers": sends(m.Offer),
    "plans": sends(m.Plan),
    "reports": sends(m.Held),
    "cuts": sends(m.Cut),
    "votes": sends(m.Vote),
    "sums": lambda action: isinstance(action, a.Aggregate),
    "hands in its sum": sends(m.Reduced),
    "proposes": writes(a.Proposed),
    "accepts": writes(a.Accepted),
    "promises": writes(a.Promised),
    "commits": writes(a.Committed),
    "drops commits": writes(a.Rewound),
    "prunes": writes(a.Rebased),
    "seals": sends(m.Seal),
    "answers with commits": sends(m.Commits),
    "loads a state": lambda action: isinstance(action, a.LoadState),
    "locks": sends(m.Lock),
    "gives its first vote": writes(a.Prepared),
    "notes evidence": writes(a.Accused),
    "is asked to train": lambda action: isinstance(action, a.Train),
    "ends": lambda action: isinstance(action, a.Ended),
}


@dataclasses.dataclass
class Story:
    """A swarm, and what came of the last message that somebody should not have sent."""

    swarm: Swarm
    answer: tuple[Machine, list[a.Action], bool] | None = None

    def called(self, names: str) -> list[Machine]:
        if names == "everybody":
            return [machine for machine in self.swarm.alive if machine.in_touch]
        return [self.swarm.machines[name] for name in names.split()]

    def peer(self, name: str) -> Peer:
        found = self.swarm.machines[name].peer
        assert found is not None, f"{name} is dead"
        return found

    def name(self, who: PeerId) -> str:
        return self.swarm.by_id[who].name

    def commit(self, round_: str) -> Any:
        """As somebody who is alive has it; that all have the same is the driver's concern."""
        number = int(round_)
        ledgers = [self.peer(machine.name).ledger for machine in self.swarm.alive]
        ledger = max(ledgers, key=lambda ledger: ledger.height)
        assert ledger.height >= number, f"the ledger has {ledger.height} commits"
        return ledger.commit(number)

    def report(self) -> str:
        lines = [f"after {self.swarm.now_ms} ms:"]
        for machine in self.swarm.alive:
            p = self.peer(machine.name)
            lines.append(f"  {machine.name}: round {p.round} view {p.view}, {p.phase}: {p.why}")
        return "\n".join(lines)


def essence(p: Peer) -> str:
    """All that a peer knows, but for when it heard of whom and what it says about it."""
    passing = {"heard", "why", "asked_ms", "now_ms", "lost"}
    return repr(sorted((name, value) for name, value in vars(p).items() if name not in passing))


NAME, NAMES = r"(\w+)", r"(everybody|\w+(?: \w+)*)"
DEED = f"({'|'.join(DEEDS)})"
