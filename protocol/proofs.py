"""Signed things that prove something to everybody: for runs with `votes = "two-thirds"`.

What a member votes for in the first stage, what it promises, its wish to come or go, and two votes of one
member that exclude each other. Each is signed in a domain of its own, so that none can pass for another.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import Digest, PeerId, digest_bytes, digest_from_bytes
from atoll.protocol.roster import MEMBERS_MAX, checked
from atoll.protocol.wire import messages_pb2 as wire

Signatures = tuple[tuple[PeerId, bytes], ...]
Verify = Callable[[PeerId, bytes, bytes], bool]
_PREPARE, _PROMISE = b"atoll prepare 1", b"atoll promise 1"
_JOINING, _FAREWELL = b"atoll joining 1", b"atoll farewell 1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a run's history something was signed. A recovery begins a new epoch, in which rounds recur."""

    run_id: Digest
    epoch: int
    round: int

    @property
    def encoded(self) -> bytes:
        return digest_bytes(self.run_id) + self.epoch.to_bytes(8, "big") + self.round.to_bytes(8, "big")


class Stage(enum.IntEnum):
    """What a vote is for: `PREPARE` makes a certificate that one body is this view's, `COMMIT` decides it."""

    COMMIT = 0
    PREPARE = 1


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two votes of one peer for two bodies, where there may be one: nobody honest signs both."""

    peer: PeerId
    epoch: int
    round: int
    view: int
    stage: Stage
    bodies: tuple[Digest, Digest]
    signatures: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Joining:
    """A peer's own word that it wants to be a member, with its admission token."""

    peer: PeerId
    round: int
    token: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Farewell:
    """A member's own word that it goes."""

    peer: PeerId
    round: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedPromise:
    """What a member promised, without the body: the view and digest that it accepted last, if any."""

    peer: PeerId
    accepted: tuple[int, Digest] | None
    signature: bytes


@dataclass(frozen=True, slots=True)
class Justification:
    """Why a leader may propose in a later view, and the certificate of what it must propose, if any."""

    promises: tuple[SignedPromise, ...]
    certificate: Signatures = ()


@dataclass(frozen=True, slots=True)
class Sighting:
    """A leader's vote for what it proposed, as one member saw it."""

    view: int
    body: Digest
    signature: bytes


# ---- what is signed -----------------------------------------------------------------------------


def prepare_message(place: Place, view: int, body: Digest) -> bytes:
    """What a member signs when it votes in the first stage."""
    return _PREPARE + place.encoded + view.to_bytes(4, "big") + digest_bytes(body)


def promise_message(place: Place, view: int, accepted: tuple[int, Digest] | None) -> bytes:
    """What a member signs when it promises a view."""
    last = b"" if accepted is None else accepted[0].to_bytes(4, "big") + digest_bytes(accepted[1])
    return _PROMISE + place.encoded + view.to_bytes(4, "big") + last


def joining_message(place: Place, role: int) -> bytes:
    return _JOINING + place.encoded + bytes([role])


def farewell_message(place: Place) -> bytes:
    return _FAREWELL + place.encoded


# ---- bytes --------------------------------------------------------------------------------------


def bounded(items: Any) -> Any:
    """Refuse a list that is longer than a run has members."""
    if len(items) > MEMBERS_MAX:
        raise RemoteProtocolError(f"{len(items)} proofs in one message, at most {MEMBERS_MAX}")
    return items


def signatures_to_wire(signatures: Signatures) -> list[wire.VoteSignature]:
    return [wire.VoteSignature(peer=peer, signature=signature) for peer, signature in signatures]


def signatures_from_wire(signatures: Any) -> Signatures:
    return tuple((PeerId(vote.peer), vote.signature) for vote in bounded(signatures))


def evidence_to_wire(
    evidence: Iterable[Equivocation], places: Mapping[PeerId, int] | None = None
) -> list[wire.Equivocation]:
    """In a body its peers are named by their places among the members of the round."""
    return [
        wire.Equivocation(
            peer=e.peer if places is None else "",
            place=0 if places is None else places[e.peer],
            epoch=e.epoch,
            round=e.round,
            view=e.view,
            stage=wire.Stage.Name(e.stage),
            bodies=[digest_bytes(body) for body in e.bodies],
            signatures=e.signatures,
        )
        for e in evidence
    ]


def evidence_from_wire(evidence: Any, peers: Sequence[PeerId] | None = None) -> tuple[Equivocation, ...]:
    def who(e: wire.Equivocation) -> PeerId:
        return PeerId(e.peer) if peers is None else peers[checked(e.place, peers)]

    return tuple(_equivocation(e, who(e)) for e in bounded(evidence))


def _equivocation(e: wire.Equivocation, peer: PeerId) -> Equivocation:
    if len(e.bodies) != 2 or len(e.signatures) != 2:
        raise RemoteProtocolError("evidence is two votes")
    first, second = (digest_from_bytes(body) for body in e.bodies)
    signatures = (e.signatures[0], e.signatures[1])
    stage = stage_from_wire(e.stage)
    return Equivocation(peer, e.epoch, e.round, e.view, stage, (first, second), signatures)


def stage_from_wire(stage: int) -> Stage:
    try:
        return Stage(stage)
    except ValueError:
        raise RemoteProtocolError(f"stage {stage} is unknown") from None


def joining_to_wire(joining: Iterable[Joining]) -> list[wire.Joining]:
    return [wire.Joining(peer=j.peer, round=j.round, token=j.token, signature=j.signature) for j in joining]


def joining_from_wire(joining: Any) -> tuple[Joining, ...]:
    return tuple(Joining(PeerId(j.peer), j.round, j.token, j.signature) for j in bounded(joining))


def farewells_to_wire(farewells: Iterable[Farewell], places: Mapping[PeerId, int]) -> list[wire.Farewell]:
    return [wire.Farewell(place=places[f.peer], round=f.round, signature=f.signature) for f in farewells]


def farewells_from_wire(farewells: Any, peers: Sequence[PeerId]) -> tuple[Farewell, ...]:
    return tuple(Farewell(peers[checked(f.place, peers)], f.round, f.signature) for f in bounded(farewells))


def justification_to_wire(justification: Justification | None) -> wire.Justification | None:
    if justification is None:
        return None
    promises = [_promise_to_wire(promise) for promise in justification.promises]
    return wire.Justification(promises=promises, certificate=signatures_to_wire(justification.certificate))


def _promise_to_wire(promise: SignedPromise) -> wire.SignedPromise:
    message = wire.SignedPromise(peer=promise.peer, signature=promise.signature)
    if promise.accepted is not None:
        message.accepted = True
        message.accepted_view = promise.accepted[0]
        message.accepted_body = digest_bytes(promise.accepted[1])
    return message


def justification_from_wire(message: wire.Justification) -> Justification:
    promises = tuple(
        SignedPromise(
            PeerId(p.peer),
            (p.accepted_view, digest_from_bytes(p.accepted_body)) if p.accepted else None,
            p.signature,
        )
        for p in bounded(message.promises)
    )
    return Justification(promises, signatures_from_wire(message.certificate))


def sighting_to_wire(sighting: Sighting | None) -> wire.Sighting | None:
    if sighting is None:
        return None
    body = digest_bytes(sighting.body)
    return wire.Sighting(view=sighting.view, body=body, signature=sighting.signature)


def sighting_from_wire(sighting: wire.Sighting) -> Sighting:
    return Sighting(sighting.view, digest_from_bytes(sighting.body), sighting.signature)
