"""What of audits stands in commits: what each member sent, and what auditors measured of it. As bytes, too.

In a body its peers are named by their places among the members of the round, elsewhere by their ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.protocol.audit import Replay, Score
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_bytes, digest_from_bytes, digest_of
from atoll.protocol.roster import checked
from atoll.protocol.wire import messages_pb2 as wire

SCORES_MAX = 64 * 256
"""What the largest panel says of the most targets."""


@dataclass(frozen=True, slots=True)
class Sent:
    """That a member sent a contribution to a round, of so many inner steps, in the blobs that `work` names.

    It is fixed before anybody knows who will look at it, and at which of its steps.
    """

    peer: PeerId
    steps: int
    work: Digest


def work_of(parts: Sequence[BlobRef]) -> Digest:
    """The name of a contribution: the digest of its parts' digests."""
    return digest_of(*(digest_bytes(ref.digest) for ref in parts))


def sent_to_wire(sent: Sequence[Sent], places: Mapping[PeerId, int]) -> wire.Sent | None:
    if not sent:
        return None
    return wire.Sent(
        places=[places[one.peer] for one in sent],
        steps=[one.steps for one in sent],
        works=[digest_bytes(one.work) for one in sent],
    )


def sent_from_wire(sent: wire.Sent, peers: Sequence[PeerId]) -> tuple[Sent, ...]:
    if not len(sent.places) == len(sent.steps) == len(sent.works) <= len(peers):
        raise RemoteProtocolError(f"{len(sent.works)} contributions of {len(sent.places)} members")
    rows = zip(sent.places, sent.steps, sent.works, strict=True)
    return tuple(
        Sent(peers[checked(place, peers)], steps, digest_from_bytes(work)) for place, steps, work in rows
    )


def scores_to_wire(scores: Iterable[Score], places: Mapping[PeerId, int] | None = None) -> list[wire.Score]:
    return [
        wire.Score(
            auditor=score.auditor if places is None else "",
            target=score.target if places is None else "",
            heldout=score.heldout,
            assigned=score.assigned,
            control=score.control,
            replay=score.replay,
            signature=score.signature,
            auditor_place=0 if places is None else places[score.auditor],
            target_place=0 if places is None else places[score.target],
        )
        for score in scores
    ]


def scores_from_wire(scores: Any, peers: Sequence[PeerId] | None = None) -> tuple[Score, ...]:
    if len(scores) > SCORES_MAX:
        raise RemoteProtocolError(f"{len(scores)} scores in one message, at most {SCORES_MAX}")
    return tuple(_score(score, peers) for score in scores)


def _score(score: wire.Score, peers: Sequence[PeerId] | None) -> Score:
    try:
        replay = Replay(score.replay)
    except ValueError:
        raise RemoteProtocolError(f"replay {score.replay} is unknown") from None
    if peers is None:
        who = PeerId(score.auditor), PeerId(score.target)
    else:
        places = score.auditor_place, score.target_place
        who = peers[checked(places[0], peers)], peers[checked(places[1], peers)]
    return Score(*who, score.heldout, score.assigned, score.control, replay, score.signature)
