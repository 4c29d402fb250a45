"""Two votes of one peer that exclude each other: noticing them, and judging somebody else's find.

A leader signs what it proposes with its own first vote, so a leader that tells two stories and a member that
votes for both are one and the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.protocol.commits import vote_message
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.proofs import Equivocation, Place, Stage, Verify, prepare_message

VIEWS_KEPT = 4


def message_of(place: Place, view: int, stage: Stage, body: Digest) -> bytes:
    """What a vote of this stage signs."""
    if stage is Stage.PREPARE:
        return prepare_message(place, view, body)
    return vote_message(place, view, body)


def objection(run_id: Digest, evidence: Equivocation, verify: Verify) -> str | None:
    """Why this convicts nobody, or None."""
    if evidence.bodies[0] == evidence.bodies[1]:
        return "evidence of two votes for one body"
    if not (0 <= evidence.round < 1 << 63 and 0 <= evidence.view < 1 << 32 and 0 <= evidence.epoch < 1 << 32):
        return "evidence of an absurd round or view"
    place = Place(run_id, evidence.epoch, evidence.round)
    for body, signature in zip(evidence.bodies, evidence.signatures, strict=True):
        message = message_of(place, evidence.view, evidence.stage, body)
        if not verify(evidence.peer, message, signature):
            return f"evidence that {evidence.peer[:60]} did not sign"
    return None


@dataclass(slots=True)
class Notebook:
    """The votes that this peer has seen in one round; signatures are checked before they are noted.

    Only the first vote of each peer, view and stage is kept, and only of the last few views.
    """

    place: Place
    seen: dict[int, dict[tuple[PeerId, Stage], tuple[Digest, bytes]]] = field(default_factory=dict)

    def note(
        self, peer: PeerId, view: int, stage: Stage, body: Digest, signature: bytes
    ) -> Equivocation | None:
        """Remember a vote; evidence if its peer has voted for something else before."""
        if view not in self.seen and len(self.seen) >= VIEWS_KEPT:
            oldest = min(self.seen)
            if view < oldest:
                return None
            del self.seen[oldest]
        first, proof = self.seen.setdefault(view, {}).setdefault((peer, stage), (body, signature))
        if first == body:
            return None
        return Equivocation(
            peer, self.place.epoch, self.place.round, view, stage, (first, body), (proof, signature)
        )
