"""The network between hosts: how long a message takes, whether it arrives at all, and how often."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

LOSS_SHARE = 0.10
LATE_SHARE, LATE_MS_MAX = 0.05, 9_000
TWICE_SHARE, TWICE_MS_MAX = 0.05, 3_000
BYTES_PER_MS = 10_000
TIMEOUT_MS, TIMEOUT_BYTES_PER_MS = 10_000, 125


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Nothing that one of `senders` sends reaches any of `receivers`. Two of them make a whole partition."""

    senders: frozenset[str]
    receivers: frozenset[str]


@dataclass(slots=True)
class Links:
    """`slowness` multiplies a host's latency and transfer times, `lag_ms` is added to all that it sends.

    With `bytes_per_ms` the transfers of a host wait for each other, on its way up and on its way down.
    """

    rng: random.Random
    loss: bool = False
    twice: bool = False
    reorder: bool = False
    cuts: tuple[Cut, ...] = ()
    slowness: dict[str, float] = field(default_factory=dict)
    lag_ms: dict[str, int] = field(default_factory=dict)
    bytes_per_ms: dict[str, int] = field(default_factory=dict)
    _base_ms: dict[tuple[str, str], int] = field(default_factory=dict)
    _up_free_ms: dict[str, float] = field(default_factory=dict)
    _down_free_ms: dict[str, float] = field(default_factory=dict)

    @property
    def quiet(self) -> bool:
        """Whether every message arrives once, after the latency of its pair alone."""
        return not (self.loss or self.twice or self.reorder or self.cuts or self.slowness or self.lag_ms)

    def base_ms(self, a: str, b: str) -> int:
        """The one-way latency of a pair, drawn once."""
        pair = (a, b) if a < b else (b, a)
        known = self._base_ms.get(pair)
        if known is None:
            known = self._base_ms[pair] = 2 + int(self.rng.random() * 59)
        return known

    def close(self, a: str, b: str, latency_ms: int) -> None:
        """Let two hosts live next door to each other."""
        self._base_ms[(a, b) if a < b else (b, a)] = latency_ms

    def open(self, sender: str, receiver: str) -> bool:
        return not any(sender in cut.senders and receiver in cut.receivers for cut in self.cuts)

    def both_ways(self, a: str, b: str) -> bool:
        return not self.cuts or (self.open(a, b) and self.open(b, a))

    def delay_ms(self, sender: str, receiver: str) -> int:
        """When a message arrives on a quiet network."""
        base = self.base_ms(sender, receiver)
        return base + int(self.rng.random() * (base + 2))

    def delays_ms(self, sender: str, receiver: str) -> list[int]:
        """When the copies of one message arrive: none if it is lost."""
        rng = self.rng
        if self.loss and rng.random() < LOSS_SHARE:
            return []
        base = self.base_ms(sender, receiver)
        if self.slowness:
            base = int(base * self.slowness.get(sender, 1.0) * self.slowness.get(receiver, 1.0))
        delays = [base + int(rng.random() * (base + 2)) + self.lag_ms.get(sender, 0)]
        if self.reorder and rng.random() < LATE_SHARE:
            delays[0] = rng.randint(1, LATE_MS_MAX)
        if self.twice and rng.random() < TWICE_SHARE:
            delays.append(base + rng.randint(0, TWICE_MS_MAX))
        return delays

    def patience_ms(self, size: int) -> int:
        """How long a receiver waits for one holder."""
        return TIMEOUT_MS + size // TIMEOUT_BYTES_PER_MS

    def transfer_ms(self, holder: str, receiver: str, size: int, now_ms: int) -> int:
        """A request, and `size` bytes back, behind what is under way already."""
        slow = self.slowness.get(holder, 1.0) * self.slowness.get(receiver, 1.0)
        base = 2 * self.base_ms(holder, receiver)
        if not self.bytes_per_ms:
            return int((base + size / BYTES_PER_MS) * slow) + 1
        up_ms = size / self.bytes_per_ms.get(holder, BYTES_PER_MS)
        down_ms = size / self.bytes_per_ms.get(receiver, BYTES_PER_MS)
        sent = max(now_ms, self._up_free_ms.get(holder, 0)) + up_ms
        got = max(sent - down_ms, self._down_free_ms.get(receiver, 0)) + down_ms
        self._up_free_ms[holder], self._down_free_ms[receiver] = sent, got
        return int(base * slow + got - now_ms) + 1

    def heal(self) -> None:
        self.loss = self.twice = self.reorder = False
        self.cuts = ()
        self.slowness, self.lag_ms, self.bytes_per_ms = {}, {}, {}
        self._up_free_ms, self._down_free_ms = {}, {}
