"""The leader's part in a sparse exchange: it fetches the contributions themselves, and those are the update.

No part has an owner, and nothing is summed before the commit: each contributor owns the one blob that is its
contribution. What has arrived when the time is over fixes the contributor set. The others fetch each blob
from who made it, or from the leader if that is sooner.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from atoll.protocol.ids import BlobRef, Digest, PeerId
from atoll.protocol.leading import Exchange, Leading
from atoll.protocol.reasons import NOT_IN_TIME
from atoll.protocol.shares import relayed


@dataclass(slots=True)
class Collecting:
    """What `lead` wants of whom. `impatient` once the time for it is over."""

    me: PeerId
    lead: Leading
    exchange: Exchange
    wanted: dict[PeerId, BlobRef]
    failed: set[PeerId] = field(default_factory=set)
    impatient: bool = False

    def missing(self, held: Collection[Digest]) -> list[tuple[PeerId, BlobRef]]:
        """What is still to be fetched, and from whom."""
        if self.exchange.cut is not None:
            return []
        return [(peer, ref) for peer, ref in self.wanted.items() if ref.digest not in held]

    def fail(self, digest: Digest) -> None:
        self.failed |= {peer for peer, ref in self.wanted.items() if ref.digest == digest}

    def cut(self, held: Collection[Digest], quorum: int) -> None:
        """Fix the contributor set, unless something is worth waiting for: a late one, or a quorum."""
        missing = {peer for peer, _ in self.missing(held)}
        enough = len(self.wanted) - len(missing) >= quorum
        if self.exchange.cut is not None or not (self.impatient or (enough and missing <= self.failed)):
            return
        self.lead.rejected.update(dict.fromkeys(missing, NOT_IN_TIME))
        kept = tuple(c for c in self.exchange.participants if c.peer not in missing)
        self.exchange.cut, self.exchange.owners = kept, [c.peer for c in kept]
        self.exchange.reduced = {place: self.wanted[c.peer] for place, c in enumerate(kept)}
        uplinks = {c.peer: self.lead.offers[c.peer].uplink for c in kept}
        spared = relayed(self.me, self.exchange.owners, uplinks, len(self.lead.terms.members) - 2)
        if spared:
            self.exchange.relays = tuple(self.me if c.peer in spared else c.peer for c in kept)


def collecting(me: PeerId, lead: Leading) -> Collecting:
    """Begin with the offers that are here; the same bytes count for who offered them first."""
    wanted: dict[PeerId, BlobRef] = {}
    known: set[Digest] = set()
    for peer, offer in lead.offers.items():
        (ref,) = offer.parts
        if ref.digest in known:
            lead.rejected[peer] = "its contribution is the same as another's"
        else:
            known.add(ref.digest)
            wanted[peer] = ref
    participants = tuple(lead.weigh(peer, lead.offers[peer]) for peer in sorted(wanted))
    lead.exchange = Exchange(participants, owners=[])
    return Collecting(me, lead, lead.exchange, wanted)
