"""Small, real things that the tests of protocol/ share: keys by name, a manifest, terms, signed commits."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeVar

from atoll.protocol.commits import Body, Commit, Contributor, Kind, vote_message
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_of
from atoll.protocol.keys import Key
from atoll.protocol.ledger import Genesis, Ledger
from atoll.protocol.manifest import Assignment, Manifest, MembershipRules, RoundRules
from atoll.protocol.roster import Member, Role
from atoll.protocol.terms import Terms

T = TypeVar("T")
RUN = digest_of(b"a run")
ANCHOR = digest_of(b"an anchor")
NUMEL = 1000
ASSIGNED = Assignment(steps=10, tokens=1000)
RULES = RoundRules(
    grace_ms_min=100,
    grace_ms_max=1_000,
    train_ms_max=60_000,
    deadline_ms=4_000,
    retry_ms=500,
    lease_ms=5_000,
    missed_max=2,
    probation_rounds=1,
)


@cache
def key(name: str) -> Key:
    """The key of a peer that the tests call by name."""
    return Key(hashlib.sha256(name.encode()).digest())


def peer(name: str) -> PeerId:
    return key(name).peer


def part_bytes(parts: int) -> tuple[int, ...]:
    """As a codec of one byte for each number would encode NUMEL numbers in parts."""
    return tuple(NUMEL * (part + 1) // parts - NUMEL * part // parts for part in range(parts))


def fragment_bytes(rules: RoundRules) -> Callable[[int, int], tuple[int, ...]]:
    """The same of a vector in fragments of equal sizes; a sparse contribution has a tenth of the bytes."""
    numel = NUMEL // rules.fragments // (10 if rules.exchange == "sparse" else 1)
    return lambda fragment, parts: tuple(numel * (p + 1) // parts - numel * p // parts for p in range(parts))


def initial_blobs(fragments: int = 1) -> tuple[BlobRef, ...]:
    names = (
        f"{what} {fragment}".encode() for fragment in range(fragments) for what in ("anchor", "momentum")
    )
    return tuple(BlobRef(digest_of(name), 4 * NUMEL // fragments) for name in names)


def manifest(rules: RoundRules = RULES, **changes: Any) -> Manifest:
    """One that is in order. `changes` replace whole keys."""
    sound = Manifest(
        name="a run",
        authority=peer("authority"),
        numel=NUMEL,
        anchor_blobs=initial_blobs(rules.fragments),
        assignment=ASSIGNED,
        rounds=rules,
        membership=MembershipRules(witnesses=(peer("coordinator"),)),
    )
    return dataclasses.replace(sound, **changes)


def member(name: str, **changes: Any) -> Member:
    role = Role.WITNESS if name.startswith(("coordinator", "witness")) else Role.WORKER
    return Member(peer(name), **{"role": role, **changes})


def members(*names: str) -> tuple[Member, ...]:
    return tuple(sorted((member(name) for name in names), key=lambda m: m.peer))


def terms(*names: str, parts: int = 3, updates: int = 0, rules: RoundRules = RULES, **changes: Any) -> Terms:
    """The terms of a round of these members."""
    given: dict[str, Any] = {
        "run_id": RUN,
        "round": 1,
        "parent": RUN,
        "members": members(*names),
        "updates": updates,
        "rules": rules,
        "assignment": ASSIGNED,
        "part_bytes": part_bytes(parts),
    }
    return Terms(**{**given, **changes})


def blobs(label: str, parts: int = 3) -> tuple[BlobRef, ...]:
    return tuple(
        BlobRef(digest_of(label.encode(), bytes([part])), size) for part, size in enumerate(part_bytes(parts))
    )


def contributor(name: str, tokens: int = 1000, weight: int | None = None) -> Contributor:
    return Contributor(peer(name), tokens, 10, min(tokens, ASSIGNED.tokens) if weight is None else weight)


def update(terms: Terms, *names: str, **changes: Any) -> Body:
    """The body of an update that nothing is wrong with."""
    sound = Body(
        run_id=terms.run_id,
        round=terms.round,
        parent=terms.parent,
        kind=Kind.UPDATE,
        anchor=ANCHOR,
        before=terms.members,
        members=terms.members,
        contributors=tuple(contributor(name) for name in sorted(names, key=peer)),
        blobs=blobs(f"mean {terms.round}", len(terms.part_bytes)),
    )
    return dataclasses.replace(sound, **changes)


def votes(body: Body, names: Iterable[str], view: int = 0) -> tuple[tuple[PeerId, bytes], ...]:
    message = vote_message(body.place, view, body.digest)
    return tuple((peer(name), key(name).sign(message)) for name in names)


def skip(ledger: Ledger, **changes: Any) -> Body:
    """The next body of a ledger: one that changes nothing."""
    sound = Body(
        run_id=ledger.genesis.run_id,
        round=ledger.height + 1,
        parent=ledger.head,
        kind=Kind.SKIP,
        anchor=ANCHOR,
        before=ledger.members,
        members=ledger.members,
    )
    return dataclasses.replace(sound, **changes)


def chain(rounds: int, *names: str) -> Ledger:
    """A ledger of skips, each voted for by all."""
    ledger = Ledger(Genesis(RUN, ANCHOR, members(*names)))
    for _ in range(rounds):
        body = skip(ledger)
        ledger.append(Commit(body, 0, tuple(sorted(votes(body, names)))), key(names[0]))
    return ledger


def flipped(raw: bytes, bit: int) -> bytes:
    """The same bytes but for one bit."""
    at, place = divmod(bit % (8 * len(raw)), 8)
    return raw[:at] + bytes([raw[at] ^ 1 << place]) + raw[at + 1 :]


def read(reader: Callable[..., T], *given: Any) -> T | None:
    """What a reader makes of a peer's bytes, or None if it refuses them in a line of words."""
    try:
        return reader(*given)
    except RemoteProtocolError as error:
        reason = str(error)
    assert 0 < len(reason) < 300
    assert reason.isprintable()
    return None


def digest(label: str) -> Digest:
    return digest_of(label.encode())
