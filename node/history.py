"""What happened lately: for each commit its time and bytes, for `status`, the demo and whoever plots."""

from __future__ import annotations

from collections import deque
from typing import Any

from atoll.node.traffic import KINDS, Traffic
from atoll.protocol.commits import Commit, Kind
from atoll.protocol.diagnosis import RoundTimes, noted, times_of
from atoll.protocol.replicas import disputed

COMMITS_KEPT = 500
ROUND_KINDS = ("contribution", "result", "control")
"""The kinds of bytes that a round itself moves; states for joiners and the DHT are counted apart."""


class History:
    """The last commits, with what this peer sent and received since the one before.

    `times` are those of the last updates, to be diagnosed; `steps` is the manifest's assignment.
    """

    def __init__(self, traffic: Traffic, steps: int) -> None:
        self._traffic, self._steps = traffic, steps
        self.times: tuple[RoundTimes, ...] = ()
        self._last = self._now()
        self._last_s: float | None = None
        self._expired: tuple[int, list[int]] = (0, [])
        self.commits: deque[dict[str, Any]] = deque(maxlen=COMMITS_KEPT)

    def _now(self) -> dict[str, dict[str, int]]:
        kinds = self._traffic.snapshot()["kinds"]
        return {kind: dict(kinds[kind]) for kind in KINDS}  # type: ignore[call-overload]

    def expired(self, round_: int, view: int) -> None:
        """This peer waited for the leader of a view until its deadline."""
        if self._expired[0] != round_:
            self._expired = (round_, [])
        self._expired[1].append(view)

    def committed(self, commit: Commit, now_s: float) -> None:
        now, body = self._now(), commit.body
        if body.kind is Kind.UPDATE:
            self.times = noted(self.times, times_of(body, self._steps))
        moved = {k: {d: now[k][d] - self._last[k][d] for d in ("sent", "received")} for k in KINDS}
        self.commits.append(
            {
                "round": body.round,
                "epoch": body.epoch,
                "kind": body.kind.name.lower(),
                "view": commit.view,
                "expired_views": self._expired[1] if self._expired[0] == body.round else [],
                "contributors": [c.peer for c in body.contributors],
                "rejected": {r.peer: r.reason for r in body.rejected},
                "differ": disputed(body),
                "tokens": sum(c.tokens for c in body.contributors),
                "members": len(body.members),
                "seconds": None if self._last_s is None else round(now_s - self._last_s, 3),
                "sent_bytes": sum(moved[kind]["sent"] for kind in ROUND_KINDS),
                "received_bytes": sum(moved[kind]["received"] for kind in ROUND_KINDS),
                "control_bytes": moved["control"]["sent"],
                "bytes": moved,
            }
        )
        self._last, self._last_s = now, now_s
