"""Fine-tuning by scalars: one byte per gradient, and directions that nobody sends.

A peer tries the loss a little way along a random direction and against it (SPSA). The difference, sent as one
byte, is all that others need: they draw the same direction from (run seed, step, peer). Directions are signs
from a counter-based integer mix, so they are equal on every machine, and the table of values that a byte can
mean is made in exact decimal arithmetic, since `exp` differs between maths libraries.
(Just One Byte, Zelikman et al. 2023; SPSA, Spall 1992)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite, log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atoll.optim.flat import NonFinite, floats, pieces
from atoll.optim.rules.base import positive
from atoll.protocol.errors import RemoteProtocolError

POWER_MAX = 63
_PER_E = 8
"""Values are powers of e^(1/8): 6 % off at most between e^(-63/8) = 0.00038 and e^(63/8) = 2,600."""
_OFFSET = POWER_MAX + 1
_SIGN = 0x80
ZERO = 0
"""The code of a gradient that is exactly zero; 0x80 stands for nothing and is refused."""

_MAGNITUDES = tuple(
    float(np.float32(float((Decimal(power) / _PER_E).exp()))) for power in range(-POWER_MAX, POWER_MAX + 1)
)
_WORD = np.uint64(0x9E3779B97F4A7C15)


def code_of(gradient: float) -> int:
    """The byte of a gradient: a sign bit, seven bits of round(8 * ln|g|), clamped. Raises NonFinite."""
    if not isfinite(gradient):
        raise NonFinite("the two losses differ by NaN or infinity: not sent")
    if gradient == 0:
        return ZERO
    power = max(-POWER_MAX, min(POWER_MAX, round(_PER_E * log(abs(gradient)))))
    return (power + _OFFSET) | (_SIGN if gradient < 0 else 0)


def gradient_of(code: int) -> float:
    """What a byte means, an fp32 number. Raises RemoteProtocolError for what is no code."""
    if not 0 <= code <= 0xFF or code == _SIGN:
        raise RemoteProtocolError(f"no gradient has the code {code}")
    if code == ZERO:
        return 0.0
    magnitude = _MAGNITUDES[(code & ~_SIGN) - 1]
    return -magnitude if code & _SIGN else magnitude


@dataclass(frozen=True, slots=True)
class ScalarRule:
    """`lr` of a step, the distance `epsilon` at which losses are compared, and the run's seed.

    Raises ValueError unless both numbers are positive.
    """

    lr: float
    epsilon: float
    seed: bytes

    def __post_init__(self) -> None:
        positive("scalar lr", self.lr)
        positive("scalar epsilon", self.epsilon)

    def measure(self, loss: Callable[[Tensor], float], parameters: Tensor, step: int, peer: str) -> int:
        """The byte for (loss(p + epsilon * z) - loss(p - epsilon * z)) / (2 * epsilon).

        `parameters`, fp32 [n], are left as they are. Raises NonFinite if a loss is not finite.
        """
        at = torch.empty_like(parameters)
        losses = []
        for reach in (self.epsilon, -self.epsilon):
            at.copy_(parameters)
            self.move_(at, step, peer, reach)
            losses.append(loss(at))
        return code_of((losses[0] - losses[1]) / (2 * self.epsilon))

    def move_(self, parameters: Tensor, step: int, peer: str, reach: float) -> None:
        """parameters <- parameters + reach * z, in place; z is the direction of (seed, step, peer), +-1 each.

        One addition for each element: reach times a sign is exact.
        """
        values = floats("parameters", parameters)
        key = _key(self.seed, step, peer)
        reaches = np.array([-reach, reach], dtype=np.float32)
        for piece in pieces(values.size):
            np.add(values[piece], reaches[_signs(key, piece)], out=values[piece])

    def step_(self, parameters: Tensor, step: int, codes: list[tuple[str, int]]) -> None:
        """parameters <- parameters - lr * mean(g * z) over (peer, code) of one step, in the order given."""
        for peer, code in codes:
            reach = -self.lr * gradient_of(code) / len(codes)
            if reach:
                self.move_(parameters, step, peer, reach)


def _key(seed: bytes, step: int, peer: str) -> int:
    """64 bits for one direction."""
    told = hashlib.sha256(seed).digest() + step.to_bytes(8, "little") + peer.encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "little")


def _signs(key: int, piece: slice) -> NDArray[np.uint8]:
    """0 or 1 for each element of a piece that begins at a multiple of 64: bits of a mix of (key, place / 64).

    The mix is splitmix64 (Steele et al. 2014), on unsigned 64-bit integers alone.
    """
    first, count = piece.start // 64, -(-(piece.stop - piece.start) // 64)
    with np.errstate(over="ignore"):
        word = (np.arange(first, first + count, dtype=np.uint64) + np.uint64(1)) * _WORD + np.uint64(key)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
    octets = word.astype("<u8").view(np.uint8)
    return np.unpackbits(octets, bitorder="little")[: piece.stop - piece.start]
