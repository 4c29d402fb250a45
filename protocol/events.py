"""What happens to a peer. The shell (a daemon, or the simulator) turns the world into these."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.protocol.ids import BlobRef, Digest, PeerId
from atoll.protocol.messages import Message


@dataclass(frozen=True, slots=True)
class Timer:
    """Names a moment that the peer asked for. One that no longer matters is ignored when it fires."""

    name: str
    round: int
    view: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The process runs, its ledger and promises are loaded; this state and these blobs were on disk."""

    state: StateLoaded | None = None
    held: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """A message arrived whose sender is proven; `epoch` is that of the sender's ledger."""

    sender: PeerId
    message: Message
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class TimerFired:
    timer: Timer


@dataclass(frozen=True, slots=True)
class Trained:
    """The worker finished, or stopped early. What it did is encoded when `Encode` asks for it."""

    round: int
    tokens: int
    steps: int
    train_ms: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """The contribution to `round` is encoded in parts that can be served."""

    round: int
    parts: tuple[BlobRef, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """The worker is at inner step `steps` of the round."""

    round: int
    steps: int


@dataclass(frozen=True, slots=True)
class BlobArrived:
    """A blob is held and decodes to what its kind promises; results are on disk too."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class BlobFailed:
    """None of the holders that were named gave the blob."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The weighted mean of a part is encoded, on disk, and can be served."""

    round: int
    view: int
    sum: int
    part: int
    blob: BlobRef


@dataclass(frozen=True, slots=True)
class StateLoaded:
    """The peer has the state after `round`, made of these blobs."""

    round: int
    anchor: Digest
    blobs: tuple[BlobRef, ...]


@dataclass(frozen=True, slots=True)
class StateFailed:
    round: int


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The transport says that nobody answers there any more."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Found:
    """Peers of this run that discovery knows: whom an outsider may ask."""

    peers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The volunteer asks to go: after contributing to the round in progress, or at once."""

    now: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """The volunteer wants its machine for itself: vote and keep up, but do not train; or go on."""

    on: bool


@dataclass(frozen=True, slots=True)
class Recover:
    """The researcher says that a majority is lost for good: a new epoch with `keep`, or whoever is here.

    Only a peer that holds the authority's key can.
    """

    keep: tuple[PeerId, ...] = ()


@dataclass(frozen=True, slots=True)
class Fall:
    """What one contribution, taken alone, lowers the loss by: as in a Score, so clamped as one."""

    target: PeerId
    heldout: int
    assigned: int
    control: int


@dataclass(frozen=True, slots=True)
class Scored:
    """What was measured of the contributions to `round`; of those that could not be, nothing."""

    round: int
    falls: tuple[Fall, ...]


Event = (
    Started
    | Received
    | TimerFired
    | Trained
    | Encoded
    | Progress
    | BlobArrived
    | BlobFailed
    | Aggregated
    | StateLoaded
    | StateFailed
    | PeerLost
    | Found
    | Finish
    | Pause
    | Recover
    | Scored
)
