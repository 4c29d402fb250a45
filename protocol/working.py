"""A worker's part: the rounds that it was asked to train for, each until the ledger says what became of it.

With `overlap` a worker trains for rounds that the ledger has not reached: at most `overlap` of them, which is
less than there are fragments. So no round in between is for the same fragment, and what a contribution starts
from is still what its round's fragment is when that round begins.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.protocol.ids import BlobRef, Digest


@dataclass(slots=True)
class Work:
    """Training for one round. `anchor` is the digest of the round's fragment when training began.

    Late work is offered to a later `round` than the one that it was `begun` for: so many updates later as its
    `staleness` says.
    """

    round: int
    anchor: Digest
    tokens: int = 0
    steps: int = 0
    train_ms: int = 0
    begun_ms: int = 0
    trained: bool = False
    encoding: bool = False
    parts: tuple[BlobRef, ...] = ()
    begun: int = 0
    staleness: int = 0


@dataclass(slots=True)
class Working:
    """All work that is not settled yet, and the last round that was asked for."""

    asked: int = 0
    stirred: bool = True
    work: dict[int, Work] = field(default_factory=dict)

    def next_round(self, present: int, ahead: int) -> int | None:
        """The round to train for: the present one, or at most `ahead` later; None while one is trained."""
        last = self.work.get(self.asked)
        if last is not None and not last.trained:
            return None
        wanted = max(present, self.asked + 1)
        return wanted if wanted <= present + ahead else None

    def begin(self, round_: int, anchor: Digest, now_ms: int = 0) -> None:
        self.asked = round_
        self.work[round_] = Work(round_, anchor, begun_ms=now_ms, begun=round_)

    def trained(self, round_: int, tokens: int, steps: int, train_ms: int = 0) -> bool:
        """Take what training for a round gave; False if nobody waits for it any more."""
        work = self.work.get(self.aim(round_))
        if work is None or work.trained:
            return False
        work.tokens, work.steps, work.train_ms, work.trained = tokens, steps, train_ms, True
        self.stirred = True
        return True

    def aim(self, begun: int) -> int:
        """The round that work which was begun for this one is offered to."""
        return next((work.round for work in self.work.values() if work.begun == begun), begun)

    def late(self, round_: int, moved: bool, staleness_max: int) -> bool:
        """A round went on without its work: offer it to the next one, unless it would be too stale.

        `moved` if it was an update. What is encoded is encoded anew, for the parts of that round.
        """
        work = self.work.get(round_)
        if work is None or work.staleness + moved > staleness_max:
            return False
        del self.work[round_]
        work.round, work.staleness = round_ + 1, work.staleness + moved
        work.encoding, work.parts = False, ()
        self.work[work.round], self.asked, self.stirred = work, work.round, True
        return True

    def spare_ms(self, present: int, ahead: int, now_ms: int) -> int:
        """For how long it can train on before it needs the present round's update.

        What is left of the round in training, and those that may be begun, if each takes as long as the
        present one's did.
        """
        done, last = self.work.get(present), self.work.get(self.asked)
        if done is None or last is None:
            return 0
        left_ms = 0 if last.trained else max(0, last.begun_ms + done.train_ms - now_ms)
        return left_ms + done.train_ms * max(0, present + ahead - self.asked)

    def to_encode(self, round_: int) -> bool:
        """Whether a round's work is to be encoded, as its parts are known or can be guessed. True once."""
        work = self.work.get(round_)
        if work is None or not work.trained or work.encoding:
            return False
        work.encoding = True
        return True

    def encoded(self, round_: int, parts: tuple[BlobRef, ...]) -> bool:
        """Take the encoded parts; False if the round is over, or has them."""
        work = self.work.get(round_)
        if work is None or not work.encoding or work.parts:
            return False
        work.parts, self.stirred = parts, True
        return True

    def fits(self, round_: int, sizes: tuple[int, ...]) -> bool:
        """Whether a round's work is encoded in parts of these sizes; if in others, it is to be done again."""
        work = self.work.get(round_)
        if work is None or not work.parts:
            return False
        if tuple(ref.size for ref in work.parts) != sizes:
            work.parts, work.encoding, self.stirred = (), False, True
        return bool(work.parts)

    def offered(self, round_: int) -> Work | None:
        """What can be offered to a round's leader."""
        work = self.work.get(round_)
        return work if work is not None and work.parts else None

    def settle(self, round_: int) -> int | None:
        """A round is over: the one that its work was begun for, if there was any. Each is settled once."""
        work = self.work.pop(round_, None)
        return None if work is None else work.begun

    def drop(self) -> list[int]:
        """Give all work up; the rounds that it was begun for."""
        rounds = sorted(work.begun for work in self.work.values())
        self.work, self.asked, self.stirred = {}, 0, True
        return rounds
