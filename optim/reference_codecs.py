"""Slow, plain oracles of the dense codecs: pure Python, one element at a time. The tests compare payloads and
decoded values with these to the bit.

Python floats are fp64, and `fp32` rounds as one fp32 operation would; see reference.py for why that is exact.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import accumulate

from atoll.optim.reference import SCALE_MIN, fp32

LANES = 64
POWERS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
BORDERS = (0.125, 0.375, 0.75, 1.5, 3.0, 6.0, 12.0)

Block = Sequence[float]
Coded = tuple[list[float], list[int]]
"""The table entries and the codes of one block."""


def normal(value: float) -> float:
    """fp32, with zero for what would be subnormal."""
    rounded = fp32(value)
    return rounded if abs(rounded) >= SCALE_MIN else 0.0


def int4_block(values: Block) -> Coded:
    """Nibbles in two's complement of the values in units of largest / 7."""
    largest = max(abs(value) for value in values)
    scale = normal(largest / 7)
    inverse = fp32(7 / largest) if scale else 0.0
    return [scale], [round(fp32(value * inverse)) % 16 for value in values]


def int4_value(table: Block, code: int) -> float:
    return fp32((code - 16 if code >= 8 else code) * table[0])


def e3m0_block(values: Block) -> Coded:
    """How many borders each magnitude, in units of largest / 16, reaches; plus 8 if negative and not zero."""
    largest = max(abs(value) for value in values)
    scale = fp32(largest / 16) if largest / 16 >= 4 * SCALE_MIN else 0.0
    inverse = fp32(16 / largest) if scale else 0.0
    codes = []
    for value in values:
        reached = sum(fp32(abs(value) * inverse) >= border for border in BORDERS)
        codes.append(reached + 8 if reached and value < 0 else reached)
    return [scale], codes


def e3m0_value(table: Block, code: int) -> float:
    return POWERS[code % 8] * table[0] * (-1 if code >= 8 else 1)


def one_bit_block(values: Block) -> Coded:
    """The mean magnitude, and 1 for what is below zero."""
    scale = normal(sum_in_lanes([abs(value) for value in values]) / len(values))
    return [scale], [int(value < 0) if scale else 0 for value in values]


def one_bit_value(table: Block, code: int) -> float:
    return -table[0] if code else table[0]


def two_bit_block(values: Block) -> Coded:
    """Four bins around the mean."""
    return binned(values, fp32(sum_in_lanes(values) / len(values)), 4)


def int8_mean_block(values: Block) -> Coded:
    """256 bins around zero."""
    return binned(values, 0.0, 256)


def binned(values: Block, centre: float, bins: int) -> Coded:
    """Uniform bins over six standard deviations around the centre, and the mean of each."""
    centred = [fp32(value - centre) for value in values]
    squares = sum_in_lanes([difference * difference for difference in centred])
    step = 6.0 * (squares / max(1, len(values) - 1)) ** 0.5 / bins
    inverse = fp32(1.0 / step) if step >= SCALE_MIN else 0.0
    codes = [min(max(round(fp32(each * inverse)) + bins // 2, 0), bins - 1) for each in centred]
    members: list[list[float]] = [[] for _ in range(bins)]
    for value, code in zip(values, codes, strict=True):
        members[code].append(value)
    return [normal(total(each) / max(1, len(each))) for each in members], codes


def bin_value(table: Block, code: int) -> float:
    return table[code]


def total(values: Block) -> float:
    """Their sum in fp64, first to last. (Python's `sum` compensates, since 3.12.)"""
    return list(accumulate(values, initial=0.0))[-1]


def sum_in_lanes(values: Block) -> float:
    """Lane j adds up elements j, j + 64, ...; then the upper half is added to the lower until one is left."""
    lanes = [total(values[lane::LANES]) for lane in range(LANES)]
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [low + high for low, high in zip(lanes[:half], lanes[half:], strict=True)]
    return lanes[0]


BLOCKWISE: dict[str, tuple[int, int, int, Callable[[Block], Coded], Callable[[Block, int], float]]] = {
    "int8-mean": (5, 32_768, 8, int8_mean_block, bin_value),
    "int4": (6, 128, 4, int4_block, int4_value),
    "e3m0": (7, 256, 4, e3m0_block, e3m0_value),
    "2bit": (8, 1024, 2, two_bit_block, bin_value),
    "1bit": (9, 1024, 1, one_bit_block, one_bit_value),
}
"""By name: codec id, block, bits of a code, how a block is coded, and what a code of it stands for."""


def blockwise(name: str, values: Block) -> tuple[bytes, list[float]]:
    """The payload of one of the codecs above and what it decodes to."""
    codec_id, block, bits, coded, value = BLOCKWISE[name]
    tables: list[float] = []
    codes: list[int] = []
    decoded: list[float] = []
    for start in range(0, len(values), block):
        table, found = coded(values[start : start + block])
        tables += table
        codes += found
        decoded += [value(table, code) for code in found]
    header = b"ATLC" + bytes([1, codec_id]) + struct.pack("<HQ", block, len(values))
    return header + struct.pack(f"<{len(tables)}f", *tables) + packed(codes, bits), decoded


def packed(codes: Sequence[int], bits: int) -> bytes:
    """Codes as one long number, the first lowest, in as many bytes as it takes."""
    whole = sum(code << bits * place for place, code in enumerate(codes))
    return whole.to_bytes(-(-len(codes) * bits // 8), "little")


def fp16(values: Block) -> tuple[bytes, list[float]]:
    """Payload and decoded values, by the standard library's half precision."""
    halves = [struct.pack("<e", min(max(value, -65504.0), 65504.0)) for value in values]
    header = b"ATLC" + bytes([1, 3]) + struct.pack("<HQ", 1, len(values))
    return header + b"".join(halves), [struct.unpack("<e", half)[0] for half in halves]


def bf16(values: Block) -> tuple[bytes, list[float]]:
    """Payload and decoded values: of the two neighbours with 16 zero bits the nearer one, or the even one."""
    codes = []
    for value in values:
        below: int = struct.unpack("<I", struct.pack("<f", value))[0] >> 16
        errors = [abs(upper_half(code) - value) for code in (below, below + 1)]
        codes.append(below + (errors[1] < errors[0] or (errors[0] == errors[1] and below % 2 == 1)))
    header = b"ATLC" + bytes([1, 4]) + struct.pack("<HQ", 1, len(values))
    return header + struct.pack(f"<{len(codes)}H", *codes), [upper_half(code) for code in codes]


def upper_half(code: int) -> float:
    """The fp32 number whose upper sixteen bits are `code`."""
    value: float = struct.unpack("<f", struct.pack("<I", code << 16))[0]
    return value


def encoded(name: str, values: Block) -> tuple[bytes, list[float]]:
    """Payload and decoded values by any of the codecs here."""
    if name in BLOCKWISE:
        return blockwise(name, values)
    return {"fp16": fp16, "bf16": bf16}[name](values)
