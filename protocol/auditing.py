"""An auditor's part: get the contributions that it was drawn for, have them measured, tell who leads."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from atoll.protocol.actions import Audit, Audited
from atoll.protocol.audit import AuditRules, Score, steps_drawn
from atoll.protocol.commits import Body
from atoll.protocol.ids import BlobRef, Digest, PeerId
from atoll.protocol.roster import Role
from atoll.protocol.scores import work_of


@dataclass(slots=True)
class Job:
    """What one commit drew this auditor for. `parts` are the blobs of what targets sent, as far as is known,
    and `lacking` those of them that are not here yet. `asked` is the retry in which it was asked for last."""

    subject: Body
    targets: tuple[PeerId, ...]
    parts: dict[PeerId, tuple[BlobRef, ...]] = field(default_factory=dict)
    lacking: dict[Digest, tuple[PeerId, BlobRef]] = field(default_factory=dict)
    asked: int = -1
    stirred: bool = False
    ordered: bool = False
    scores: tuple[Score, ...] = ()
    told: tuple[int, int] = (-1, -1)

    def named(self, target: PeerId, parts: tuple[BlobRef, ...], held: Collection[Digest]) -> None:
        """Take the blobs that a target says it sent, if they are those that the commit names."""
        works = {one.peer: one.work for one in self.subject.sent}
        sizes = tuple(ref.size for ref in self.subject.blobs)
        if target not in self.targets or target in self.parts or tuple(ref.size for ref in parts) != sizes:
            return
        if work_of(parts) == works[target]:
            self.parts[target], self.stirred = parts, True
            self.lacking.update((ref.digest, (target, ref)) for ref in parts if ref.digest not in held)

    def unnamed(self) -> list[PeerId]:
        return [target for target in self.targets if target not in self.parts]

    @property
    def complete(self) -> bool:
        return not self.lacking and len(self.parts) == len(self.targets)

    def order(self, me: PeerId, held: Collection[Digest], rules: AuditRules, steps_max: int) -> Audit | None:
        """What is here of it, to be measured now; None if nothing is."""
        subject, self.ordered = self.subject, True
        workers = sorted(member.peer for member in subject.before if member.role is Role.WORKER)
        steps = {one.peer: min(one.steps, steps_max) for one in subject.sent}
        works = tuple(
            Audited(
                target,
                parts,
                (workers.index(target), len(workers)),
                steps_drawn(subject.digest, me, target, steps[target], rules.steps),
            )
            for target, parts in sorted(self.parts.items())
            if all(ref.digest in held for ref in parts)
        )
        return Audit(subject.round, subject.anchor, works) if works else None


@dataclass(slots=True)
class Auditing:
    """The jobs of the last rounds, what this peer sent to them, and the scores that it was told as a leader.

    `begun` is the commit that the round follows in which these were begun last.
    """

    begun: Digest | None = None
    jobs: dict[int, Job] = field(default_factory=dict)
    mine: dict[int, tuple[BlobRef, ...]] = field(default_factory=dict)
    told: dict[PeerId, tuple[Score, ...]] = field(default_factory=dict)

    def arrived(self, digest: Digest) -> None:
        for job in self.jobs.values():
            job.lacking.pop(digest, None)

    def begin(self, parent: Digest, rounds: Iterable[int]) -> None:
        """A round begins: what is of other rounds than these has lost its meaning."""
        self.begun, self.told, kept = parent, {}, frozenset(rounds)
        self.jobs = {round_: job for round_, job in self.jobs.items() if round_ in kept}
        self.mine = {round_: parts for round_, parts in self.mine.items() if round_ in kept}
