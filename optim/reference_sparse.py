"""Slow, plain oracles of the sparse and projected codecs and of tiling, one element at a time.

Packed places and codes are one big little-endian integer here; see `reference` for why `fp32` of an fp64
operation is the fp32 operation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from math import cos, pi, prod, sqrt

from atoll.optim.reference import SCALE_MIN, fp32

CHUNK = 4096
SIDE = 64
VALUE_MAX = 127.0 * 2.0**57
COEFFICIENT_MIN = 2.0**-60
MASK_64 = 2**64 - 1


def header(codec_id: int, numel: int) -> bytes:
    """The first sixteen bytes."""
    return b"ATLC" + bytes([1, codec_id]) + struct.pack("<HQ", CHUNK, numel)


def packed(numbers: Iterable[int], bits: int) -> bytes:
    """Each number in `bits` bits, the first in the lowest."""
    whole = list(numbers)
    joined = sum(number << bits * nth for nth, number in enumerate(whole))
    return joined.to_bytes(-(-bits * len(whole) // 8), "little")


def unpacked(raw: bytes, bits: int, count: int) -> list[int]:
    """The inverse."""
    joined = int.from_bytes(raw, "little")
    return [joined >> bits * nth & (1 << bits) - 1 for nth in range(count)]


def chosen(values: Sequence[float], count: int) -> list[int]:
    """The places of the `count` largest magnitudes, ascending; of equal ones the lowest places."""
    return sorted(sorted(range(len(values)), key=lambda place: (-abs(values[place]), place))[:count])


def bf16(value: float, least: float) -> bytes:
    """The two bytes of the nearest bf16 number, ties to even; zero below `least`."""
    word = struct.unpack("<I", struct.pack("<f", value))[0]
    below, above = word >> 16, (word >> 16) + 1
    rest = word & 0xFFFF
    half = above if rest > 0x8000 or (rest == 0x8000 and below % 2) else below
    if abs(from_bf16(struct.pack("<H", half))) < least:
        half = 0
    return struct.pack("<H", half)


def from_bf16(raw: bytes) -> float:
    """The number that two bytes hold."""
    value: float = struct.unpack("<f", b"\0\0" + raw)[0]
    return value


# ---- topk -----------------------------------------------------------------------------------------


def binned(values: Sequence[float]) -> tuple[list[float], list[int]]:
    """The means of four bins, and each value's bin."""
    total = 0.0
    for value in values:
        total += value
    mean = total / len(values)
    spread = 0.0
    for value in values:
        spread += (value - mean) * (value - mean)
    width = 1.5 * sqrt(spread / max(len(values) - 1, 2)) or 1.0
    codes = [min(max(round((value - mean) / width) + 2, 0), 3) for value in values]
    means = []
    for code in range(4):
        members = [value for value, own in zip(values, codes, strict=True) if own == code]
        total = 0.0
        for value in members:
            total += value
        means.append(fp32(total / len(members)) if members else 0.0)
    return means, codes


def topk_payload(values: Sequence[float], k: int) -> bytes:
    """Chunk by chunk: table, places, codes."""
    payload = header(10, len(values))
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK]
        places = chosen(chunk, min(k, len(chunk)))
        means, codes = binned([chunk[place] for place in places])
        payload += b"".join(bf16(mean, SCALE_MIN) for mean in means) + packed(places, 12) + packed(codes, 2)
    return payload


