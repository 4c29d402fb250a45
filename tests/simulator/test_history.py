"""What was seen anywhere: one chain for each epoch, and what a later epoch has decided otherwise."""

from __future__ import annotations

from atoll.protocol.commits import Body, Commit, Kind
from atoll.protocol.ids import Digest, digest_of
from atoll.simulator.history import History

RUN = digest_of(b"a run")


def commit(round_: int, parent: Digest, kind: Kind = Kind.UPDATE, epoch: int = 0) -> Commit:
    return Commit(Body(RUN, round_, parent, kind, RUN, (), (), epoch=epoch), 0, ())


def test_a_decision_is_overtaken_by_another_of_a_later_epoch_and_by_nothing_else() -> None:
    history = History(RUN)
    first = commit(1, RUN)
    late = commit(2, first.body.digest)
    assert history.add(first)
    assert not history.overtaken(late), "nobody decided round 2 yet"
    recovery = commit(2, first.body.digest, Kind.RECOVERY, epoch=1)
    assert history.add(recovery)
    assert history.overtaken(late)
    assert not history.overtaken(first), "the recovery follows it"
    assert not history.overtaken(recovery)
    beyond = commit(3, late.body.digest)
    assert history.overtaken(beyond), "it follows one that is history no more"
