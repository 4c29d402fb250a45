"""Codec "projection": of each 4096 elements their products with 32 random directions: 1/128 of the bytes.

Both ends draw the directions from a seed in the payload, so only the products travel. (Ferret, Shu et al.
2024.) Its directions are dense and independent; here a block's elements are dealt to its directions like
cards and each element has a random sign. So directions are orthogonal, decoding is exact, an element costs
one addition whatever their number, and the expected error is no larger: 4096 / 32 - 1 times the vector's
energy if unbiased, all but 32 / 4096 of it if projected.

The seed comes from the values, since a codec has no state and a seed used twice would never show the
residual's other directions. The signs are numpy's Philox 4x64-10, whose stream is published and made of
integers, so it is the same on every machine; a float sampler's is not. (Salmon et al. 2011)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
from torch import Tensor

from atoll.optim.codecs.base import (
    HEADER_BYTES,
    Buffer,
    Payload,
    checked,
    decoded,
    in_pieces,
    new_payload,
    pack_header,
    room,
)
from atoll.optim.flat import PIECE, VALUE_MAX, Floats, NonFinite, floats, pieces, within
from atoll.protocol.errors import ConfigError, RemoteProtocolError

SEED_BYTES = 8
BODY_AT = HEADER_BYTES + SEED_BYTES

_EIGHT_SIGNS = np.array([[1 - 2 * (byte >> bit & 1) for bit in range(8)] for byte in range(256)], np.float32)
"""For each byte the signs of eight elements, lowest bit first; a set bit means minus."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Header, the seed in eight bytes, then k fp32 coefficients for each block of 4096 elements.

    Element i of a block belongs to direction i mod k; a short last block has min(k, its size) directions.
    A coefficient is what each of its elements decodes to, but for the sign: the signed mean of them, which
    is the projection onto the direction. The residual shrinks by what was sent, so feedback converges.
    `unbiased` sends the signed sum, whose expectation over seeds is the value itself: for use without
    feedback, where 4096 / k times the energy of noise is bearable. With feedback it diverges.
    """

    k: int = 32
    unbiased: bool = False
    name: str = "projection"
    block: int = 4096
    codec_id: int = 12

    def __post_init__(self) -> None:
        if self.k < 1 or self.block % self.k:
            right = f"a power of two up to {self.block}"
            raise ConfigError(f"k is {self.k}", "codec projection", f"k directions: {right}")

    @property
    def feedback(self) -> bool:
        return not self.unbiased

    def payload_bytes(self, numel: int) -> int:
        return HEADER_BYTES + (SEED_BYTES + 4 * self._coefficients(numel) if numel else 0)

    def encode(self, x: Tensor) -> bytes:
        return new_payload(self.payload_bytes(x.numel()), partial(self.encode_into, x))

    def encode_into(self, x: Tensor, out: Buffer) -> None:
        values = floats("x", x)
        view = room(out, self.payload_bytes(values.size))
        view[:HEADER_BYTES] = pack_header(self.codec_id, self.block, values.size)
        if not values.size:
            return
        seed = _seed(values)
        view[HEADER_BYTES:BODY_AT] = seed.to_bytes(SEED_BYTES, "little")
        coefficients = np.frombuffer(view[BODY_AT:], dtype="<f4")
        stream = np.random.Philox(key=seed)
        scratch = np.empty(min(PIECE, 2 * values.size), dtype=np.float32)
        for elements, sent, shape in self._runs(values.size):
            piece, dealt = values[elements], scratch[: prod(shape)]
            if not within(piece, VALUE_MAX, dealt):
                raise NonFinite(f"NaN, infinity or a value beyond {VALUE_MAX:.2g}: not encoded")
            np.multiply(piece, _signs(stream, piece.size), out=dealt[: piece.size])
            dealt[piece.size :] = 0
            sums = dealt.reshape(shape).sum(axis=1)
            if not self.unbiased:
                sums /= _dealt(piece.size // shape[0], shape[2])
            coefficients[sent] = sums.ravel()
        np.clip(coefficients, -VALUE_MAX, VALUE_MAX, out=coefficients)

    def decode(self, payload: Payload, numel: int, out: Tensor | None = None) -> Tensor:
        return decoded(partial(self._fill, payload, numel), numel, out)

    def pieces(self, payload: Payload, numel: int) -> Iterator[tuple[slice, Tensor]]:
        return in_pieces(partial(self._fill, payload, numel), numel)

    def _fill(self, payload: Payload, numel: int, place: Callable[[slice], Floats]) -> Iterator[slice]:
        view = checked(payload, self.payload_bytes(numel), pack_header(self.codec_id, self.block, numel))
        if not numel:
            return
        coefficients = np.frombuffer(view[BODY_AT:], dtype="<f4").astype(np.float32)
        if not within(coefficients, VALUE_MAX, np.empty_like(coefficients)):
            raise RemoteProtocolError(f"payload holds NaN, infinity or a value beyond {VALUE_MAX:.2g}")
        stream = np.random.Philox(key=int.from_bytes(view[HEADER_BYTES:BODY_AT], "little"))
        scratch = np.empty(min(PIECE, 2 * numel), dtype=np.float32)
        for elements, sent, shape in self._runs(numel):
            piece, dealt = place(elements), scratch[: prod(shape)]
            np.copyto(dealt.reshape(shape), coefficients[sent].reshape(shape[0], 1, shape[2]))
            np.multiply(dealt[: piece.size], _signs(stream, piece.size), out=piece)
            yield elements

    def _coefficients(self, numel: int) -> int:
        whole, rest = divmod(numel, self.block)
        return whole * self.k + min(self.k, rest)

    def _runs(self, numel: int) -> Iterator[tuple[slice, slice, tuple[int, int, int]]]:
        """Cache-sized runs of blocks as (elements, coefficients, [blocks, rows, directions]).

        A short last block is alone; its rows may hold a little more than its elements.
        """
        whole = numel - numel % self.block
        for piece in pieces(whole):
            blocks = (piece.stop - piece.start) // self.block
            first = piece.start // self.block * self.k
            yield piece, slice(first, first + blocks * self.k), (blocks, self.block // self.k, self.k)
        if whole < numel:
            rest, first = numel - whole, whole // self.block * self.k
            directions = min(self.k, rest)
            shape = (1, -(-rest // directions), directions)
            yield slice(whole, numel), slice(first, first + directions), shape


def _seed(values: Floats) -> int:
    """A number that another vector does not share: the sum of the bits. It need not be hard to guess."""
    words = values.view(np.uint32)
    return sum(int(words[piece].sum(dtype=np.uint64)) for piece in pieces(words.size))


def _signs(stream: np.random.Philox, numel: int) -> Floats:
    """The next `numel` signs, +1 or -1; the rest of the last word of 64 is skipped."""
    words = stream.random_raw(-(-numel // 64)).astype("<u8", copy=False)
    return np.take(_EIGHT_SIGNS, words.view(np.uint8), axis=0, mode="clip").reshape(-1)[:numel]


def _dealt(elements: int, directions: int) -> Floats:
    """How many of a block's elements each direction gets."""
    return (-(-(elements - np.arange(directions)) // directions)).astype(np.float32)
