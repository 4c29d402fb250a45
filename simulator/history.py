"""The commits that were seen anywhere: one chain for each epoch. A recovery begins one on what it follows.

Who has not heard of an epoch may go on with the one before, so the older chains grow too.
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll.protocol.commits import Commit, Kind
from atoll.protocol.ids import Digest


class History:
    def __init__(self, run_id: Digest) -> None:
        self.run_id = run_id
        self.chains: dict[int, list[Commit]] = {0: []}
        self.parents: dict[Digest, Commit | None] = {run_id: None}
        self.epoch = 0

    @property
    def chain(self) -> list[Commit]:
        """The chain of the newest epoch: what the run has come to."""
        return self.chains[self.epoch]

    def knows(self, commit: Commit) -> bool:
        return commit.body.digest in self.parents

    def overtaken(self, commit: Commit) -> bool:
        """Whether this is of an older epoch than the newest one, which does not go on from it."""
        body = commit.body
        here = self.chain[body.round - 1 : body.round]
        return self.epoch > body.epoch and body.digest not in [known.body.digest for known in here]

    def before(self, commit: Commit) -> Sequence[Commit] | None:
        """The commits that this one follows, if it follows any that were seen."""
        body = commit.body
        if body.parent not in self.parents:
            return None
        parent = self.parents[body.parent]
        chain = self.chains[parent.body.epoch if parent is not None else 0]
        return chain[: body.round - 1]

    def add(self, commit: Commit) -> bool:
        """Take a commit in; whether it was unseen and follows one that was seen."""
        before = self.before(commit)
        if self.knows(commit) or before is None:
            return False
        body = commit.body
        self.parents[body.digest] = commit
        if body.kind is Kind.RECOVERY:
            self.chains[body.epoch] = [*before, commit]
            self.epoch = max(self.epoch, body.epoch)
        elif body.round == len(self.chains[body.epoch]) + 1:
            self.chains[body.epoch].append(commit)
        return True
