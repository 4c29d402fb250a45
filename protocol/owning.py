"""An owner's part in an exchange: fetch a column, report what is held, sum it when the set is cut."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from atoll.protocol.actions import Aggregate
from atoll.protocol.ids import BlobRef, Digest, PeerId
from atoll.protocol.messages import Cut, Held, Plan, Reduced


@dataclass(slots=True)
class OwnedPart:
    """One part of the vector, and every participant's contribution to it."""

    part: int
    revision: int
    column: dict[PeerId, BlobRef]
    arrived: set[PeerId] = field(default_factory=set)
    failed: set[PeerId] = field(default_factory=set)
    impatient: bool = False
    summing: int = 0
    reduced: Reduced | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing more is waited for: the rest arrived, failed, or took too long."""
        return bool(self.arrived) and (self.impatient or len(self.arrived | self.failed) == len(self.column))


@dataclass(slots=True)
class Owning:
    """The parts that this peer owns in one view. Decides what to fetch, report and sum."""

    round: int
    view: int
    parts_total: int
    parts: dict[int, OwnedPart] = field(default_factory=dict)
    cut: Cut | None = None

    def plan(self, plan: Plan, held: Collection[Digest]) -> bool:
        """Take over the columns of a plan; whether one was new. A known one stays as it is."""
        new = False
        peers = [participant.peer for participant in plan.participants]
        for column in plan.columns:
            known = self.parts.get(column.part)
            if known is None or known.revision < plan.revision:
                owned = OwnedPart(column.part, plan.revision, dict(zip(peers, column.blobs, strict=True)))
                owned.arrived = {peer for peer, ref in owned.column.items() if ref.digest in held}
                self.parts[column.part], new = owned, True
        return new

    def arrived(self, digest: Digest) -> None:
        for owned in self.parts.values():
            owned.arrived |= {peer for peer, ref in owned.column.items() if ref.digest == digest}
            owned.failed -= owned.arrived

    def failed(self, digest: Digest) -> None:
        for owned in self.parts.values():
            owned.failed |= {
                peer for peer, ref in owned.column.items() if ref.digest == digest
            } - owned.arrived

    def impatient(self) -> None:
        for owned in self.parts.values():
            owned.impatient = True

    def missing(self) -> list[tuple[PeerId, BlobRef]]:
        """What is still to be fetched, and from whom."""
        wanted = []
        for owned in self.parts.values():
            needed = {c.peer for c in self.cut.contributors} if self.cut else set(owned.column)
            wanted += [
                (peer, ref)
                for peer, ref in owned.column.items()
                if peer in needed and peer not in owned.arrived and owned.reduced is None
            ]
        return wanted

    def reports(self) -> list[Held]:
        """What the leader should know and cannot know yet."""
        return [
            Held(self.round, self.view, owned.part, tuple(sorted(owned.arrived)))
            for owned in self.parts.values()
            if owned.settled and not self._answers_cut(owned)
        ]

    def _answers_cut(self, owned: OwnedPart) -> bool:
        return self.cut is not None and owned.arrived.issuperset(c.peer for c in self.cut.contributors)

    def sums(self) -> list[Aggregate]:
        """Parts whose contributions are all here and that are not being summed for this cut."""
        if self.cut is None:
            return []
        ready = []
        for owned in self.parts.values():
            if self._answers_cut(owned) and owned.summing != self.cut.revision:
                owned.summing, owned.reduced = self.cut.revision, None
                inputs = tuple((c.peer, c.weight, owned.column[c.peer]) for c in self.cut.contributors)
                ready.append(
                    Aggregate(self.round, self.view, self.cut.revision, owned.part, self.parts_total, inputs)
                )
        return ready

    def aggregated(self, reduced: Reduced) -> Reduced | None:
        """Remember a sum; None if the cut has moved on meanwhile."""
        owned = self.parts.get(reduced.part)
        if owned is None or self.cut is None or reduced.revision != self.cut.revision:
            return None
        owned.reduced = reduced
        return reduced

    def results(self) -> list[Reduced]:
        return [owned.reduced for owned in self.parts.values() if owned.reduced is not None]
