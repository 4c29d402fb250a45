"""What a node tells whoever asks: one JSON object, the same for people, scripts and tests."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from atoll.node.daemon import Daemon
from atoll.protocol.audit import FOUNDER
from atoll.protocol.diagnosis import Diagnosis, diagnose
from atoll.protocol.roster import Member, Role
from atoll.protocol.terms import Terms
from atoll.protocol.weights import UNIT


def status(daemon: Daemon) -> dict[str, Any]:
    """The object that `atoll status --json` prints."""
    peer, network, manifest = daemon.peer, daemon.network, daemon.signed.manifest
    if not hasattr(peer, "terms"):
        return {"peer": peer.me, "phase": "starting", "pid": os.getpid()}
    state, training = peer.catchup.state, daemon.rounds.training
    traffic = dict(network.traffic.snapshot()["kinds"])
    if (dht := network.dht.traffic_bytes()) is not None:
        traffic["dht"] = {"sent": dht[0], "received": dht[1]}
    health = diagnose(daemon.history.times)
    return {
        "peer": peer.me,
        "role": network.config.role.name.lower(),
        "run_id": daemon.signed.run_id,
        "run": manifest.name,
        "pid": os.getpid(),
        "phase": peer.phase,
        "why": peer.why,
        "paused": peer.paused,
        "round": peer.round,
        "height": peer.ledger.height,
        "epoch": peer.ledger.epoch,
        "updates": peer.ledger.updates,
        "rounds_total": manifest.rounds.rounds,
        "view": peer.view,
        "leader": peer.leader,
        "leads": peer.leader == peer.me and peer.is_member,
        "members": [
            {
                "peer": member.peer,
                "role": member.role.name.lower(),
                "missed": member.missed,
                "weight_from": member.weight_from,
                "path": "" if member.peer == peer.me else network.path_of(member.peer),
                "you": member.peer == peer.me,
                "steps": peer.terms.assigned(member.peer).steps if member.role is Role.WORKER else 0,
                "shard": member.shard,
                "health": _health(health.get(member.peer)),
                "reputation": _reputation(peer.terms, member),
            }
            for member in peer.terms.members
        ],
        "anchor_digest": state.anchor if state else None,
        "anchor_round": state.round if state else None,
        "training": _training(training),
        "evaluation": list(daemon.rounds.evaluator.losses) if daemon.rounds.evaluator else [],
        "evaluating": not daemon.rounds.evaluator.idle if daemon.rounds.evaluator else False,
        "commits": list(daemon.history.commits)[-200:],
        "traffic": traffic,
        "uplink_bytes_per_s": network.uplink_bytes_per_s,
        "limits_bytes_per_s": {
            "upload": network.config.upload_bytes_per_s or None,
            "upload_now": network.uploads.limit.bytes_per_s or None,
            "download": network.downloads.bytes_per_s or None,
        },
        "bytes_lower_bound": lower_bound(daemon),
        "repeated_bytes": daemon.rounds.states.repeated_bytes,
        "rejected": dict(network.rejected),
        "multiaddrs": list(network.multiaddrs),
        "ended": peer.ended,
        "invite": _invite(daemon),
        "state_dir": str(daemon.disk.folder),
    }


def _reputation(terms: Terms, member: Member) -> dict[str, Any] | None:
    """What audits found of a worker, and the share of its weight that they leave; None without audits."""
    if terms.audit is None or member.role is not Role.WORKER:
        return None
    found = member.reputation or FOUNDER
    return {
        "value": found.value / UNIT,
        "judgements": found.count,
        "audited": found.audited,
        "trials": found.trials,
        "weight": terms.factors.get(member.peer, 0) / UNIT,
    }


def _health(found: Diagnosis | None) -> dict[str, str]:
    """Slow or broken, and why; unknown of a member that no update speaks of."""
    if found is None:
        return {"verdict": "unknown", "why": ""}
    return {"verdict": found.verdict.value, "why": found.why}


def _invite(daemon: Daemon) -> str | None:
    """The line that a coordinator wrote down for others."""
    path = daemon.disk.folder / "invite"
    return path.read_text().strip() if path.exists() else None


def _training(training: Any) -> dict[str, Any] | None:
    if training is None:
        return None
    progress = training.progress
    return {
        "round": training.round,
        "step": progress.step if progress else 0,
        "steps": training.steps,
        "loss": progress.loss if progress else training.loss,
        "tokens_per_s": progress.tokens_per_s if progress else None,
        "pid": training.trainer.pid if training.trainer else None,
        "spent": asdict(training.spent),
        "utilisation": training.utilisation,
        "contributions": dict(training.became),
    }


def lower_bound(daemon: Daemon) -> float | None:
    """Bytes that each contributor must send in a round: (2 (P - 1) + W) / P of the encoded vector.

    Sparse contributions are summed by nobody: each goes to all others, which is P - 1 + W encoded vectors.
    """
    contributors = len(daemon.peer.terms.eligible)
    witnesses = sum(member.role is Role.WITNESS for member in daemon.peer.terms.members)
    if not contributors:
        return None
    numbers = daemon.rounds.numbers
    if numbers.sparse:
        return (contributors - 1 + witnesses) * float(numbers.encoded_bytes)
    return (2 * (contributors - 1) + witnesses) / contributors * numbers.encoded_bytes
