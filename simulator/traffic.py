"""How many control messages were sent, and about how many bytes: sizes are measured on a sample."""

from __future__ import annotations

from typing import Any

from atoll.protocol.wire.convert import encode

ENVELOPE_BYTES = 150
FIRST, EVERY = 8, 64


class Traffic:
    """For each kind of message: how many, the bytes of a sample of them, and the size of that sample."""

    def __init__(self) -> None:
        self.kinds: dict[type, list[int]] = {}

    def count(self, message: Any, receivers: int) -> None:
        kind = self.kinds.get(type(message))
        if kind is None:
            kind = self.kinds[type(message)] = [0, 0, 0, 0]
        kind[0] += receivers
        kind[3] += 1
        if kind[3] <= FIRST or kind[3] % EVERY == 0:
            kind[1] += len(encode(message)) + ENVELOPE_BYTES
            kind[2] += 1

    @property
    def messages(self) -> int:
        return sum(sent for sent, _, _, _ in self.kinds.values())

    @property
    def bytes(self) -> int:
        return sum(sent * measured // max(1, sample) for sent, measured, sample, _ in self.kinds.values())
