"""The ledger: a hash chain of commits, each signed by enough of those who vote in its round.

Commit 0 is the signed run manifest; its digest is the run id and the parent of commit 1. A commit's body
is hashed and signed as the exact bytes that travel (commits.py). Votes are over (run, round, view, body
digest): the view is not in the body, so a body proposed again in a later view is still the same commit.

A recovery is signed by the run authority alone, and begins a new epoch: it replaces whatever the ledger had
from its round on. A snapshot, signed by the authority too, stands for all commits up to its round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from atoll.protocol.commits import COMMITS_MAX, Commit, Kind, Snapshot, vote_message
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.keys import Signer
from atoll.protocol.roster import MEMBERS_MAX, VOTERS_MAX, Member, committee, liars_max, majority

NOBODY = PeerId("")


@dataclass(frozen=True, slots=True)
class Genesis:
    """Commit 0: what the manifest says about the start."""

    run_id: Digest
    anchor: Digest
    members: tuple[Member, ...]
    authority: PeerId = NOBODY
    voters_max: int = VOTERS_MAX
    votes: str = "majority"

    def needed(self, voters: int) -> int:
        """Votes that certify a commit of a round in which so many vote."""
        return majority(voters) if self.votes == "majority" else voters - liars_max(voters)


@dataclass(slots=True)
class Ledger:
    """The chain that this peer has verified. `height` is the round of its last commit.

    It begins after `base`, a snapshot, or with commit 1. `banned` are those against whom it holds evidence:
    they never become members again.
    """

    genesis: Genesis
    commits: list[Commit] = field(default_factory=list)
    updates: int = 0
    base: Snapshot | None = None
    banned: frozenset[PeerId] = frozenset()
    _members: dict[Digest, tuple[Member, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._members[self.genesis.run_id] = self.genesis.members

    @property
    def begin(self) -> int:
        """The round that the first kept commit follows."""
        return self.base.round if self.base else 0

    @property
    def height(self) -> int:
        return self.begin + len(self.commits)

    @property
    def head(self) -> Digest:
        return self.digest_of_round(self.height)

    @property
    def epoch(self) -> int:
        return self.commits[-1].body.epoch if self.commits else self.base.epoch if self.base else 0

    @property
    def members(self) -> tuple[Member, ...]:
        """The members of the round in progress."""
        return self.members_of(self.height + 1)

    def members_of(self, round_: int) -> tuple[Member, ...]:
        if round_ > self.begin + 1:
            return self.commit(round_ - 1).body.members
        return self.base.members if self.base else self.genesis.members

    def digest_of_round(self, round_: int) -> Digest:
        if round_ > self.begin:
            return self.commit(round_).body.digest
        return self.base.head if self.base else self.genesis.run_id

    def members_after(self, parent: Digest) -> tuple[Member, ...] | None:
        """The members of the round that follows this commit, if it is one of ours."""
        return self._members.get(parent)

    def commit(self, round_: int) -> Commit:
        assert round_ > self.begin
        return self.commits[round_ - 1 - self.begin]

    def since(self, round_: int, bytes_max: int) -> tuple[Commit, ...]:
        """Commits from `round_` on, as many as fit in one message (at least one)."""
        taken: list[Commit] = []
        size = 0
        for commit in self.commits[max(round_ - 1 - self.begin, 0) :]:
            size += len(commit.body.encoded) + 72 * len(commit.votes)
            if taken and (size > bytes_max or len(taken) == COMMITS_MAX):
                break
            taken.append(commit)
        return tuple(taken)

    def start_of(self, staleness: int) -> Digest | None:
        """What the last update but `staleness - 1` was made from; None if this ledger begins later."""
        updates = (c.body for c in reversed(self.commits) if c.body.kind is Kind.UPDATE)
        return next((body.anchor for body in islice(updates, staleness - 1, None)), None)

    def first_after(self, epoch: int) -> int:
        """The round of the first kept commit of a later epoch; what a peer of that epoch has to hear."""
        if self.base and self.base.epoch > epoch:
            return self.begin
        later = (commit.body.round for commit in self.commits if commit.body.epoch > epoch)
        return next(later, self.height + 1)

    # ---- growing --------------------------------------------------------------------------------

    def append(self, commit: Commit, signer: Signer) -> None:
        """Verify the next commit and take it in; RemoteProtocolError says why it is not the next one.

        A recovery may follow an earlier commit than the last: what came after that one is history no more.
        """
        self.check(commit, signer)
        self._rewind(commit.body.round - 1)
        self.commits.append(commit)
        self.updates += commit.body.kind is Kind.UPDATE
        self.banned |= commit.body.convicted
        self._members[commit.body.digest] = commit.body.members

    def _rewind(self, height: int) -> None:
        if self.height > height:
            self.banned = self._banned_by(height)
        while self.height > height:
            gone = self.commits.pop().body
            self.updates -= gone.kind is Kind.UPDATE
            self._members.pop(gone.digest, None)

    def _banned_by(self, round_: int) -> frozenset[PeerId]:
        """Whom commits up to a round that is kept convict."""
        earlier = frozenset(self.base.banned) if self.base else frozenset[PeerId]()
        kept = self.commits[: max(0, round_ - self.begin)]
        return earlier.union(*(commit.body.convicted for commit in kept))

    def replaces(self, commit: Commit) -> bool:
        """Whether it is a recovery of what this ledger has already."""
        body = commit.body
        return body.kind is Kind.RECOVERY and body.epoch > self.epoch and self.begin < body.round

    def check(self, commit: Commit, signer: Signer) -> None:
        body = commit.body
        if body.run_id != self.genesis.run_id:
            raise RemoteProtocolError("a commit of another run")
        if body.round != self.height + 1 and not (body.round <= self.height and self.replaces(commit)):
            raise RemoteProtocolError(f"commit {body.round} does not follow {self.height}")
        if body.parent != self.digest_of_round(body.round - 1):
            raise RemoteProtocolError(f"commit {body.round} has another parent")
        if body.before != self.members_of(body.round):
            raise RemoteProtocolError(
                f"commit {body.round} was read by other members than those of its round"
            )
        if not body.members or len(body.members) > MEMBERS_MAX:
            raise RemoteProtocolError(f"commit {body.round} names {len(body.members)} members")
        if body.kind is Kind.RECOVERY:
            self._check_recovery(commit, signer)
        elif body.epoch != self.epoch:
            raise RemoteProtocolError(f"commit {body.round} is of epoch {body.epoch}, not {self.epoch}")
        else:
            self._check_votes(commit, signer)

    def _check_recovery(self, commit: Commit, signer: Signer) -> None:
        body, authority = commit.body, self.genesis.authority
        if body.epoch <= self.epoch:
            raise RemoteProtocolError(f"recovery {body.round} does not begin a new epoch")
        if body.contributors or body.blobs or [peer for peer, _ in commit.votes] != [authority]:
            raise RemoteProtocolError(f"recovery {body.round} is not the authority's")
        message = vote_message(body.place, commit.view, body.digest)
        if not signer.verify(authority, message, commit.votes[0][1]):
            raise RemoteProtocolError(f"recovery {body.round} is not signed by the authority")

    def voters(self, round_: int) -> frozenset[PeerId]:
        """Who may vote in a round that this ledger holds the parent of."""
        members, parent = self.members_of(round_), self.digest_of_round(round_ - 1)
        return frozenset(committee(members, parent, self.genesis.voters_max))

    def _check_votes(self, commit: Commit, signer: Signer) -> None:
        body = commit.body
        message = vote_message(body.place, commit.view, body.digest)
        voters, seen = self.voters(body.round), set[PeerId]()
        if len(commit.votes) > len(voters):
            raise RemoteProtocolError(f"commit {body.round} has more votes than members")
        for peer, signature in commit.votes:
            if peer not in voters or peer in seen:
                raise RemoteProtocolError(f"commit {body.round}: {peer[:60]!r} has no vote, or voted twice")
            if not signer.verify(peer, message, signature):
                raise RemoteProtocolError(f"commit {body.round}: the vote of {peer} is not signed by it")
            seen.add(peer)
        if len(seen) < (need := self.genesis.needed(len(voters))):
            enough = "a majority" if self.genesis.votes == "majority" else "two thirds"
            raise RemoteProtocolError(f"commit {body.round}: {len(seen)} votes, {need} are {enough}")

    # ---- snapshots ------------------------------------------------------------------------------

    def snapshot(self, round_: int) -> Snapshot:
        """What the ledger had come to after a round that is kept; unsigned."""
        later = sum(c.body.kind is Kind.UPDATE for c in self.commits[round_ - self.begin :])
        body = self.commit(round_).body
        banned = tuple(sorted(self._banned_by(round_)))
        return Snapshot(round_, body.epoch, body.digest, self.updates - later, body.members, banned=banned)

    def check_snapshot(self, snapshot: Snapshot, signer: Signer) -> None:
        """RemoteProtocolError unless the run authority signed it."""
        if not 0 < len(snapshot.members) <= MEMBERS_MAX:
            raise RemoteProtocolError(f"a snapshot of {len(snapshot.members)} members")
        message = snapshot.message(self.genesis.run_id)
        if not signer.verify(self.genesis.authority, message, snapshot.signature):
            raise RemoteProtocolError("the snapshot is not signed by the run authority")

    def rebase(self, snapshot: Snapshot) -> None:
        """Begin after this (verified) snapshot: older commits go, and those that follow another history."""
        ours = self.begin < snapshot.round <= self.height and (
            self.digest_of_round(snapshot.round) == snapshot.head
        )
        kept = self.commits[snapshot.round - self.begin :] if ours else []
        self.base, self.commits = snapshot, kept
        self.updates = snapshot.updates + sum(c.body.kind is Kind.UPDATE for c in kept)
        self.banned = self._banned_by(self.height)
        self._members = {snapshot.head: snapshot.members}
        self._members |= {commit.body.digest: commit.body.members for commit in kept}
