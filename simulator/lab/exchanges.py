"""One exchange among replicas, with real payloads: encode, sum, encode, decode, and count.

The same functions in the same order as a node's: `node.numbers` does it for one peer, this for all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.optim.codecs import Codec
from atoll.optim.layout import Layout
from atoll.optim.mean import mean_of
from atoll.optim.parts import part_bounds
from atoll.optim.rda import embeddings, rda
from atoll.simulator.lab.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Offer:
    """What one replica offers to a round: fp32 [numel], weighted by the tokens it trained on."""

    weight: int
    vector: Tensor


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The update, fp32 [numel], and what each offer decodes to, in the order of the offers."""

    update: Tensor
    decoded: tuple[Tensor, ...]


def dense(
    offers: Sequence[Offer], codec: Codec, receivers: int, traffic: Traffic, radial: Layout | None = None
) -> Exchanged | None:
    """Owners sum parts; the mean travels in the same codec. None if nothing weighs anything.

    There are as many parts as offers, and each is encoded by itself, as owners pull it. With `radial`, the
    layout of the vector, lengths and directions of its tensors are averaged apart (which takes whole tensors:
    owners would have to tell each other norms, and that is not counted).
    """
    if not sum(offer.weight for offer in offers):
        return None
    numel = offers[0].vector.numel()
    update, decoded = torch.empty(numel), tuple(torch.empty(numel) for _ in offers)
    bounds = [part for part in part_bounds(numel, len(offers), max(1, codec.block)) if part[0] < part[1]]
    for start, stop in bounds:
        payloads = [codec.encode(offer.vector[start:stop]) for offer in offers]
        for payload, own in zip(payloads, decoded, strict=True):
            codec.decode(payload, stop - start, own[start:stop])
        traffic.part(len(payloads[0]), codec.payload_bytes(stop - start), len(offers), receivers)
    mean = _aggregate(offers, decoded, radial)
    for start, stop in bounds:
        codec.decode(codec.encode(mean[start:stop]), stop - start, update[start:stop])
    return Exchanged(update, decoded)


def sparse(
    offers: Sequence[Offer], codec: Codec, receivers: int, traffic: Traffic, radial: Layout | None = None
) -> Exchanged | None:
    """The contributions are the update: everybody fetches all of them and sums. None if nothing weighs."""
    if not sum(offer.weight for offer in offers):
        return None
    payloads = [codec.encode(offer.vector) for offer in offers]
    for payload in payloads:
        traffic.blob(len(payload), receivers)
    decoded = tuple(codec.decode(payload, offers[0].vector.numel()) for payload in payloads)
    return Exchanged(_aggregate(offers, decoded, radial), decoded)


def _aggregate(offers: Sequence[Offer], decoded: Sequence[Tensor], radial: Layout | None) -> Tensor:
    weighted = [(offer.weight, vector) for offer, vector in zip(offers, decoded, strict=True)]
    if radial is None:
        found = mean_of(weighted, decoded[0].numel())
    else:
        found = rda(weighted, radial, embeddings(radial))
    assert found is not None, "somebody weighs something"
    return found
