"""One exchange among replicas, with real payloads: encode, sum, encode, decode, and count.

The same functions in the same order as a node's: `node.numbers` does it for one peer, this for all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.optim.codecs import Codec
from atoll.optim.mean import weighted_mean
from atoll.optim.parts import part_bounds
from atoll.simulator.lab.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Offer:
    """What one replica offers to a round: fp32 [numel], weighted by the tokens it trained on."""

    replica: int
    weight: int
    vector: Tensor


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The update, fp32 [numel], and what each offer decodes to, in the order of the offers."""

    update: Tensor
    decoded: tuple[Tensor, ...]


def dense(offers: Sequence[Offer], codec: Codec, receivers: int, traffic: Traffic) -> Exchanged | None:
    """Owners sum parts; the mean travels in the same codec. None if nothing weighs anything.

    There are as many parts as offers, and each is encoded by itself, as owners pull it.
    """
    weights = [offer.weight for offer in offers]
    if not sum(weights):
        return None
    numel = offers[0].vector.numel()
    update, decoded = torch.empty(numel), tuple(torch.empty(numel) for _ in offers)
    for start, stop in part_bounds(numel, len(offers), max(1, codec.block)):
        if start == stop:
            continue
        payloads = [codec.encode(offer.vector[start:stop]) for offer in offers]
        mean = weighted_mean(zip(weights, payloads, strict=True), codec, stop - start)
        assert mean is not None
        result = codec.encode(mean)
        codec.decode(result, stop - start, update[start:stop])
        for payload, own in zip(payloads, decoded, strict=True):
            codec.decode(payload, stop - start, own[start:stop])
        traffic.part(len(payloads[0]), len(result), len(offers), receivers)
    return Exchanged(update, decoded)


def sparse(offers: Sequence[Offer], codec: Codec, receivers: int, traffic: Traffic) -> Exchanged | None:
    """The contributions are the update: everybody fetches all of them and sums. None if nothing weighs."""
    if not sum(offer.weight for offer in offers):
        return None
    numel = offers[0].vector.numel()
    payloads = [codec.encode(offer.vector) for offer in offers]
    for payload in payloads:
        traffic.blob(len(payload), receivers)
    weighted = ((offer.weight, payload) for offer, payload in zip(offers, payloads, strict=True))
    update = weighted_mean(weighted, codec, numel)
    assert update is not None
    return Exchanged(update, tuple(codec.decode(payload, numel) for payload in payloads))
