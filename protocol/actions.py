"""What a peer wants done. The shell performs actions in order; a `Persist` is on disk before the next one."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.protocol.commits import Body, Commit, Snapshot
from atoll.protocol.events import Timer
from atoll.protocol.ids import BlobRef, Digest, PeerId
from atoll.protocol.messages import Message
from atoll.protocol.proofs import Equivocation, Sighting, Signatures


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message, with the epoch of this peer's ledger."""

    to: tuple[PeerId, ...]
    message: Message
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class SetTimer:
    timer: Timer
    after_ms: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get a blob from any of `holders`, in this order; asking again while it is under way changes nothing.

    One that is got `ahead` is of the next round.
    """

    ref: BlobRef
    holders: tuple[PeerId, ...]
    kind: str
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Train:
    """Run the worker for a round, the present one or a later one. Replaces a round still running.

    The contribution is to what the state is now of the round's fragment. `shard` is (index, count): this
    member's place among those that train, or its unit's among the units.
    """

    round: int
    steps: int
    shard: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Encode:
    """Encode a contribution to `round` in so many parts. Answered by Encoded.

    A `lasting` contribution is on disk first, as a result is: it may become part of the update as it is.
    `begun` is the round of the Train that it is of: an earlier one, where it comes late.
    """

    round: int
    parts: int
    lasting: bool
    begun: int


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Form and encode the weighted mean of one part, in this order of contributors.

    `sum` tells it from other sums of that view, which may be of the same part.
    """

    round: int
    view: int
    sum: int
    part: int
    parts: int
    inputs: tuple[tuple[PeerId, int, BlobRef], ...]


@dataclass(frozen=True, slots=True)
class Apply:
    """Take the outer step that this body decided for its fragment. Answered by StateLoaded.

    All its blobs are held: the encoded mean in parts or, in a sparse exchange, the contributions in the order
    of the contributors, to be summed with their weights.
    """

    body: Body


@dataclass(frozen=True, slots=True)
class Settle:
    """What became of what was trained for `round`: part of an update, or carried or dropped."""

    round: int
    included: bool
    late: str


@dataclass(frozen=True, slots=True)
class LoadState:
    """Fetch a whole state from any of `holders`. Answered by StateLoaded or StateFailed."""

    round: int
    anchor: Digest
    blobs: tuple[BlobRef, ...]
    holders: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Audited:
    """A contribution to be measured: its blobs, its member's shard and at which of its steps to look."""

    target: PeerId
    parts: tuple[BlobRef, ...]
    shard: tuple[int, int]
    steps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """Measure how far each of these contributions to `round`, taken alone, lowers the loss from `anchor`.

    The anchor is that of the state before the round. The blobs are held. Answered by Scored, in a round's
    time; training comes first.
    """

    round: int
    anchor: Digest
    works: tuple[Audited, ...]


@dataclass(frozen=True, slots=True)
class Persist:
    """Must be on disk before the next action is performed."""

    record: Record


@dataclass(frozen=True, slots=True)
class Promised:
    round: int
    view: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """`certificate` are the first-stage votes that made it acceptable, where there are two stages."""

    round: int
    view: int
    body: Body
    certificate: Signatures = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """This peer's one first-stage vote of a view, and its leader's, which proves what was proposed."""

    epoch: int
    round: int
    seen: Sighting


@dataclass(frozen=True, slots=True)
class Accused:
    """Kept until a commit has it, or its peer is no member any more."""

    round: int
    evidence: Equivocation


@dataclass(frozen=True, slots=True)
class Proposed:
    """A leader proposes one body in a view, whatever it forgets in between."""

    round: int
    view: int
    body: Body


@dataclass(frozen=True, slots=True)
class Committed:
    commit: Commit


@dataclass(frozen=True, slots=True)
class Rewound:
    """Commits from `round` on are history no more, nor are states of these rounds: a recovery follows."""

    round: int


@dataclass(frozen=True, slots=True)
class Rebased:
    """The ledger begins after this snapshot; of what is there already, the commits after it remain."""

    snapshot: Snapshot
    kept: tuple[Commit, ...]


Record = Promised | Accepted | Proposed | Prepared | Accused | Committed | Rewound | Rebased


@dataclass(frozen=True, slots=True)
class Forget:
    """Blobs of rounds before this one are not needed any more."""

    before_round: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A peer broke the rules: to be counted, with the reason that it was told."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """This peer's part is over: it left, or the run has all its rounds."""

    reason: str


Action = (
    Send
    | SetTimer
    | Fetch
    | Train
    | Encode
    | Aggregate
    | Apply
    | Settle
    | LoadState
    | Persist
    | Forget
    | Rejected
    | Ended
    | Audit
)
