"""Digests by which peers see that they hold the same bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from blake3 import blake3
from torch import Tensor

from atoll.optim.flat import floats


def tensor_digest(tensor: Tensor) -> str:
    """BLAKE3, 64 hex digits, of the little-endian bytes of an fp32 tensor [n]; ValueError if it is not one.

    Bits count, not values: 0.0 and -0.0 differ.
    """
    little = floats("tensor", tensor).astype("<f4", copy=False)
    return blake3(little.view(np.uint8).data).hexdigest()


def state_digest(blob_digests: Sequence[str]) -> str:
    """BLAKE3, 64 hex digits, of the 32-byte digests in the order given; ValueError if one has another size.

    The anchor digest of a round is `state_digest([tensor_digest(anchor), tensor_digest(momentum)])`, so
    it covers all that the next outer step starts from, and a peer that holds the two digests can verify
    the two blobs one by one.
    """
    hasher = blake3()
    for digest in blob_digests:
        raw = bytes.fromhex(digest)
        if len(raw) != 32:
            raise ValueError(f"a digest has 64 hexadecimal digits: {digest[:80]!r}")
        hasher.update(raw)
    return hasher.hexdigest()
