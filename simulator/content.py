"""What blobs would hold, as digests: other inputs give other digests, and nothing else does.

No bytes exist in the simulator. A contribution names who trained what and in which life of its process; a
mean, its inputs in order with their weights; a state, the state before it and the update of one fragment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from atoll.protocol.actions import Aggregate
from atoll.protocol.commits import Body
from atoll.protocol.events import StateLoaded
from atoll.protocol.fragments import anchor_digest, blobs_of
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_bytes, digest_of
from atoll.protocol.manifest import Manifest, RoundRules
from atoll.protocol.roster import Same

NUMEL = 400_000
BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a worker did for a round. `anchor` is the digest of the fragment that it started from.

    `unit` is the one that it trained, where replicas train the same, and else -1.
    """

    round: int
    anchor: Digest
    tokens: int
    steps: int
    unit: int = -1
    parts: tuple[BlobRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large encoded things are, as the codec of a run would make them. Every peer derives the same."""

    fragments: int = 1
    sparse: bool = False

    def part_bytes(self, fragment: int, parts: int) -> tuple[int, ...]:
        return _part_bytes(_numel(fragment, self.fragments), parts, self.sparse)


def _numel(fragment: int, fragments: int) -> int:
    return NUMEL * (fragment + 1) // fragments - NUMEL * fragment // fragments


@lru_cache(maxsize=512)
def _part_bytes(numel: int, parts: int, sparse: bool) -> tuple[int, ...]:
    """Dense: int8 and one scale for each block. Sparse: place and value of one number in 64."""
    bounds = [numel * i // parts for i in range(parts + 1)]
    lengths = [end - start for start, end in pairwise(bounds)]
    return tuple(5 * (length // 64) if sparse else length + 4 * -(-length // BLOCK) for length in lengths)


def initial_state(fragments: int) -> tuple[BlobRef, ...]:
    """Anchor and momentum of round 0, fp32, of each fragment."""
    return tuple(
        BlobRef(digest_of(f"{what} {fragment}".encode()), 4 * _numel(fragment, fragments))
        for fragment in range(fragments)
        for what in ("anchor", "momentum")
    )


def initial(manifest: Manifest) -> StateLoaded:
    """The state that a run begins with."""
    return StateLoaded(0, manifest.anchor, manifest.anchor_blobs)


def encoded(peer: PeerId, life: int, done: Contribution, sizes: tuple[int, ...]) -> Contribution:
    """A pseudo-gradient in parts. Training twice from one anchor gives other bits, hence `life`.

    But for a unit: whoever trains it, and whenever, has the same.
    """
    who = f"unit {done.unit} {done.steps}" if done.unit >= 0 else f"{peer} {life}"
    seed = digest_of(f"{who} {done.round} {done.anchor} {len(sizes)}".encode())[:-4]
    parts = tuple(BlobRef(Digest(f"{seed}{part:04x}"), size) for part, size in enumerate(sizes))
    return replace(done, parts=parts)


def _by(peer: PeerId, rules: RoundRules) -> str:
    """Whose a contribution is; of a unit's replicas it makes no difference."""
    return "" if rules.replicated else f"{peer} "


def mean(action: Aggregate, size: int, rules: RoundRules) -> BlobRef:
    """The encoded weighted mean of one part, in the order of its inputs."""
    pieces = [f"{_by(peer, rules)}{weight} {ref.digest}" for peer, weight, ref in action.inputs]
    return BlobRef(digest_of(b"mean", " ".join(pieces).encode()), size)


def stepped(state: StateLoaded, body: Body, rules: RoundRules) -> StateLoaded:
    """The state after the outer step that `body` decided: its fragment differs, the others are as before."""
    changed, update = set(blobs_of(state.blobs, body.fragment, rules.fragments)), _update(Same(body), rules)
    blobs = tuple(
        BlobRef(digest_of(b"step", digest_bytes(ref.digest), update), ref.size) if ref in changed else ref
        for ref in state.blobs
    )
    return StateLoaded(body.round, anchor_digest(blobs), blobs)


@lru_cache(maxsize=64)
def _update(body: Same[Body], rules: RoundRules) -> bytes:
    """What of a body makes a difference to the state; all peers of a large swarm ask for the same."""
    counted = [f"{_by(c.peer, rules)}{c.weight}" for c in body.it.contributors]
    return digest_bytes(digest_of(" ".join([*counted, *(ref.digest for ref in body.it.blobs)]).encode()))
