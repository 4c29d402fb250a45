"""What blobs would hold, as digests: other inputs give other digests, and nothing else does.

No bytes exist in the simulator. A contribution names who trained what and in which life of its process; a
mean, its inputs in order with their weights; a state, the state before it and the update.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from atoll.protocol.actions import Aggregate
from atoll.protocol.commits import Body
from atoll.protocol.events import StateLoaded
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_bytes, digest_of

NUMEL = 400_000
BLOCK = 4096


@lru_cache(maxsize=128)
def part_bytes(parts: int) -> tuple[int, ...]:
    """Encoded sizes of the parts of the vector: int8 and one scale for each block."""
    bounds = [NUMEL * i // parts for i in range(parts + 1)]
    lengths = [end - start for start, end in pairwise(bounds)]
    return tuple(length + 4 * -(-length // BLOCK) for length in lengths)


def initial_state() -> tuple[BlobRef, ...]:
    """Anchor and momentum of round 0, fp32."""
    return tuple(BlobRef(digest_of(name), 4 * NUMEL) for name in (b"anchor 0", b"momentum 0"))


def contribution(peer: PeerId, life: int, round_: int, anchor: Digest, parts: int) -> tuple[BlobRef, ...]:
    """A pseudo-gradient in parts. Training twice from one anchor gives other bits, hence `life`."""
    seed = f"{peer} {life} {round_} {anchor} {parts} ".encode()
    return tuple(
        BlobRef(digest_of(seed, str(part).encode()), size) for part, size in enumerate(part_bytes(parts))
    )


def mean(action: Aggregate) -> BlobRef:
    """The encoded weighted mean of one part, in the order of its inputs."""
    pieces = [f"{peer} {weight} {ref.digest}".encode() for peer, weight, ref in action.inputs]
    return BlobRef(digest_of(b"mean", *pieces), part_bytes(action.parts)[action.part])


def stepped(state: StateLoaded, body: Body) -> StateLoaded:
    """The state after the outer step that `body` decided."""
    update = [digest_bytes(ref.digest) for ref in body.blobs]
    blobs = tuple(
        BlobRef(digest_of(b"step", digest_bytes(ref.digest), *update), ref.size) for ref in state.blobs
    )
    return StateLoaded(body.round, digest_of(*(digest_bytes(ref.digest) for ref in blobs)), blobs)
