"""What `round.json` holds besides bodies where a run asks for proofs: certificate, first vote, evidence."""

from __future__ import annotations

from typing import Any

from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.peer import Saved
from atoll.protocol.proofs import Equivocation, Sighting, Signatures, Stage


def proofs(round_: int, saved: Saved) -> dict[str, Any]:
    """The proofs of the round in progress, as JSON; evidence is of any round."""
    accepted, prepared = saved.accepted, saved.prepared
    here = accepted is not None and accepted[0] == round_
    return {
        "certificate": [[peer, signature.hex()] for peer, signature in saved.certificate] if here else [],
        "prepared": _prepared(prepared) if prepared is not None and prepared[1] == round_ else None,
        "evidence": [_equivocation(evidence) for evidence in saved.evidence],
    }


def _prepared(prepared: tuple[int, int, Sighting]) -> dict[str, Any]:
    epoch, _, seen = prepared
    return {"epoch": epoch, "view": seen.view, "body": seen.body, "signature": seen.signature.hex()}


def _equivocation(evidence: Equivocation) -> dict[str, Any]:
    return {
        "peer": evidence.peer,
        "epoch": evidence.epoch,
        "round": evidence.round,
        "view": evidence.view,
        "stage": evidence.stage.name,
        "bodies": list(evidence.bodies),
        "signatures": [signature.hex() for signature in evidence.signatures],
    }


def certificate(kept: dict[str, Any]) -> Signatures:
    """Files of versions without proofs have none."""
    return tuple((PeerId(peer), bytes.fromhex(signature)) for peer, signature in kept.get("certificate", ()))


def prepared(kept: dict[str, Any]) -> tuple[int, int, Sighting] | None:
    seen = kept.get("prepared")
    if seen is None:
        return None
    signature = bytes.fromhex(seen["signature"])
    sighting = Sighting(int(seen["view"]), Digest(seen["body"]), signature)
    return int(seen["epoch"]), int(kept["round"]), sighting


def evidence(kept: dict[str, Any]) -> tuple[Equivocation, ...]:
    return tuple(_read(item) for item in kept.get("evidence", ()))


def _read(item: dict[str, Any]) -> Equivocation:
    one, other = item["bodies"]
    first, second = (bytes.fromhex(signature) for signature in item["signatures"])
    return Equivocation(
        PeerId(item["peer"]),
        int(item["epoch"]),
        int(item["round"]),
        int(item["view"]),
        Stage[item["stage"]],
        (Digest(one), Digest(other)),
        (first, second),
    )
