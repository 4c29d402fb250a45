"""Slow, plain oracles for optim/: pure Python, one element at a time. The tests compare the two.

Python floats are fp64. Rounding an fp64 sum, product or quotient of two fp32 numbers to fp32 gives the same
bits as the fp32 operation itself (53 >= 2 * 24 + 2: the double rounding is innocuous, Figueroa 1995), so
`fp32(a + b)` is exact fp32 addition and most oracles can be compared to the bit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from math import fsum

from blake3 import blake3

SCALE_MIN = 2.0**-126


def fp32(value: float) -> float:
    """The nearest fp32 number. Raises OverflowError beyond the range."""
    result: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return result


def part_sizes_in_blocks(numel: int, parts: int, block: int) -> list[int]:
    """How many blocks each part has, sorted: dealt one at a time, like cards."""
    sizes = [0] * parts
    for card in range(len(range(0, numel, block))):
        sizes[card % parts] += 1
    return sorted(sizes)


def int8_codes(values: Sequence[float], block: int) -> tuple[list[float], list[int]]:
    """Scales and codes of the int8 codec with real-number rounding: code = round(value / scale)."""
    scales: list[float] = []
    codes: list[int] = []
    for start in range(0, len(values), block):
        members = values[start : start + block]
        scale = fp32(max(abs(value) for value in members) / 127)
        scales.append(scale if scale >= SCALE_MIN else 0.0)
        codes += [round(value / scale) if scales[-1] else 0 for value in members]
    return scales, codes


def int8_payload(scales: Sequence[float], codes: Sequence[int], block: int) -> bytes:
    """The bytes of an int8 payload, field by field."""
    header = b"ATLC" + bytes([1, 2]) + struct.pack("<HQ", block, len(codes))
    return header + struct.pack(f"<{len(scales)}f", *scales) + struct.pack(f"<{len(codes)}b", *codes)


def int8_decoded(payload: bytes) -> list[float]:
    """The values of a valid int8 payload, to the bit."""
    block, numel = struct.unpack_from("<HQ", payload, 6)
    blocks = len(range(0, numel, block))
    scales = struct.unpack_from(f"<{blocks}f", payload, 16)
    codes = struct.unpack_from(f"<{numel}b", payload, 16 + 4 * blocks)
    return [fp32(code * scales[place // block]) for place, code in enumerate(codes)]


def weighted_mean(contributions: Iterable[tuple[int, Sequence[float]]]) -> list[float] | None:
    """The mean in fp32, one rounding per operation, summed in the order given; None if nothing weighs."""
    weighing = [(weight, values) for weight, values in contributions if weight]
    if not weighing:
        return None
    total = fp32(sum(weight for weight, _ in weighing))
    means = []
    for place in range(len(weighing[0][1])):
        products = [fp32(fp32(weight) * values[place]) for weight, values in weighing]
        summed = products[0]
        for product in products[1:]:
            summed = fp32(summed + product)
        means.append(fp32(summed / total))
    return means


def exact_mean(contributions: Iterable[tuple[int, Sequence[float]]]) -> list[float]:
    """The mean in real numbers, as near as fp64 comes to it; the total weight must not be 0."""
    weighing = list(contributions)
    total = sum(weight for weight, _ in weighing)
    columns = zip(*([weight * value for value in values] for weight, values in weighing), strict=True)
    return [fsum(column) / total for column in columns]


def nesterov(anchor: float, momentum: float, update: float, lr: float, mu: float) -> tuple[float, float]:
    """(anchor, momentum) of one element after one outer step, each operation rounded to fp32."""
    lr, mu = fp32(lr), fp32(mu)
    momentum = fp32(fp32(mu * momentum) + update)
    move = fp32(lr * fp32(update + fp32(mu * momentum)))
    return fp32(anchor - move), momentum


def pseudo_gradient(anchor: Sequence[float], local: Sequence[float]) -> list[float]:
    """anchor - local in fp32."""
    return [fp32(a - b) for a, b in zip(anchor, local, strict=True)]


def residual_after(
    residual: float, delta: float, outcome: str, decoded: float = 0.0, decay: float = 1.0
) -> float:
    """One element's residual after an offer of `delta` was `accepted`, `carried` or `dropped`."""
    offered = fp32(fp32(fp32(decay) * residual) + delta)
    return {"accepted": fp32(offered - decoded), "carried": offered, "dropped": residual}[outcome]


def tensor_digest(values: Iterable[float]) -> str:
    """BLAKE3 of the values as little-endian fp32, packed one by one."""
    return blake3(b"".join(struct.pack("<f", value) for value in values)).hexdigest()
