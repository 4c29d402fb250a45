"""The next round's contributions, encoded and got while this round is voted on and links have nothing to do.

Where training runs ahead, the next round's pseudo-gradient is often there before this round is over. Who has
it encodes it for the members and parts that are likely, and tells all its offer. Once a worker holds all of
this round's update it asks for what it will likely own of the next. Nothing is decided by that: the next
round's leader plans as ever, from offers that it has already, and a wrong guess costs bytes and nothing else.
Where some may lie nobody does any of this, nor where replicas are chosen from, nor in large swarms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol import messages as m
from atoll.protocol.duties import leader, rounds
from atoll.protocol.ids import PeerId
from atoll.protocol.terms import Terms, part_bytes_of, terms_after

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer

MEMBERS_MAX = 32
"""Where there are more, an offer goes to the leader alone: to tell everybody costs more than it saves."""


def allowed(peer: Peer) -> bool:
    """Whether offers are told a round ahead in this run, as it is now."""
    rules = peer.rules
    return (
        rules.overlap > 0
        and rules.exchange == "dense"
        and not peer.terms.two_thirds
        and not peer.terms.replicated
        and len(peer.terms.members) <= MEMBERS_MAX
    )


def encode(peer: Peer) -> None:
    """Encode what the next round is likely to ask for, once this round's own is offered."""
    if (peer.round in peer.working.work and peer.mine is None) or peer.finishing or not allowed(peer):
        return
    if peer.working.to_encode(peer.round + 1):
        peer.out.append(a.Encode(peer.round + 1, len(_likely_bytes(peer)), False, peer.round + 1))


def _likely_bytes(peer: Peer) -> tuple[int, ...]:
    """The sizes of the next round's parts, if its members are those of this one."""
    return part_bytes_of(peer.ledger.members, peer.round + 1, peer.rules, peer.config.part_bytes)


def on_encoded(peer: Peer) -> None:
    """Tell everybody what the next round's leader will be offered."""
    work = peer.working.offered(peer.round + 1)
    if work is None or not peer.active:
        return
    train_ms = work.train_ms if peer.terms.by_speed else 0
    done = (work.anchor, work.tokens, work.steps, work.parts)
    offer = m.Offer(work.round, 0, *done, uplink=peer.config.uplink(), train_ms=train_ms)
    peer.ahead[peer.me] = offer
    others = tuple(other for other in peer.terms.peers if other != peer.me)
    peer.post([(others, m.Ahead(peer.round, offer))])


def on_ahead(peer: Peer, sender: PeerId, ahead: m.Ahead) -> None:
    """Keep an offer until its round begins, or take it now; one for another round has lost its meaning."""
    offer, fits = ahead.offer, len(ahead.offer.parts) <= peer.rules.owners_max
    if sender not in peer.terms.places or not fits or not allowed(peer):
        return
    if offer.round in (peer.round + 1, peer.round + 2):
        peer.ahead[sender] = offer
    elif offer.round == peer.round:
        _take(peer, sender, offer)


def begin(peer: Peer) -> None:
    """A round begins: offer what is encoded for it already, and take the offers that were told ahead."""
    offers, place = peer.ahead, peer.round
    peer.ahead = {who: offer for who, offer in offers.items() if offer.round > place}
    got, peer.got_ahead = peer.got_ahead, False
    if place not in peer.working.work and not offers:
        return
    if peer.working.fits(place, peer.terms.part_bytes) and peer.active:
        rounds.offer(peer)
    for who, offer in offers.items():
        if offer.round == place:
            _take(peer, who, offer)
    if not got:
        _ask(peer, peer.terms, offers)


def _take(peer: Peer, sender: PeerId, offer: m.Offer) -> None:
    """As the leader of the round's first view; its sender makes an offer that does not fit once more."""
    if peer.active and peer.leading is not None and _fits(peer.terms, sender, offer):
        leader.on_offer(peer, sender, offer)


def _fits(terms: Terms, sender: PeerId, offer: m.Offer) -> bool:
    sizes = tuple(ref.size for ref in offer.parts)
    return offer.round == terms.round and sender in terms.eligible and sizes == terms.part_bytes


def react(peer: Peer) -> None:
    """Ask for what the next round's plan will likely have this peer sum, once this round's update is here."""
    if peer.got_ahead or peer.proposal is None or not peer.ahead:
        return
    terms = terms_after(peer.ledger, peer.proposal.body, peer.config.manifest, peer.config.part_bytes)
    peer.got_ahead = _ask(peer, terms, peer.ahead)


def _ask(peer: Peer, terms: Terms, told: Mapping[PeerId, m.Offer]) -> bool:
    """Ask for the columns that this peer owns if all have told their offers; whether they have."""
    offers = {who: offer for who, offer in told.items() if _fits(terms, who, offer)}
    if peer.me not in offers or terms.eligible - offers.keys() - peer.lost:
        return False
    uplinks = {who: offer.uplink for who, offer in offers.items()}
    for part, owner in enumerate(terms.owners(sorted(offers), 0, uplinks)):
        for who, offer in sorted(offers.items()) if owner == peer.me else ():
            if offer.parts[part].digest not in peer.held:
                early = terms.round > peer.round
                peer.fetch(offer.parts[part], (who,), "contribution", early)
    return True
