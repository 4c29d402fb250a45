"""Every byte on the wire, counted by what it was for, in which direction, and with whom.

Transports count each message as they hand it over: its serialized size plus an estimate of what carries it
(gRPC and HTTP/2 frames, TLS records, libp2p's frames). TCP and IP headers and retransmissions are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Kind = Literal["contribution", "result", "state", "control", "dht"]
KINDS: tuple[Kind, ...] = ("contribution", "result", "state", "control", "dht")
PEERS_MAX = 1024
OTHERS = "others"

Snapshot = Mapping[str, Mapping[str, Mapping[str, int]]]


class Traffic:
    """Plain counters. Peers beyond the first `PEERS_MAX` share one line: a flood of keys costs nothing."""

    def __init__(self) -> None:
        self._sent: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._received: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._by_peer: dict[str, dict[str, int]] = {}

    def sent(self, kind: Kind, peer: str, count_bytes: int) -> None:
        self._sent[kind] += count_bytes
        self._line(peer)["sent"] += count_bytes

    def received(self, kind: Kind, peer: str, count_bytes: int) -> None:
        self._received[kind] += count_bytes
        self._line(peer)["received"] += count_bytes

    def _line(self, peer: str) -> dict[str, int]:
        if peer not in self._by_peer and len(self._by_peer) >= PEERS_MAX:
            peer = OTHERS
        return self._by_peer.setdefault(peer, {"sent": 0, "received": 0})

    def snapshot(self) -> Snapshot:
        """`{"kinds": {kind: {sent, received}}, "peers": {peer: {sent, received}}}`, a copy."""
        kinds = {kind: {"sent": self._sent[kind], "received": self._received[kind]} for kind in KINDS}
        return {"kinds": kinds, "peers": {peer: dict(line) for peer, line in self._by_peer.items()}}
