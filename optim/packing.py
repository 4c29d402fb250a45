"""Codes of 1, 2 or 4 bits, packed into bytes: the first code in the lowest bits, a short last byte filled up
with zeros."""

from __future__ import annotations

from atoll.optim.compiled import Kernel, compiled
from atoll.optim.kernels import Bytes


def packed_bytes(numel: int, bits: int) -> int:
    """How many bytes `numel` codes of `bits` take."""
    return -(-numel * bits // 8)


def pack(codes: Bytes, bits: int, out: Bytes) -> None:
    """Pack `codes`, uint8 [n], each below 2^bits, into `out`, uint8 [packed_bytes(n, bits)]."""
    assert out.size == packed_bytes(codes.size, bits)
    _PACKERS[bits](codes, out)


def unpack(packed: Bytes, bits: int, out: Bytes) -> None:
    """The codes that `packed`, uint8 [packed_bytes(n, bits)], holds, into `out`, uint8 [n]."""
    assert packed.size == packed_bytes(out.size, bits)
    _UNPACKERS[bits](packed, out)


def padded_with_zeros(packed: Bytes, numel: int, bits: int) -> bool:
    """Whether the bits behind the last of `numel` codes are zeros, as `pack` leaves them."""
    used = numel * bits % 8
    return used == 0 or int(packed[-1]) >> used == 0


@compiled
def _pack_ones(codes: Bytes, out: Bytes) -> None:
    whole = codes.size // 8
    for place in range(whole):
        byte = 0
        for bit in range(8):
            byte |= codes[8 * place + bit] << bit
        out[place] = byte
    if codes.size % 8:
        out[whole] = 0
        for bit in range(codes.size % 8):
            out[whole] |= codes[8 * whole + bit] << bit


@compiled
def _unpack_ones(packed: Bytes, out: Bytes) -> None:
    whole = out.size // 8
    for place in range(whole):
        for bit in range(8):
            out[8 * place + bit] = packed[place] >> bit & 1
    for bit in range(out.size % 8):
        out[8 * whole + bit] = packed[whole] >> bit & 1


@compiled
def _pack_twos(codes: Bytes, out: Bytes) -> None:
    whole = codes.size // 4
    for place in range(whole):
        low = codes[4 * place] | codes[4 * place + 1] << 2
        out[place] = low | codes[4 * place + 2] << 4 | codes[4 * place + 3] << 6
    if codes.size % 4:
        out[whole] = 0
        for slot in range(codes.size % 4):
            out[whole] |= codes[4 * whole + slot] << 2 * slot


@compiled
def _unpack_twos(packed: Bytes, out: Bytes) -> None:
    whole = out.size // 4
    for place in range(whole):
        byte = packed[place]
        out[4 * place] = byte & 3
        out[4 * place + 1] = byte >> 2 & 3
        out[4 * place + 2] = byte >> 4 & 3
        out[4 * place + 3] = byte >> 6
    for slot in range(out.size % 4):
        out[4 * whole + slot] = packed[whole] >> 2 * slot & 3


@compiled
def _pack_nibbles(codes: Bytes, out: Bytes) -> None:
    whole = codes.size // 2
    for place in range(whole):
        out[place] = codes[2 * place] | codes[2 * place + 1] << 4
    if codes.size % 2:
        out[whole] = codes[2 * whole]


@compiled
def _unpack_nibbles(packed: Bytes, out: Bytes) -> None:
    whole = out.size // 2
    for place in range(whole):
        out[2 * place] = packed[place] & 15
        out[2 * place + 1] = packed[place] >> 4
    if out.size % 2:
        out[2 * whole] = packed[whole] & 15


_PACKERS: dict[int, Kernel[[Bytes, Bytes], None]] = {1: _pack_ones, 2: _pack_twos, 4: _pack_nibbles}
_UNPACKERS: dict[int, Kernel[[Bytes, Bytes], None]] = {1: _unpack_ones, 2: _unpack_twos, 4: _unpack_nibbles}