def topk_decoded(payload: bytes, numel: int, k: int) -> list[float]:
    """The values of a valid payload, to the bit."""
    values, at = [0.0] * numel, 16
    for start in range(0, numel, CHUNK):
        count = min(k, numel - start, CHUNK)
        means = [from_bf16(payload[at + 2 * code : at + 2 * code + 2]) for code in range(4)]
        places_at, codes_at = at + 8, at + 8 + -(-12 * count // 8)
        at = codes_at + -(-2 * count // 8)
        places = unpacked(payload[places_at:codes_at], 12, count)
        for place, code in zip(places, unpacked(payload[codes_at:at], 2, count), strict=True):
            values[start + place] = means[code]
    return values


# ---- dct ------------------------------------------------------------------------------------------


def cosine_basis(size: int) -> list[list[float]]:
    """[frequency][position] in fp64, as the library's cosine gives it, but for its zeros, which are exact."""
    rows = [[sqrt(1 / size)] * size]
    for u in range(1, size):
        steps = [(2 * x + 1) * u for x in range(size)]
        waves = [0.0 if step % (2 * size) == size else cos(pi * step / (2 * size)) for step in steps]
        rows.append([sqrt(2 / size) * wave for wave in waves])
    return rows


def blocks(numel: int) -> list[tuple[int, int, int]]:
    """(start, rows, columns) of each block."""
    found, start = [], 0
    while start < numel:
        left = numel - start
        rows = min(left // SIDE, SIDE)
        shape = (rows, SIDE) if rows else (1, left)
        found.append((start, *shape))
        start += prod(shape)
    return found


def product(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> list[list[float]]:
    """left @ right in fp32, summed in order, one rounding per operation."""
    out = []
    for row in left:
        sums = [0.0] * len(right[0])
        for factor, line in zip(row, right, strict=True):
            sums = [fp32(old + fp32(factor * term)) for old, term in zip(sums, line, strict=True)]
        out.append(sums)
    return out


def transposed(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def coefficients(block: Sequence[float], rows: int, columns: int) -> list[float]:
    """The cosine transform of a block, row-major: first across, then down."""
    matrix = [list(block[row * columns : (row + 1) * columns]) for row in range(rows)]
    across = [[fp32(x) for x in row] for row in cosine_basis(columns)]
    down = [[fp32(x) for x in row] for row in cosine_basis(rows)]
    return [x for row in product(down, product(matrix, transposed(across))) for x in row]


def dct_payload(values: Sequence[float], k: int) -> bytes:
    """Block by block: coefficients, places."""
    payload = header(11, len(values))
    for start, rows, columns in blocks(len(values)):
        found = coefficients(values[start : start + rows * columns], rows, columns)
        places = chosen(found, min(k, len(found)))
        kept = [min(max(found[place], -64 * VALUE_MAX), 64 * VALUE_MAX) for place in places]
        payload += b"".join(bf16(x, COEFFICIENT_MIN) for x in kept) + packed(places, 12)
    return payload


def dct_decoded(payload: bytes, numel: int, k: int) -> list[float]:
    """The values of a valid payload, to the bit."""
    values, at = [], 16
    for _, rows, columns in blocks(numel):
        count = min(k, rows * columns)
        kept = [from_bf16(payload[at + 2 * nth : at + 2 * nth + 2]) for nth in range(count)]
        at += 2 * count
        places = unpacked(payload[at : at + -(-12 * count // 8)], 12, count)
        at += -(-12 * count // 8)
        sparse = [[0.0] * columns for _ in range(rows)]
        for place, value in zip(places, kept, strict=True):
            sparse[place // columns][place % columns] = value
        across = [[fp32(x) for x in row] for row in cosine_basis(columns)]
        down = [[fp32(x) for x in row] for row in cosine_basis(rows)]
        block = product(transposed(down), product(sparse, across))
        values += [min(max(x, -VALUE_MAX), VALUE_MAX) for row in block for x in row]
    return values


# ---- projection -----------------------------------------------------------------------------------


def philox(seed: int, words: int) -> list[int]:
    """Philox 4x64-10 with key (seed, 0) and counters 1, 2, ... (Salmon et al. 2011)"""
    found: list[int] = []
    counter = 0
    while len(found) < words:
        counter += 1
        a, b, c, d = counter, 0, 0, 0
        key, other = seed, 0
        for _ in range(10):
            left, right = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
            a, b, c, d = right >> 64 ^ b ^ key, right & MASK_64, left >> 64 ^ d ^ other, left & MASK_64
            key, other = (key + 0x9E3779B97F4A7C15) & MASK_64, (other + 0xBB67AE8584CAA73B) & MASK_64
        found += [a, b, c, d]
    return found[:words]


def projection_signs(seed: int, numel: int) -> list[int]:
    """+1 or -1 for each element: bits of the stream, lowest first."""
    words = philox(seed, -(-numel // 64))
    return [1 - 2 * (words[place // 64] >> place % 64 & 1) for place in range(numel)]


def directions(numel: int, k: int) -> list[int]:
    """For each element the number of its coefficient: dealt in turn within its block."""
    found = []
    for place in range(numel):
        block = place // CHUNK
        size = min(CHUNK, numel - block * CHUNK)
        found.append(block * k + place % CHUNK % min(k, size))
    return found


def projected(values: Sequence[float], seed: int, k: int) -> list[float]:
    """Each direction's signed mean, in fp64."""
    dealt: dict[int, list[float]] = {}
    signs = projection_signs(seed, len(values))
    for value, sign, own in zip(values, signs, directions(len(values), k), strict=True):
        dealt.setdefault(own, []).append(sign * value)
    return [sum(members) / len(members) for _, members in sorted(dealt.items())]


def projection_decoded(payload: bytes, numel: int, k: int) -> list[float]:
    """The values of a valid payload, to the bit."""
    seed = int.from_bytes(payload[16:24], "little")
    sent = [value for (value,) in struct.iter_unpack("<f", payload[24:])]
    signs = projection_signs(seed, numel)
    return [sign * sent[own] for sign, own in zip(signs, directions(numel, k), strict=True)]


# ---- tiling ---------------------------------------------------------------------------------------


def tiled_order(shapes: Iterable[Sequence[int]]) -> list[int]:
    """For each place of the tiled vector the element of the flat one that stands there."""
    tiles: list[int] = []
    rest: list[int] = []
    offset = 0
    for shape in shapes:
        columns = shape[-1] if len(shape) > 1 else 0
        rows = prod(shape[:-1]) if len(shape) > 1 else 0
        high, wide = rows // SIDE * SIDE, columns // SIDE * SIDE
        for top in range(0, high, SIDE):
            for left in range(0, wide, SIDE):
                tiles += [
                    offset + row * columns + column
                    for row in range(top, top + SIDE)
                    for column in range(left, left + SIDE)
                ]
        if high and wide:
            right = [(row, column) for row in range(high) for column in range(wide, columns)]
            lower = [(row, column) for row in range(high, rows) for column in range(columns)]
            rest += [offset + row * columns + column for row, column in right + lower]
        else:
            rest += range(offset, offset + prod(shape))
        offset += prod(shape)
    return tiles + rest
