"""An owner's part in an exchange: fetch a column, report what is held, sum it for the set that is cut.

A column that is all here is summed before the cut: most often nobody is left out of it, and the sum is ready
when it comes. Else it is summed again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from atoll.protocol.actions import Aggregate
from atoll.protocol.commits import Contributor
from atoll.protocol.events import Aggregated
from atoll.protocol.ids import BlobRef, Digest, PeerId
from atoll.protocol.messages import Cut, Held, Plan, Reduced
from atoll.protocol.replicas import name_of


@dataclass(slots=True)
class OwnedPart:
    """One part of the vector, and every participant's contribution to it.

    `mean` is that of `summed`, in the sum number `sum`; the leader was told in revision `told` of the cut.
    """

    part: int
    revision: int
    participants: tuple[Contributor, ...]
    column: dict[PeerId, BlobRef]
    arrived: set[PeerId] = field(default_factory=set)
    failed: set[PeerId] = field(default_factory=set)
    lacking: set[PeerId] = field(default_factory=set)
    impatient: bool = False
    sum: int = 0
    summed: tuple[Contributor, ...] = ()
    mean: BlobRef | None = None
    told: int = 0

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

    def to_sum(self, cut: Cut | None) -> tuple[Contributor, ...]:
        """Whose mean this part is to be, as far as is known; nobody's while something is missing."""
        if cut is None:
            return self.participants if len(self.arrived) == len(self.column) else ()
        return () if self.lacking else cut.contributors

    def answers(self, cut: Cut | None) -> bool:
        """Whether the mean of just that set is here."""
        return cut is not None and self.mean is not None and self.summed == cut.contributors


@dataclass(slots=True)
class Owning:
    """The parts that this peer owns in one view. Decides what to fetch, report and sum."""

    round: int
    view: int
    parts_total: int
    parts: dict[int, OwnedPart] = field(default_factory=dict)
    cut: Cut | None = None
    named: bytes = b""
    begun: int = 0
    hold_end_ms: int = 0
    asking: bool = False
    sums_begun: int = 0
    _of: dict[Digest, list[tuple[OwnedPart, PeerId]]] = field(default_factory=dict)

    def renew(self, plan: Plan, hold_end_ms: int) -> None:
        """Drop what belongs to an exchange that its leader gave up for this one, with other participants."""
        self.begun, self.parts, self.hold_end_ms = plan.revision, {}, hold_end_ms
        self.named = name_of(plan.participants)
        if self.cut is not None and self.cut.revision < plan.revision:
            self.cut = None

    def plan(self, plan: Plan, held: Collection[Digest]) -> bool:
        """Take over the columns of a plan; whether one was new. A known one stays as it is."""
        new = False
        peers = [participant.peer for participant in plan.participants]
        for column in plan.columns:
            known = self.parts.get(column.part)
            if known is None or known.revision < plan.revision:
                blobs = dict(zip(peers, column.blobs, strict=True))
                owned = OwnedPart(column.part, plan.revision, plan.participants, blobs)
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
                if peer in needed and peer not in owned.arrived
            ]
        return wanted

    def reports(self, told: Mapping[int, int] = MappingProxyType({})) -> list[Held]:
        """What the leader should know and cannot know yet; `told` says how much it was told of each part."""
        return [
            Held(self.round, self.view, owned.part, tuple(sorted(owned.arrived)), self.named)
            for owned in self.parts.values()
            if owned.settled and told.get(owned.part) != len(owned.arrived) and not self._answers_cut(owned)
        ]

    def _answers_cut(self, owned: OwnedPart) -> bool:
        return self.cut is not None and not owned.lacking

    def sums(
        self, ordered: Callable[[tuple[Contributor, ...]], Sequence[Contributor]] = tuple
    ) -> list[Aggregate]:
        """Parts whose contributions are all here and that are not being summed yet, as sums so `ordered`."""
        ready = []
        for owned in self.parts.values():
            contributors = owned.to_sum(self.cut)
            if contributors and owned.summed != contributors:
                self.sums_begun += 1
                owned.sum, owned.summed, owned.mean = self.sums_begun, contributors, None
                inputs = tuple((c.peer, c.weight, owned.column[c.peer]) for c in ordered(contributors))
                ready.append(
                    Aggregate(self.round, self.view, owned.sum, owned.part, self.parts_total, inputs)
                )
        return ready

    def aggregated(self, event: Aggregated) -> bool:
        """Remember a sum; False if another one has begun meanwhile."""
        owned = self.parts.get(event.part)
        if owned is None or owned.sum != event.sum:
            return False
        owned.mean = event.blob
        return True

    def news(self) -> list[Reduced]:
        """Sums of the set that was cut last, which the leader was not told of since."""
        news = []
        for owned in self.parts.values():
            if self.cut is not None and owned.answers(self.cut) and owned.told != self.cut.revision:
                owned.told = self.cut.revision
                news.append(self._reduced(owned, self.cut))
        return news

    def results(self) -> list[Reduced]:
        """All sums of the set that was cut last."""
        cut = self.cut
        return [] if cut is None else [self._reduced(o, cut) for o in self.parts.values() if o.answers(cut)]

    def _reduced(self, owned: OwnedPart, cut: Cut) -> Reduced:
        assert owned.mean is not None
        return Reduced(self.round, self.view, cut.revision, owned.part, owned.mean)
