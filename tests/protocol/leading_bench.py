"""A leader on the bench: three workers and a coordinator, offers by name, owners that answer when told to."""

from __future__ import annotations

from typing import Any

from protocol_samples import ANCHOR, blobs, digest, part_bytes, peer, terms

from atoll.protocol.ids import BlobRef, PeerId
from atoll.protocol.leading import Leading
from atoll.protocol.messages import Cut, Held, Offer, Plan, Reduced

NAMES = ("w1", "w2", "w3", "coordinator")
FIVE = ("w1", "w2", "w3", "w4", "w5", "coordinator")
W1, W2, W3 = map(peer, ("w1", "w2", "w3"))
TERMS = terms(*NAMES, updates=1)


def offer(name: str, tokens: int = 1000, steps: int = 10, **changes: Any) -> Offer:
    return Offer(1, 0, ANCHOR, tokens, steps, **{"parts": blobs(name), **changes})


def leading(*names: str, given: Any = TERMS, view: int = 0) -> Leading:
    """A leader that has these offers."""
    lead = Leading(given, view, 1000)
    for name in names:
        lead.offer(peer(name), offer(name), 2000)
    return lead


Sent = list[tuple[tuple[PeerId, ...], Any]]


def plans_of(sent: Sent) -> dict[PeerId, Plan]:
    return {to[0]: message for to, message in sent if isinstance(message, Plan)}


def cuts_of(sent: Sent) -> list[tuple[tuple[PeerId, ...], Cut]]:
    return [(to, message) for to, message in sent if isinstance(message, Cut)]


def owner(lead: Leading, part: int) -> PeerId:
    assert lead.exchange is not None
    return lead.exchange.owners[part]


def hold(lead: Leading, part: int, *names: str) -> Sent:
    return lead.held(owner(lead, part), Held(1, 0, part, tuple(map(peer, names))))


def revision(lead: Leading) -> int:
    assert lead.exchange is not None
    return lead.exchange.revision


def mean(part: int) -> BlobRef:
    return BlobRef(digest(f"mean {part}"), part_bytes(3)[part])


def reduce(lead: Leading, part: int, **changes: Any) -> None:
    given = {"round": 1, "view": 0, "revision": revision(lead), "part": part, "blob": mean(part)}
    lead.reduced(owner(lead, part), Reduced(**{**given, **changes}))


def exchange(lead: Leading, *names: str) -> None:
    """The whole exchange, in which every owner holds what `names` contributed."""
    lead.plan()
    for part in range(3):
        hold(lead, part, *(names or ("w1", "w2", "w3")))
    for part in range(3):
        reduce(lead, part)


def lead_proposes(lead: Leading, body: Any) -> Sent:
    lead.body = body
    return lead.propose(TERMS.voters)
