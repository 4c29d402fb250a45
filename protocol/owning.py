"""An owner's part in an exchange: fetch a column, report what is held, sum it when the set is cut."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

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
    lacking: set[PeerId] = field(default_factory=set)
    impatient: bool = False
    summing: int = 0
    reduced: Reduced | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing more is waited for: the rest arrived, failed, or took too long."""
        return bool(self.arrived) and (
            self.impatient or len(self.arrived) + len(self.failed) == len(self.column)
        )

    def arrive(self, peer: PeerId) -> None:
        self.arrived.add(peer)
        self.failed.discard(peer)
        self.lacking.discard(peer)

    def follow(self, cut: Cut) -> None:
        """What this part lacks of the set that was cut."""
        self.lacking = {c.peer for c in cut.contributors if c.peer not in self.arrived}


@dataclass(slots=True)
class Owning:
    """The parts that this peer owns in one view. Decides what to fetch, report and sum."""

    round: int
    view: int
    parts_total: int
    parts: dict[int, OwnedPart] = field(default_factory=dict)
    cut: Cut | None = None
    asking: bool = False
    _of: dict[Digest, list[tuple[OwnedPart, PeerId]]] = field(default_factory=dict)

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
                if self.cut is not None:
                    owned.follow(self.cut)
        if new:
            self._index()
        return new

    def _index(self) -> None:
        self.asking, self._of = True, {}
        for owned in self.parts.values():
            for peer, ref in owned.column.items():
                self._of.setdefault(ref.digest, []).append((owned, peer))

    def follow(self, cut: Cut) -> None:
        """From now on only this set counts."""
        self.asking, self.cut = True, cut
        for owned in self.parts.values():
            owned.follow(cut)

    def arrived(self, digest: Digest) -> None:
        for owned, peer in self._of.get(digest, ()):
            owned.arrive(peer)

    def failed(self, digest: Digest) -> None:
        for owned, peer in self._of.get(digest, ()):
            if peer not in owned.arrived:
                owned.failed.add(peer)

    def impatient(self) -> None:
        for owned in self.parts.values():
            owned.impatient = True

    def missing(self) -> list[tuple[PeerId, BlobRef]]:
        """What is still to be fetched, and from whom."""
        self.asking, wanted = False, []
        for owned in self.parts.values():
            needed = {c.peer for c in self.cut.contributors} if self.cut else set(owned.column)
            wanted += [
                (peer, ref)
                for peer, ref in owned.column.items()
                if peer in needed and peer not in owned.arrived and owned.reduced is None
            ]
        return wanted

    def reports(self, told: Mapping[int, int] = MappingProxyType({})) -> list[Held]:
        """What the leader should know and cannot know yet; `told` says how much it was told of each part."""
        return [
            Held(self.round, self.view, owned.part, tuple(sorted(owned.arrived)))
            for owned in self.parts.values()
            if owned.settled and told.get(owned.part) != len(owned.arrived) and not self._answers_cut(owned)
        ]

    def _answers_cut(self, owned: OwnedPart) -> bool:
        return self.cut is not None and not owned.lacking

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
