"""The network between hosts: how long a message takes, whether it arrives at all, and how often."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

LOSS_SHARE = 0.10
LATE_SHARE, LATE_MS_MAX = 0.05, 9_000
TWICE_SHARE = 0.05
BYTES_PER_MS = 10_000


@dataclass(slots=True)
class Links:
    """`cut` is one side of a partition; `one_way` lets messages into the cut side, but none out of it."""

    rng: random.Random
    loss: bool = False
    reorder: bool = False
    cut: frozenset[str] = frozenset()
    one_way: bool = False
    slowness: dict[str, float] = field(default_factory=dict)
    _base_ms: dict[tuple[str, str], int] = field(default_factory=dict)

    def base_ms(self, a: str, b: str) -> int:
        """The one-way latency of a pair, drawn once."""
        pair = (a, b) if a < b else (b, a)
        known = self._base_ms.get(pair)
        if known is None:
            known = self._base_ms[pair] = self.rng.randint(2, 60)
        return known

    def open(self, sender: str, receiver: str) -> bool:
        if not self.cut or (sender in self.cut) == (receiver in self.cut):
            return True
        return self.one_way and receiver in self.cut

    def both_ways(self, a: str, b: str) -> bool:
        return self.open(a, b) and self.open(b, a)

    def delays_ms(self, sender: str, receiver: str) -> list[int]:
        """When the copies of one message arrive: none if it is lost."""
        rng = self.rng
        if not self.open(sender, receiver) or (self.loss and rng.random() < LOSS_SHARE):
            return []
        base = self.base_ms(sender, receiver)
        if self.slowness:
            base = int(base * self.slowness.get(sender, 1.0) * self.slowness.get(receiver, 1.0))
        delays = [base + int(rng.random() * (base + 2))]
        if self.reorder:
            if rng.random() < LATE_SHARE:
                delays[0] = rng.randint(1, LATE_MS_MAX)
            if rng.random() < TWICE_SHARE:
                delays.append(base + rng.randint(0, 500))
        return delays

    def transfer_ms(self, holder: str, receiver: str, size: int) -> int:
        """A request, and `size` bytes back."""
        slow = self.slowness.get(holder, 1.0) * self.slowness.get(receiver, 1.0)
        return int((2 * self.base_ms(holder, receiver) + size / BYTES_PER_MS) * slow) + 1

    def heal(self) -> None:
        self.loss = self.reorder = self.one_way = False
        self.cut = frozenset()
        self.slowness = {}
