"""Who owns how much of an update: by what their uplinks carry, so that all are done at about the same time.

An owner sends the mean of its parts to everybody, and its contribution to the other owners: 2 (P - 1) / P of
a payload each among P equals. One that owns nothing sends its contribution only. In a sparse exchange, where
nobody owns anything, a slow uplink sends its contribution once, and the leader passes it on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from atoll.protocol.ids import PeerId

ENOUGH = 125_000_000
"""Bytes per second, 1 Gbit/s: beyond it processors are the limit, and vary more than links do."""


def shared_out(parts: int, order: Sequence[PeerId], uplinks: Mapping[PeerId, int]) -> list[PeerId]:
    """The owner of each part: the one that would be done first with it too; of several, the first in `order`.

    `uplinks` are in bytes per second, 0 where unknown. Measurements vary: one that has half of the usual
    rate, which is the median, counts as usual, and so do an unknown one and all beyond ENOUGH.
    """
    speeds = _speeds(order, uplinks)
    owned: Counter[PeerId] = Counter()
    owners = []
    for _ in range(parts):
        done = {peer: (parts + (len(order) - 2) * (owned[peer] + 1)) / speeds[peer] for peer in order}
        owner = min(order, key=lambda peer: (done[peer], owned[peer]))
        owned[owner] += 1
        owners.append(owner)
    return owners


def relayed(
    leader: PeerId, contributors: Collection[PeerId], uplinks: Mapping[PeerId, int], copies: int
) -> set[PeerId]:
    """Whose contributions the leader of a sparse exchange gives to others, as it has them all.

    `copies` of each are still wanted. A slow uplink is spared all of them if the leader, beside its own, is
    done with them sooner: so nobody waits longer than without, and the slowest no longer sets the pace.
    """
    speeds = _speeds(tuple(dict.fromkeys((*contributors, leader))), uplinks)
    load, taken = copies + 1 if leader in contributors else 0, set()
    for peer in sorted(set(contributors) - {leader}, key=lambda peer: (speeds[peer], peer)):
        if (load + copies) * speeds[peer] >= copies * speeds[leader]:
            break
        taken.add(peer)
        load += copies
    return taken


def _speeds(order: Sequence[PeerId], uplinks: Mapping[PeerId, int]) -> dict[PeerId, int]:
    known = sorted(min(rate, ENOUGH) for peer in order if (rate := uplinks.get(peer, 0)) > 0)
    usual = known[len(known) // 2] if known else 1
    rates = {peer: uplinks.get(peer, 0) for peer in order}
    return {peer: rate if 0 < 2 * rate < usual else usual for peer, rate in rates.items()}
