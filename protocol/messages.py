"""What peers say to each other in a round, as data. `encode` and `decode` are in atoll.protocol.wire.convert.

Every message names its round; those of an exchange also the view (which leader) and, where the leader may
change its mind, the revision. All are idempotent and may be lost, repeated or reordered.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.protocol.audit import Score
from atoll.protocol.commits import Body, Commit, Contributor, Snapshot
from atoll.protocol.ids import BlobRef, Digest, PeerId
from atoll.protocol.proofs import Equivocation, Justification, Sighting, Signatures, Stage
from atoll.protocol.roster import Role


@dataclass(frozen=True, slots=True)
class Offer:
    """Member to leader: my pseudo-gradient is encoded, these are its parts.

    `uplink` is what this peer measured that it can send, in bytes per second; 0 if it did not yet.
    `train_ms` is how long its inner steps took, and `spare_ms` for how long it can train on before it needs
    this round's update. `staleness` counts the updates since the anchor that it started from.
    """

    round: int
    view: int
    anchor: Digest
    tokens: int
    steps: int
    parts: tuple[BlobRef, ...]
    leaving: bool = False
    farewell: bytes = b""
    uplink: int = 0
    train_ms: int = 0
    spare_ms: int = 0
    staleness: int = 0


@dataclass(frozen=True, slots=True)
class Ahead:
    """Worker to members: what I will offer to the next round. Get it when this round's update is here."""

    round: int
    offer: Offer


@dataclass(frozen=True, slots=True)
class Alive:
    """Member to leader, while it trains."""

    round: int
    view: int
    steps: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Leader to members: I am here, and this is what I wait for."""

    round: int
    view: int
    reason: str


@dataclass(frozen=True, slots=True)
class Column:
    """One part of every participant's contribution, in their order."""

    part: int
    blobs: tuple[BlobRef, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Leader to an owner: who takes part, and what the receiver must fetch of them."""

    round: int
    view: int
    revision: int
    participants: tuple[Contributor, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """Owner to leader: of this part I hold what these peers contributed, and no more will come.

    `plan` names the plan that this is about, where a leader may give one up: of replicas.
    """

    round: int
    view: int
    part: int
    peers: tuple[PeerId, ...]
    plan: bytes = b""


@dataclass(frozen=True, slots=True)
class Cut:
    """Leader to owners: the one contributor set; sum in this order with these weights."""

    round: int
    view: int
    revision: int
    contributors: tuple[Contributor, ...]


@dataclass(frozen=True, slots=True)
class Reduced:
    """Owner to leader: the encoded mean of this part."""

    round: int
    view: int
    revision: int
    part: int
    blob: BlobRef


@dataclass(frozen=True, slots=True)
class Summed:
    """Owner to voters: the encoded mean of this part, most likely; get it while others are summed."""

    round: int
    view: int
    part: int
    blob: BlobRef


@dataclass(frozen=True, slots=True)
class Propose:
    """Leader to members: vote for this body once you hold its blobs.

    `holders` have them: all of them, or, `by_part`, each the blob of its place; those of all places may be
    followed by second ones.
    """

    round: int
    view: int
    body: Body
    holders: tuple[PeerId, ...] = ()
    by_part: bool = False
    signature: bytes = b""
    justification: Justification | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """Member to leader: I hold every blob of this body; the signature goes into the certificate."""

    round: int
    view: int
    body: Digest
    signature: bytes
    stage: Stage = Stage.COMMIT


@dataclass(frozen=True, slots=True)
class Lock:
    """Leader to members, between two stages: so many voted that no other body can be this view's."""

    round: int
    view: int
    body: Digest
    votes: Signatures


@dataclass(frozen=True, slots=True)
class Accuse:
    """Member to leader: these peers signed two things; put it on record."""

    round: int
    evidence: tuple[Equivocation, ...]


@dataclass(frozen=True, slots=True)
class Prepare:
    """Leader of a later view to members: promise it to me. Keeps the members in one view."""

    round: int
    view: int


@dataclass(frozen=True, slots=True)
class Promise:
    """Member to the leader of a view: no vote of mine below it; this is what I accepted last.

    Where lies must not matter it is signed, comes with the certificate of what was accepted, and shows
    which proposal the sender voted for last.
    """

    round: int
    view: int
    accepted: tuple[int, Body] | None = None
    signature: bytes = b""
    certificate: Signatures = ()
    seen: Sighting | None = None


@dataclass(frozen=True, slots=True)
class Commits:
    """Certified commits in order, and how far the sender's ledger goes."""

    round: int
    commits: tuple[Commit, ...]
    height: int
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Seal:
    """The authority to members: I signed the snapshot of round `at`, which you can make yourselves."""

    round: int
    at: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What is read of a message about a body that follows a commit which this peer does not have."""

    round: int


@dataclass(frozen=True, slots=True)
class AskCommits:
    """Send me your commits from `round` on."""

    round: int


@dataclass(frozen=True, slots=True)
class Join:
    """I hold the state of round - 1 and want to be a member of the next one."""

    round: int
    role: Role
    token: bytes = b""
    signature: bytes = b""
    shard: str = ""


@dataclass(frozen=True, slots=True)
class Leave:
    round: int
    reason: str = ""
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class AskState:
    round: int


@dataclass(frozen=True, slots=True)
class AskParts:
    """Auditor to a member: name the blobs of what you sent to this round."""

    round: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The blobs of what the sender contributed to a round; the round's commit names their digest."""

    round: int
    parts: tuple[BlobRef, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """Auditor to leader: what I measured of an earlier round's contributions, for this round's commit."""

    round: int
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class State:
    """The state after `round`: its anchor digest and the blobs that it consists of."""

    round: int
    anchor: Digest
    blobs: tuple[BlobRef, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Your message was not accepted, and why."""

    round: int
    reason: str


Message = (
    Offer
    | Ahead
    | Alive
    | Waiting
    | Plan
    | Held
    | Cut
    | Reduced
    | Summed
    | Propose
    | Vote
    | Prepare
    | Promise
    | Commits
    | AskCommits
    | Join
    | Leave
    | AskState
    | State
    | Refuse
    | Lock
    | Accuse
    | Seal
    | Elsewhere
    | AskParts
    | Parts
    | Scores
)
