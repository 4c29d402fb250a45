"""Fragments: the model cut into pieces, each with rounds of its own. Round t is for fragment t mod P.

A state's blobs are listed fragment by fragment, each fragment with as many. The digest of a fragment is made
as that of the whole state is, over the digests of its blobs; so with one fragment the two are the same.
(Streaming DiLoCo, Douillard et al. 2025)
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll.protocol.ids import BlobRef, Digest, digest_bytes, digest_of


def fragment_of(round_: int, fragments: int) -> int:
    """The fragment that a round is for. After a skip, a fragment waits for the next round of its own."""
    return round_ % fragments


def blobs_of(blobs: Sequence[BlobRef], fragment: int, fragments: int) -> tuple[BlobRef, ...]:
    """The blobs of a state that belong to one fragment."""
    count = len(blobs) // fragments
    return tuple(blobs[fragment * count : (fragment + 1) * count])


def anchor_digest(blobs: Sequence[BlobRef]) -> Digest:
    """Digest of the anchor, and of the optimiser's state, that these blobs hold."""
    return digest_of(*(digest_bytes(ref.digest) for ref in blobs))


def start_digest(blobs: Sequence[BlobRef], round_: int, fragments: int) -> Digest:
    """What contributions to a round start from: the digest of its fragment in the state of these blobs."""
    return anchor_digest(blobs_of(blobs, fragment_of(round_, fragments), fragments))
