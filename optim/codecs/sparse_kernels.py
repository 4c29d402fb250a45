"""The loops of the sparse codecs: which elements of a chunk to send, and how places and values lie in bytes.

A chunk is at most 4096 consecutive elements, so a place in it has 12 bits. Places are chosen by the bit
pattern of the magnitude (integers order as the floats do) and ties go to the lowest place, so that the
choice is exact. Compiled code checks no bounds: what a peer sent is validated before it is used as a place,
and a kernel that reads it returns what is wrong with it, an index into WRONG.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from atoll.optim.compiled import compiled
from atoll.optim.flat import VALUE_MAX, Floats

Words = NDArray[np.int32]
Places = NDArray[np.uint16]
Raw = NDArray[np.uint8]

CHUNK = 4096
COLUMNS_PER_PLACE = 8
MAGNITUDE = np.int32(0x7FFFFFFF)

WRONG = (
    "",
    "a value that is not finite, too large, too small or a negative zero",
    "places that do not ascend or lie outside their chunk",
    "padding bits that are not zero",
)
FINE, BAD_VALUE, BAD_PLACE, BAD_PADDING = range(4)

VALUE_MAX_BITS = int(np.float32(VALUE_MAX).view(np.int32))
VALUE_LIMIT, COEFFICIENT_LIMIT = np.float32(VALUE_MAX), np.float32(64 * VALUE_MAX)
TABLE_BYTES = 4 * 2
TABLE_LEAST = 0x0080
TABLE_MOST = VALUE_MAX_BITS >> 16
"""The bf16 bits of the smallest normal number and of VALUE_MAX, which bf16 holds exactly."""

COEFFICIENT_LEAST = int(np.float32(2.0**-60).view(np.int32)) >> 16
COEFFICIENT_MOST = int(np.float32(64 * VALUE_MAX).view(np.int32)) >> 16
"""The bf16 bits of the smallest DCT coefficient that is sent, so that no product or sum in decoding is
subnormal (the smallest cosine is 2^-8 in a basis of 64), and of the largest that values can have."""


def place_bytes(count: int) -> int:
    """Bytes of `count` 12-bit places, two in three bytes."""
    return (3 * count + 1) // 2


def code_bytes(count: int) -> int:
    """Bytes of `count` 2-bit codes, four in a byte."""
    return (count + 3) // 4


def dct_bytes(count: int) -> int:
    """Bytes of a chunk of which `count` coefficients are sent by "dct": values, places."""
    return 2 * count + place_bytes(count)


def topk_bytes(count: int) -> int:
    """Bytes of a chunk of which `count` values are sent by "topk": table, places, codes."""
    return TABLE_BYTES + place_bytes(count) + code_bytes(count)


@compiled
def nth_largest(words: NDArray[np.signedinteger], count: int, low: int, high: int) -> int:
    """The count-th largest of up to 4096 words, known to lie in [low, high], by bisection on the value.

    A pass for each bit of a word, whatever the words are: no order of them makes it slow. The casts keep
    the sum as narrow as the words, so that as many fit a vector register.
    """
    narrow = words.dtype.type
    while low < high:
        middle = (low + high + 1) >> 1
        least = narrow(middle)
        reached = narrow(0)
        for nth in range(words.size):
            reached = narrow(reached + narrow(words[nth] >= least))
        if reached >= count:
            low = middle
        else:
            high = middle - 1
    return low


@compiled
def column_maxima(chunk: Words, tops: Words) -> int:
    """The largest magnitude of each column of `chunk`, laid out in rows as long as `tops`, and of all."""
    columns = tops.size
    for column in range(columns):
        tops[column] = chunk[column] & MAGNITUDE
    for start in range(columns, chunk.size, columns):
        row = chunk[start : min(start + columns, chunk.size)]
        for column in range(row.size):
            tops[column] = max(tops[column], row[column] & MAGNITUDE)
    highest = np.int32(0)
    for column in range(columns):
        highest = max(highest, tops[column])
    return int(highest)


@compiled
def candidates(chunk: Words, tops: Words, bound: int, columns: Words, found: Words, where: Places) -> int:
    """Fill `found` and `where` with the magnitudes that reach `bound` and their places, ascending.

    Looks only into the columns whose maximum reaches it. Returns how many there are.
    """
    least = np.int32(bound)
    reaching = 0
    for column in range(tops.size):
        columns[reaching] = column
        reaching += tops[column] >= least
    number = 0
    for start in range(0, chunk.size, tops.size):
        row = chunk[start : min(start + tops.size, chunk.size)]
        for nth in range(reaching):
            column = columns[nth]
            if column >= row.size:
                break
            where[number] = start + column
            found[number] = row[column] & MAGNITUDE
            number += found[number] >= least
    return number


@compiled
def largest(chunk: Words, places: Places) -> int:
    """Fill `places` with those of the chunk's largest magnitudes, ascending; returns the largest one's bits.

    `chunk` has the bits of up to 4096 floats and at least as many as `places`. The n-th largest maximum of
    a column is a lower bound of the n-th largest magnitude, and its upper 16 bits are one too, in half the
    time. So all elements are looked at only for the maxima, in one vectorised pass.
    """
    size, count = chunk.size, places.size
    tops = np.empty(min(COLUMNS_PER_PLACE * count, size), np.int32)
    halves = np.empty(tops.size, np.int16)
    columns, found = np.empty(tops.size + 1, np.int32), np.empty(size + 1, np.int32)
    where = np.empty(size + 1, np.uint16)

    highest = column_maxima(chunk, tops)
    for column in range(tops.size):
        halves[column] = tops[column] >> 16
    bound = nth_largest(halves, count, 0, highest >> 16) << 16
    number = candidates(chunk, tops, bound, columns, found, where)
    least = nth_largest(found[:number], count, bound, highest)

    ties = count
    for nth in range(number):
        ties -= found[nth] > least
    taken = 0
    for nth in range(number):
        if found[nth] > least or (found[nth] == least and ties > 0):
            ties -= found[nth] == least
            places[taken] = where[nth]
            taken += 1
    return highest


@compiled
def pack_places(places: Places, raw: Raw) -> None:
    """12 bits each, two in three bytes, little-endian; the spare four bits of an odd last one are zero."""
    for nth in range(0, places.size, 2):
        first = int(places[nth])
        second = int(places[nth + 1]) if nth + 1 < places.size else 0
        at = 3 * (nth // 2)
        raw[at] = first & 255
        raw[at + 1] = (first >> 8) | ((second & 15) << 4)
        if nth + 1 < places.size:
            raw[at + 2] = second >> 4


@compiled
def unpack_places(raw: Raw, size: int, places: Places) -> int:
    """The inverse, for a chunk of `size`: FINE, or what is wrong. Only ascending places are in order."""
    before = -1
    for nth in range(places.size):
        at = 3 * (nth // 2)
        if nth % 2 == 0:
            place = int(raw[at]) | ((int(raw[at + 1]) & 15) << 8)
        else:
            place = (int(raw[at + 1]) >> 4) | (int(raw[at + 2]) << 4)
        if place <= before or place >= size:
            return BAD_PLACE
        places[nth] = place
        before = place
    if places.size % 2 and raw[raw.size - 1] >> 4:
        return BAD_PADDING
    return FINE


@compiled
def pack_bf16(values: Floats, least: int, raw: Raw) -> None:
    """The upper 16 bits of each value, rounded to nearest even; below the bits `least` it becomes zero."""
    words = values.view(np.uint32)
    for nth in range(words.size):
        word = int(words[nth])
        half = (word + 0x7FFF + ((word >> 16) & 1)) >> 16
        if half & 0x7FFF < least:
            half = 0
        raw[2 * nth] = half & 255
        raw[2 * nth + 1] = half >> 8


@compiled
def unpack_bf16(raw: Raw, least: int, most: int, values: Floats) -> int:
    """The inverse, exact: FINE, or BAD_VALUE unless each is +0 or has bits in [least, most] and any sign."""
    words = values.view(np.uint32)
    for nth in range(words.size):
        half = int(raw[2 * nth]) | (int(raw[2 * nth + 1]) << 8)
        magnitude = half & 0x7FFF
        if (magnitude < least and half != 0) or magnitude > most:
            return BAD_VALUE
        words[nth] = half << 16
    return FINE


@compiled
def bin_means(values: Floats, codes: Raw, means: Floats) -> None:
    """Sort `values` into four bins 1.5 standard deviations wide around their mean; `means` of each bin.

    Sums run in the order given, in fp64, one rounding per operation. An empty bin has mean zero. The
    deviation of n values divides by n - 1, but of two by two: else +a and -a would share a bin of mean 0,
    and the residual would never shrink.
    """
    total = 0.0
    for value in values:
        total += np.float64(value)
    mean = total / values.size
    spread = 0.0
    for value in values:
        spread += (np.float64(value) - mean) * (np.float64(value) - mean)
    width = 1.5 * sqrt(spread / max(values.size - 1, 2))
    if width == 0.0:
        width = 1.0
    sums, sizes = np.zeros(4, np.float64), np.zeros(4, np.int64)
    for nth in range(values.size):
        value64 = np.float64(values[nth])
        code = int(min(max(np.rint((value64 - mean) / width) + 2.0, 0.0), 3.0))
        codes[nth] = code
        sums[code] += value64
        sizes[code] += 1
    for code in range(4):
        means[code] = sums[code] / sizes[code] if sizes[code] else 0.0


@compiled
def topk_encode(values: Floats, k: int, raw: Raw) -> int:
    """Fill the body of a "topk" payload. Returns the largest magnitude's bits, as `largest` does."""
    words = values.view(np.int32)
    places, chosen = np.empty(k, np.uint16), np.empty(k, np.float32)
    codes, means = np.empty(k, np.uint8), np.empty(4, np.float32)
    highest, at = 0, 0
    for start in range(0, values.size, CHUNK):
        stop = min(start + CHUNK, values.size)
        count = min(k, stop - start)
        highest = max(highest, largest(words[start:stop], places[:count]))
        for nth in range(count):
            chosen[nth] = values[start + int(places[nth])]
        bin_means(chosen[:count], codes[:count], means)
        places_at = at + TABLE_BYTES
        codes_at = places_at + (3 * count + 1) // 2
        stop_at = codes_at + (count + 3) // 4
        pack_bf16(means, TABLE_LEAST, raw[at:places_at])
        pack_places(places[:count], raw[places_at:codes_at])
        raw[codes_at:stop_at] = 0
        for nth in range(count):
            raw[codes_at + nth // 4] |= codes[nth] << (2 * (nth % 4))
        at = stop_at
    return highest


@compiled
def topk_decode(raw: Raw, k: int, values: Floats) -> int:
    """Fill `values` from the body of a "topk" payload of the right length: FINE, or what is wrong."""
    places, means = np.empty(k, np.uint16), np.empty(4, np.float32)
    at = 0
    for start in range(0, values.size, CHUNK):
        stop = min(start + CHUNK, values.size)
        count = min(k, stop - start)
        places_at = at + TABLE_BYTES
        codes_at = places_at + (3 * count + 1) // 2
        stop_at = codes_at + (count + 3) // 4
        wrong = unpack_bf16(raw[at:places_at], TABLE_LEAST, TABLE_MOST, means)
        if wrong == FINE:
            wrong = unpack_places(raw[places_at:codes_at], stop - start, places[:count])
        if wrong == FINE and count % 4 and raw[stop_at - 1] >> (2 * (count % 4)):
            wrong = BAD_PADDING
        if wrong != FINE:
            return wrong
        values[start:stop] = 0.0
        for nth in range(count):
            code = (raw[codes_at + nth // 4] >> (2 * (nth % 4))) & 3
            values[start + int(places[nth])] = means[code]
        at = stop_at
    return FINE


@compiled
def product(left: Floats, right: Floats, out: Floats) -> None:
    """out = left @ right, each sum in order, one rounding per operation (a BLAS chooses its own order)."""
    for row in range(left.shape[0]):
        sums = out[row]
        sums[:] = np.float32(0)
        for term in range(left.shape[1]):
            factor = left[row, term]
            for column in range(sums.size):
                sums[column] += factor * right[term, column]


@compiled
def inverse_product(left: Floats, places: Places, values: Floats, right: Floats, out: Floats) -> None:
    """out = left.T @ sparse @ right, where `sparse` has `values` at ascending row-major `places`.

    First the values of one row of `sparse` in order, then the rows in order, one rounding per operation.
    """
    columns = right.shape[0]
    line = np.empty(columns, np.float32)
    out[:] = np.float32(0)
    nth = 0
    while nth < places.size:
        row = int(places[nth]) // columns
        line[:] = np.float32(0)
        while nth < places.size and int(places[nth]) // columns == row:
            factor, term = values[nth], int(places[nth]) % columns
            for column in range(columns):
                line[column] += factor * right[term, column]
            nth += 1
        for target in range(left.shape[1]):
            factor, sums = left[row, target], out[target]
            for column in range(columns):
                sums[column] += factor * line[column]


@compiled
def dct_encode(values: Floats, k: int, down: Floats, across: Floats, raw: Raw) -> int:
    """The part of a "dct" payload for blocks that are `down` by `across` elements, orthonormal bases both.

    Returns the bits of the largest magnitude, which tell what is not finite.
    """
    words = values.view(np.int32)
    rows, columns = down.shape[0], across.shape[0]
    count = min(k, rows * columns)
    turned = across.T.copy()
    half, whole = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)
    flat = whole.reshape(rows * columns)
    places, chosen = np.empty(count, np.uint16), np.empty(count, np.float32)
    highest, at = np.int32(0), 0
    for start in range(0, values.size, rows * columns):
        for word in words[start : start + rows * columns]:
            highest = max(highest, word & MAGNITUDE)
        product(values[start : start + rows * columns].reshape(rows, columns), turned, half)
        product(down, half, whole)
        largest(flat.view(np.int32), places)
        for nth in range(count):
            chosen[nth] = min(max(flat[int(places[nth])], -COEFFICIENT_LIMIT), COEFFICIENT_LIMIT)
        pack_bf16(chosen, COEFFICIENT_LEAST, raw[at : at + 2 * count])
        at += 2 * count
        pack_places(places, raw[at : at + (3 * count + 1) // 2])
        at += (3 * count + 1) // 2
    return int(highest)


@compiled
def dct_decode(raw: Raw, k: int, down: Floats, across: Floats, values: Floats) -> int:
    """Fill `values` from that part of a "dct" payload: FINE, or what is wrong."""
    rows, columns = down.shape[0], across.shape[0]
    count = min(k, rows * columns)
    places, chosen = np.empty(count, np.uint16), np.empty(count, np.float32)
    at = 0
    for start in range(0, values.size, rows * columns):
        block = values[start : start + rows * columns]
        wrong = unpack_bf16(raw[at : at + 2 * count], COEFFICIENT_LEAST, COEFFICIENT_MOST, chosen)
        at += 2 * count
        if wrong == FINE:
            wrong = unpack_places(raw[at : at + (3 * count + 1) // 2], rows * columns, places)
        if wrong != FINE:
            return wrong
        at += (3 * count + 1) // 2
        inverse_product(down, places, chosen, across, block.reshape(rows, columns))
        for nth in range(block.size):
            block[nth] = min(max(block[nth], -VALUE_LIMIT), VALUE_LIMIT)
    return FINE
