"""The two sums of a coded round: a worker's over its units, and everybody's over the workers' payloads.

Both have a fixed order: units within a row, rows within the round. Of replicas one payload per group
enters, at the group's place. So which replica answered changes no bit, if replicas sent equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from atoll.optim.codecs.base import Codec, Payload
from atoll.optim.coding.codes import Row
from atoll.optim.coding.decoding import Decoding
from atoll.optim.flat import PIECE, VALUE_MAX, floats, pieces


def combined(units: Iterable[Tensor], row: Row, numel: int, out: Tensor | None = None) -> Tensor:
    """sum(coefficient * unit) over a worker's row, fp32 [numel], in `out` if given.

    `units` are pseudo-gradients fp32 [numel], as many as the row has and in its order; one at a time is
    looked at, so they may be computed one after another. With replicas all coefficients are 1 and this is
    the plain sum. One rounding for each multiplication and addition. Raises ValueError for units of another
    number or shape, or `out` of another.
    """
    total = torch.empty(numel, dtype=torch.float32) if out is None else out
    floats("out", total, numel)
    scratch = torch.empty(min(PIECE, numel), dtype=torch.float32)
    with torch.no_grad():
        for place, ((_, coefficient), vector) in enumerate(zip(row, units, strict=True)):
            floats("unit", vector, numel)
            for piece in pieces(numel):
                if place == 0:
                    torch.mul(vector[piece], coefficient, out=total[piece])
                else:
                    room = scratch[: piece.stop - piece.start]
                    total[piece].add_(torch.mul(vector[piece], coefficient, out=room))
    return total


def decoded_mean(
    contributions: Iterable[tuple[int, Payload]],
    decoding: Decoding,
    codec: Codec,
    numel: int,
    out: Tensor | None = None,
) -> Tensor:
    """sum(a[i] * decoded payload of worker i) / divisor, the mean over units, fp32 [numel].

    `contributions` are (row, payload) by rising row, of one part or of the whole vector; those with
    coefficient 0, as all replicas but the first, are not decoded and may be left out. One payload at a time
    is decoded, a piece at a time, as in `weighted_mean`, and clamped as there. Raises RemoteProtocolError
    if a payload is not one of `numel` elements by `codec`, and ValueError if one that counts is missing,
    twice or out of order.
    """
    mean = torch.empty(numel, dtype=torch.float32) if out is None else out
    floats("out", mean, numel)
    due = [place for place, factor in enumerate(decoding.coefficients) if factor]
    summed = 0
    with torch.no_grad():
        for place, payload in contributions:
            if not 0 <= place < len(decoding.coefficients):
                raise ValueError(f"{place} is not one of {len(decoding.coefficients)} workers")
            factor = decoding.coefficients[place]
            if not factor:
                continue
            if summed == len(due) or place != due[summed]:
                raise ValueError(f"row {place} is out of place: the rows that count are {due}")
            for piece, values in codec.pieces(payload, numel):
                if summed == 0:
                    torch.mul(values, factor, out=mean[piece])
                else:
                    mean[piece].add_(values.mul_(factor))
            summed += 1
        if summed < len(due) or not due:
            raise ValueError(f"{summed} of {len(due)} payloads that count were given")
        for piece in pieces(numel):
            mean[piece].div_(decoding.divisor).clamp_(-VALUE_MAX, VALUE_MAX)
    return mean
