"""Fractional repetition: several workers train one unit of a round, and any of them may be missing.

A unit is a shard of the round's data, trained from the round's anchor, whoever does it. The workers of a
round, in the order of their peer ids, fall into groups of `replicas`, and each group trains one unit: so
contributors in the order of their peer ids are in that of their units, and a sum has the same bits whoever
of a group contributed. (Tandon et al. 2017; the pure functions of other codes are in optim/coding)
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from atoll.protocol.commits import Body, Contributor
from atoll.protocol.ids import PeerId, digest_bytes, digest_of, short
from atoll.protocol.messages import Offer

OTHER_BYTES = ", in other bytes"
Groups = tuple[tuple[PeerId, ...], ...]


def groups_of(ranked: Sequence[PeerId], replicas: int) -> Groups:
    """The workers of each unit: as many groups of `replicas` as there can be, larger ones first.

    The same groups as `optim.coding.codes.repetition` has.
    """
    count = max(1, len(ranked) // replicas)
    size, larger = divmod(len(ranked), count)
    bounds = [place * size + min(place, larger) for place in range(count + 1)]
    return tuple(tuple(ranked[bounds[place] : bounds[place + 1]]) for place in range(count))


def unit_of(peer: PeerId, groups: Groups) -> int:
    """Which unit a worker trains. Who weighs nothing yet trains with those it stands among by its peer id."""
    return min(bisect_left([group[-1] for group in groups if group], peer), len(groups) - 1)


def picked(offered: Collection[PeerId], offers: Mapping[PeerId, Offer], tokens: int) -> PeerId:
    """Whose offer of a unit is taken: a whole one if there is any, the bytes that most gave, the lowest rank.

    `tokens` are those of the whole unit. Of three one that errs is outvoted; of two nobody is.
    """
    done = {peer: min(offers[peer].tokens, tokens) for peer in sorted(offered)}
    most = [peer for peer in done if done[peer] == max(done.values())]
    agreeing = Counter(offers[peer].parts for peer in most)
    return max(most, key=lambda peer: agreeing[offers[peer].parts])


def torn(offered: Collection[PeerId], offers: Mapping[PeerId, Offer], tokens: int) -> bool:
    """Whether two results of a unit have as many replicas each behind them, so that none is outvoted."""
    done = {peer: min(offers[peer].tokens, tokens) for peer in offered}
    results = Counter(offers[peer].parts for peer in done if done[peer] == max(done.values()))
    first, second = (*(count for _, count in results.most_common(2)), 0)[:2]
    return first == second


def name_of(participants: Sequence[Contributor]) -> bytes:
    """What an owner calls the plan that it answers: its leader may have given it up for another by then."""
    listed = "\n".join(f"{c.peer} {c.tokens} {c.steps} {c.weight}" for c in participants)
    return digest_bytes(digest_of(listed.encode()))[:8]


def reason(peer: PeerId, taken: PeerId, offers: Mapping[PeerId, Offer]) -> str:
    """Why a replica's offer is not in the update; whether the two should have been alike, and were not."""
    mine, other = offers[peer], offers[taken]
    alike = (mine.tokens, mine.steps) == (other.tokens, other.steps)
    differ = alike and mine.parts != other.parts
    return f"its unit came from {short(taken)}" + (OTHER_BYTES if differ else "")


def torn_reason(peer: PeerId, offered: Collection[PeerId], offers: Mapping[PeerId, Offer]) -> str:
    """Why an offer of a unit is not in the update that as many others gave with another result."""
    other = min((o for o in offered if offers[o].parts != offers[peer].parts), default=peer)
    return f"its unit is left out: {short(other)} trained it" + OTHER_BYTES


def disputed(body: Body) -> dict[PeerId, str]:
    """Of whom a commit says that it trained a unit to other bytes than the one that was taken, and how."""
    return {r.peer: r.reason for r in body.rejected if r.reason.endswith(OTHER_BYTES)}


def counts(body: Body, peer: PeerId, groups: Groups) -> bool:
    """Whether what this peer trained is part of an update: by itself, or by a replica of the same unit."""
    return peer in body.counted or any(
        peer in group and not body.counted.isdisjoint(group) for group in groups
    )
