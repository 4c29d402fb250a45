"""Digests by which peers see that they hold the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor

from atoll.optim.flat import floats


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256, 64 hex digits, of the little-endian bytes of an fp32 tensor [n]; ValueError if it is not one.

    Bits count, not values: 0.0 and -0.0 differ.
    """
    return hashlib.sha256(floats("tensor", tensor).astype("<f4", copy=False).data).hexdigest()


def state_digest(blob_digests: Sequence[str]) -> str:
    """SHA-256, 64 hex digits, of the 32-byte digests in the order given; ValueError if one has another size.

    The anchor digest of a round is `state_digest([tensor_digest(anchor), tensor_digest(momentum)])`, so
    it covers all that the next outer step starts from, and a peer that holds the two digests can verify
    the two blobs one by one.
    """
    sha = hashlib.sha256()
    for digest in blob_digests:
        raw = bytes.fromhex(digest)
        if len(raw) != 32:
            raise ValueError(f"a digest has 64 hexadecimal digits: {digest[:80]!r}")
        sha.update(raw)
    return sha.hexdigest()
