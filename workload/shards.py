"""Who reads which windows: disjoint shards by (round, member), with nothing to agree on beforehand.

All windows of all rounds are dealt from one endless sequence of positions. Position p falls in pass
p // windows over the data; within a pass a keyed permutation turns positions into windows. Every peer can
compute any batch of any member, and integers only are used, so all machines deal alike.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

ROUNDS = 4


def batch(
    run_seed: bytes,
    round: int,
    member: int,
    members: int,
    step: int,
    batch_sequences: int,
    steps: int,
    windows: int,
) -> npt.NDArray[np.int64]:
    """Give the window indices, int64 [batch_sequences], of one member's inner step in one round.

    `steps` is the run's inner steps per round, the same for every member; one that is assigned fewer
    leaves its last positions unread. Within a pass no window is dealt twice in a round, whatever each
    member's number of steps. Rounds follow each other without a gap while `members` stays the same.
    """
    assert 0 <= member < members, (member, members)
    assert min(windows, round + 1, step + 1) > 0, (windows, round, step)
    first = ((round * steps + step) * members + member) * batch_sequences
    return np.array([_window(run_seed, first + i, windows) for i in range(batch_sequences)], np.int64)


def _window(run_seed: bytes, position: int, windows: int) -> int:
    data_pass, place = divmod(position, windows)
    return permute(place, windows, _keys(run_seed, data_pass))


def permute(place: int, size: int, keys: tuple[int, ...]) -> int:
    """Map 0..size-1 onto itself: a Feistel network over the next power of four, walked until inside.

    (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002)
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        place = left << half | right
        if place < size:
            return place


def _keys(run_seed: bytes, data_pass: int) -> tuple[int, ...]:
    text = b"atoll windows" + len(run_seed).to_bytes(4, "big") + run_seed + data_pass.to_bytes(16, "big")
    digest = hashlib.blake2b(text, digest_size=8 * ROUNDS).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "big") for i in range(0, len(digest), 8))


def _mix(x: int) -> int:
    """Scramble 64 bits, high bits into low ones. (SplitMix64's finalizer, Steele et al. 2014)"""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)
