"""The mean of a round's contributions, summed in the order that the commit lists them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from atoll.optim.codecs.base import Codec, Payload
from atoll.optim.flat import VALUE_MAX, floats, pieces

TOTAL_WEIGHT_MAX = 2**53


def weighted_mean(
    contributions: Iterable[tuple[int, Payload]], codec: Codec, numel: int, out: Tensor | None = None
) -> Tensor | None:
    """sum(weight * decoded) / sum(weight), fp32 [numel], in `out` if given; None if the weights sum to 0.

    None means "no update": a mean of nothing is not a number. `contributions` are (weight, payload) of
    one part, or of the whole vector, in contributor order. fp32 addition is not associative, so the
    order is part of the result, and equal lists give equal bits on every machine: one rounding for each
    multiplication and addition, and one division at the end. Weights are token counts; a contribution
    of weight 0 is not decoded. One payload at a time is decoded, a piece that stays in cache at a time, so
    an iterator that reads them from disk needs no memory beside `out` and one payload.

    Raises RemoteProtocolError if a payload is not one of `numel` elements by `codec`, and ValueError if a
    weight is negative, the total is beyond 2^53 (within it no sum overflows, and payloads are bounded by
    VALUE_MAX) or `out` is not fp32 [numel]. (FedAvg, McMahan et al. 2017)
    """
    mean = torch.empty(numel, dtype=torch.float32) if out is None else out
    floats("out", mean, numel)
    total = 0
    with torch.no_grad():
        for weight, payload in contributions:
            check_weight(weight, total)
            if weight == 0:
                continue
            for piece, values in codec.pieces(payload, numel):
                if total == 0:
                    torch.mul(values, float(weight), out=mean[piece])
                else:
                    mean[piece].add_(values.mul_(float(weight)))
            total += weight
        return _divided(mean, total)


def mean_of(
    contributions: Iterable[tuple[int, Tensor]], numel: int, out: Tensor | None = None
) -> Tensor | None:
    """`weighted_mean` of vectors that are decoded already, fp32 [numel] each: same bits, same errors."""
    mean = torch.empty(numel, dtype=torch.float32) if out is None else out
    floats("out", mean, numel)
    scratch = torch.empty(numel, dtype=torch.float32)
    total = 0
    with torch.no_grad():
        for weight, vector in contributions:
            floats("contribution", vector, numel)
            check_weight(weight, total)
            if weight and total == 0:
                torch.mul(vector, float(weight), out=mean)
            elif weight:
                mean.add_(torch.mul(vector, float(weight), out=scratch))
            total += weight
        return _divided(mean, total)


def check_weight(weight: int, total: int) -> None:
    """Raise ValueError unless `weight` may be added to the `total` of the weights before it."""
    if not 0 <= weight <= TOTAL_WEIGHT_MAX - total:
        raise ValueError(f"weight {weight} is negative, or the total is beyond 2^53")


def _divided(summed: Tensor, total: int) -> Tensor | None:
    """Rounding may carry a mean of extreme values an ulp past what a codec accepts; hence the clamp."""
    if not total:
        return None
    for piece in pieces(summed.numel()):
        summed[piece].div_(float(total)).clamp_(-VALUE_MAX, VALUE_MAX)
    return summed
