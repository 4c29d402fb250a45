"""What the demo saw, and whether all that it promises happened. Pure: no processes, no files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Status = Mapping[str, Any]

LOSS_FALL = 1 / 3
BYTES_MARGIN = 1.05


@dataclass(frozen=True, slots=True)
class Evidence:
    """The demo's result; its fields are the keys of `atoll demo --json`. Losses in nats per token."""

    seconds: float
    rounds: int
    loss_first: float | None
    loss_last: float | None
    anchor_digests: Mapping[str, str | None]
    identical: bool
    killed: tuple[str, ...]
    joined: tuple[str, ...]
    bytes_per_peer_round: float | None
    bytes_lower_bound: float | None
    export: str | None
    plot: str | None


def broken(evidence: Evidence, rounds: int) -> list[str]:
    """Which promises were not kept, each in a few words; none if all were."""
    return [text for text, kept in _promises(evidence, rounds) if not kept]


def _promises(e: Evidence, rounds: int) -> Iterator[tuple[str, bool]]:
    yield f"{e.rounds} of {rounds} rounds were committed", e.rounds >= rounds
    yield "no peer was killed while it led or owned a part", bool(e.killed)
    yield "no late peer joined and caught up", bool(e.joined)
    yield "the anchors of the living peers differ", e.identical
    fell = e.loss_first is not None and e.loss_last is not None
    fell = fell and e.loss_last <= e.loss_first * (1 - LOSS_FALL)  # type: ignore[operator]
    yield f"the held-out loss fell from {e.loss_first} to {e.loss_last}, less than a third", fell
    bound, moved = e.bytes_lower_bound, e.bytes_per_peer_round
    within = bound is not None and moved is not None and moved <= BYTES_MARGIN * bound
    yield f"{moved} bytes per peer and round, the lower bound is {bound}", within
    yield "the exported model does not load", e.export is not None
    yield "there is no loss curve", e.plot is not None


def same_anchor(statuses: Iterable[Status]) -> bool:
    """Whether all hold the same anchor after the same round."""
    held = {(status["anchor_round"], status["anchor_digest"]) for status in statuses}
    return len(held) == 1 and None not in next(iter(held))


def undisturbed(statuses: Iterable[Status], witnesses: int) -> dict[int, list[int]]:
    """Bytes that each contributor sent in undisturbed rounds, by the number of contributors.

    In such a round every worker of the membership took part under the first leader and nobody came or
    went. A round's count runs from the commit before it, which must have come under the first leader too,
    and the first count of a peer begins with its start, so it is left out.
    """
    sent: dict[int, list[int]] = {}
    for status in statuses:
        for before, commit in pairwise(status["commits"]):
            contributors = commit["contributors"]
            whole = len(contributors) == before["members"] - witnesses == commit["members"] - witnesses
            calm = commit["kind"] == "update" and commit["view"] == before["view"] == 0
            if whole and calm and status["peer"] in contributors:
                sent.setdefault(len(contributors), []).append(commit["sent_bytes"])
    return sent


def lower_bound(encoded_bytes: int, workers: int, witnesses: int) -> float:
    """What each contributor has to send: its parts to the owners, and its own part's result to all."""
    return (2 * (workers - 1) + witnesses) / workers * encoded_bytes


def victim(statuses: Mapping[str, Status], first: int, last: int) -> tuple[str, str] | None:
    """Whom to kill now, and why: the worker that leads and decides the round, else an owner of a part.

    While a worker leads, an owner will do only in the last round that is left for it.
    """
    busy = [
        (name, status)
        for name, status in statuses.items()
        if status["role"] == "worker" and first <= status["round"] <= last
    ]
    for name, status in busy:
        if status["leads"] and status["phase"] in ("exchanging", "voting"):
            return name, f"leads round {status['round']} ({status['phase']})"
    for name, status in busy:
        spared = status["round"] < last and any(other["leads"] for _, other in busy)
        if status["phase"] == "exchanging" and not spared:
            return name, f"owns a part of round {status['round']} (exchanging)"
    return None
