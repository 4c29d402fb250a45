"""Random messages of every kind, as the wire allows them: any number that fits, any text, any digest.

Bodies name the places of members, so all of them are about one list of members, `Pool.before`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from protocol_samples import RUN, digest, members, peer

from atoll.protocol import messages as m
from atoll.protocol.audit import Replay, Score
from atoll.protocol.commits import Body, Commit, Contributor, Kind, Rejection, Snapshot
from atoll.protocol.ids import REASON_MAX, BlobRef, Digest, PeerId
from atoll.protocol.proofs import (
    Equivocation,
    Farewell,
    Joining,
    Justification,
    Sighting,
    SignedPromise,
    Stage,
)
from atoll.protocol.roster import Member, Reputation, Role
from atoll.protocol.scores import Sent
from atoll.protocol.wire.convert import ROUND_MAX

U32, U64 = (1 << 32) - 1, (1 << 64) - 1
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
reasons = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=REASON_MAX // 8).map(
    lambda text: "".join(letter for letter in text if letter.isprintable())
)


def near(values: Sequence[int], most: int) -> st.SearchStrategy[int]:
    """Numbers that matter, and any other that the wire can carry."""
    return st.one_of(st.sampled_from(list(values)), st.sampled_from([0, most]), st.integers(0, most))


@dataclass(frozen=True)
class Pool:
    """What messages are about: the values that make a random message nearly right."""

    run_id: Digest = RUN
    rounds: Sequence[int] = (1, 2)
    views: Sequence[int] = (0, 1, 2)
    peers: Sequence[PeerId] = (peer("w1"), peer("w2"))
    digests: Sequence[Digest] = (digest("a"), digest("b"))
    sizes: Sequence[int] = (333, 334)
    numbers: Sequence[int] = (1, 10, 1000)
    bodies: Sequence[Body] = ()
    commits: Sequence[Commit] = ()
    snapshots: Sequence[Snapshot] = ()
    signatures: Sequence[bytes] = (b"", bytes(64))
    before: tuple[Member, ...] = members("coordinator", "w1", "w2", "w3")


class Messages:
    """Strategies for one pool. `any` draws a message of any kind."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.rounds = near(pool.rounds, ROUND_MAX)
        self.views, self.parts = near(pool.views, U32), near((0, 1, 2, 3), U32)
        self.u32, self.u64 = near(pool.numbers, U32), near(pool.numbers, U64)
        self.flags = st.booleans()
        self.peers = st.one_of(st.sampled_from(list(pool.peers)), texts.map(PeerId))
        self.digests = st.one_of(
            st.sampled_from(list(pool.digests)),
            st.binary(min_size=32, max_size=32).map(lambda b: Digest(b.hex())),
        )
        self.refs = st.builds(BlobRef, self.digests, near(pool.sizes, U64))
        self.signatures = st.one_of(st.sampled_from(list(pool.signatures)), st.binary(max_size=70))
        self._proofs()
        self.contributors = st.builds(Contributor, self.peers, self.u64, self.u32, self.u64)
        value = st.integers(-(1 << 63), (1 << 63) - 1)
        reputations = st.none() | st.builds(Reputation, value, self.u32, value, self.u32)
        self.members = st.builds(
            Member, self.peers, st.sampled_from(Role), self.u64, self.u32, reputation=reputations
        )
        self.bodies = self._bodies()
        self.commits = self._commits()
        self.snapshots = self._snapshots()
        self.kinds = self._kinds()
        self.any = st.one_of(*self.kinds.values())

    def _proofs(self) -> None:
        pair, stages = st.tuples(self.digests, self.digests), st.sampled_from(Stage)
        signatures = st.tuples(self.signatures, self.signatures)
        self.certificates = self._few(st.tuples(self.peers, self.signatures))
        here = st.sampled_from([member.peer for member in self.pool.before])
        proof = (near((0, 1), U32), self.u64, self.views, stages, pair, signatures)
        self.evidence = st.builds(Equivocation, self.peers, *proof)
        self.evidence_here = st.builds(Equivocation, here, *proof)
        self.joining = st.builds(Joining, self.peers, self.u64, self.signatures, self.signatures)
        self.farewells = st.builds(Farewell, here, self.u64, self.signatures)
        word = st.none() | st.tuples(self.views, self.digests)
        words = self._few(st.builds(SignedPromise, self.peers, word, self.signatures))
        self.whys = st.none() | st.builds(Justification, words, self.certificates)
        self.sightings = st.none() | st.builds(Sighting, self.views, self.digests, self.signatures)

    def _scores(self, peers: st.SearchStrategy) -> st.SearchStrategy[Score]:
        falls = st.integers(-(1 << 63), (1 << 63) - 1)
        return st.builds(Score, peers, peers, falls, falls, falls, st.sampled_from(Replay), self.signatures)

    def _few(self, items: st.SearchStrategy) -> st.SearchStrategy:
        return st.lists(items, max_size=4).map(tuple)

    def _right_parts(self) -> st.SearchStrategy:
        """Blobs of exactly the sizes that the codec gives, or any."""
        exact = st.tuples(*(st.builds(BlobRef, self.digests, st.just(size)) for size in self.pool.sizes))
        return st.one_of(exact, self._few(self.refs))

    def _of_some(
        self, members: tuple[Member, ...], what: st.SearchStrategy
    ) -> st.SearchStrategy[tuple[tuple[PeerId, Any], ...]]:
        """Something said of some of these members, in their order."""
        places = st.integers(0, len(members) - 1)
        return st.dictionaries(places, what, max_size=4).map(
            lambda said: tuple((members[place].peer, said[place]) for place in sorted(said))
        )

    def _contributors(self) -> st.SearchStrategy[tuple[Contributor, ...]]:
        alike = st.builds(lambda tokens, steps: (tokens, steps, tokens), self.u64, self.u32)
        row = st.one_of(alike, st.tuples(self.u64, self.u32, self.u64))
        return self._of_some(self.pool.before, row).map(
            lambda rows: tuple(Contributor(who, *numbers) for who, numbers in rows)
        )

    def after(self) -> st.SearchStrategy[tuple[Member, ...]]:
        """The members of the next round: any of this one's, as they were or changed, and any others."""
        same = st.lists(st.sampled_from(self.pool.before), max_size=8)
        changed = st.lists(self.members, max_size=3)
        some = st.tuples(same, changed).map(lambda two: {m.peer: m for part in two for m in part})
        ordered = some.map(lambda found: tuple(found[who] for who in sorted(found)))
        return st.one_of(st.just(self.pool.before), ordered)

    def _bodies(self) -> st.SearchStrategy[Body]:
        body = st.builds(
            Body,
            run_id=st.one_of(st.just(self.pool.run_id), self.digests),
            round=near(self.pool.rounds, U64),
            parent=self.digests,
            kind=st.sampled_from(Kind),
            anchor=self.digests,
            before=st.just(self.pool.before),
            members=self.after(),
            contributors=self._contributors(),
            rejected=self._of_some(self.pool.before, texts).map(
                lambda rows: tuple(Rejection(*row) for row in rows)
            ),
            blobs=self._right_parts(),
            fragment=near((0,), U32),
            epoch=near((0, 1), U32),
            evidence=self._few(self.evidence_here),
            joining=self._few(self.joining),
            farewells=self._few(self.farewells),
            sent=self._of_some(self.pool.before, st.tuples(self.u32, self.digests)).map(
                lambda rows: tuple(Sent(who, *said) for who, said in rows)
            ),
            scores=self._few(self._scores(st.sampled_from([member.peer for member in self.pool.before]))),
        )
        return st.one_of(st.sampled_from(list(self.pool.bodies)), body) if self.pool.bodies else body

    def _commits(self) -> st.SearchStrategy[Commit]:
        """A recovery has the authority's signature and no view, others the votes of members."""

        def certified(body: Body) -> st.SearchStrategy[Commit]:
            if body.kind is Kind.RECOVERY:
                alone = st.tuples(st.tuples(self.peers, self.signatures))
                return st.builds(Commit, st.just(body), st.just(0), alone)
            votes = self._of_some(body.before, self.signatures)
            return st.builds(Commit, st.just(body), self.views, votes)

        any_ = self.bodies.flatmap(certified)
        return st.one_of(st.sampled_from(list(self.pool.commits)), any_) if self.pool.commits else any_

    def _snapshots(self) -> st.SearchStrategy[Snapshot]:
        """Of commits that nobody knows: by whose members the commits beside it are read is another matter."""
        unknown = st.binary(min_size=32, max_size=32).map(lambda b: Digest(b.hex()))
        any_ = st.builds(
            Snapshot,
            near(self.pool.rounds, U64),
            self.u32,
            unknown,
            self.u64,
            self._few(self.members),
            self.signatures,
        )
        return st.one_of(st.sampled_from(list(self.pool.snapshots)), any_) if self.pool.snapshots else any_

    def _columns(self, participants: Sequence[Contributor]) -> st.SearchStrategy:
        size = st.one_of(st.just(len(participants)), st.integers(0, 4))
        blobs = size.flatmap(lambda n: st.lists(self.refs, min_size=n, max_size=n).map(tuple))
        return self._few(st.builds(m.Column, self.parts, blobs))

    def _plans(self) -> st.SearchStrategy[m.Plan]:
        return self._few(self.contributors).flatmap(
            lambda who: st.builds(m.Plan, self.rounds, self.views, self.u32, st.just(who), self._columns(who))
        )

    def _kinds(self) -> dict[str, st.SearchStrategy[m.Message]]:
        r, v = self.rounds, self.views
        few_peers, accepted = self._few(self.peers), st.none() | st.tuples(v, self.bodies)
        offered = (
            self.digests,
            self.u64,
            self.u32,
            self._right_parts(),
            self.flags,
            self.signatures,
            self.u64,
            self.u64,
            self.u64,
        )
        return {
            "Offer": st.builds(m.Offer, r, v, *offered),
            "Ahead": r.flatmap(
                lambda now: st.builds(
                    m.Ahead, st.just(now), st.builds(m.Offer, st.just(now + 1), v, *offered)
                )
            ),
            "Alive": st.builds(m.Alive, r, v, self.u32),
            "Waiting": st.builds(m.Waiting, r, v, reasons),
            "Plan": self._plans(),
            "Held": st.builds(m.Held, r, v, self.parts, few_peers, st.binary(max_size=8)),
            "Cut": st.builds(m.Cut, r, v, self.u32, self._few(self.contributors)),
            "Reduced": st.builds(m.Reduced, r, v, self.u32, self.parts, self.refs),
            "Summed": st.builds(m.Summed, r, v, self.parts, self.refs),
            "Propose": st.builds(
                m.Propose, r, v, self.bodies, few_peers, self.flags, self.signatures, self.whys
            ),
            "Vote": st.builds(m.Vote, r, v, self.digests, self.signatures, st.sampled_from(Stage)),
            "Prepare": st.builds(m.Prepare, r, v),
            "Promise": st.builds(
                m.Promise, r, v, accepted, self.signatures, self.certificates, self.sightings
            ),
            "Commits": st.builds(m.Commits, r, self._few(self.commits), self.u64, st.none() | self.snapshots),
            "AskCommits": st.builds(m.AskCommits, r),
            "Join": st.builds(m.Join, r, st.sampled_from(Role), self.signatures, self.signatures),
            "Leave": st.builds(m.Leave, r, reasons, self.signatures),
            "AskState": st.builds(m.AskState, r),
            "State": st.builds(m.State, r, self.digests, self._few(self.refs)),
            "Refuse": st.builds(m.Refuse, r, reasons),
            "Seal": st.builds(m.Seal, r, near(self.pool.rounds, U64), self.signatures),
            "Lock": st.builds(m.Lock, r, v, self.digests, self.certificates),
            "Accuse": st.builds(m.Accuse, r, self._few(self.evidence)),
            "AskParts": st.builds(m.AskParts, r),
            "Parts": st.builds(m.Parts, r, self._right_parts()),
            "Scores": st.builds(m.Scores, r, self._few(self._scores(self.peers))),
        }
