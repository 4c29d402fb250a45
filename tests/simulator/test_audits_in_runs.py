"""Audits in simulated runs: who does not train loses its weight, and nothing else changes for anybody."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from atoll.protocol import audit, audited
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.actions import Send
from atoll.protocol.commits import Body, Commit, Kind
from atoll.protocol.ids import digest_of
from atoll.protocol.manifest import AuditTable
from atoll.protocol.roster import Reputation, Role
from atoll.protocol.terms import Terms
from atoll.protocol.weighing import weight_of
from atoll.protocol.weights import UNIT
from atoll.simulator.checkers import all_checkers
from atoll.simulator.host import Host
from atoll.simulator.run import Outcome, trial
from atoll.simulator.setting import Setting, setting
from atoll.simulator.world import World

TABLE = AuditTable(from_round=1)
RULES = TABLE.rules


class Seen:
    """The commits in their order, and every proposal with its leader's terms."""

    world: World

    def __init__(self) -> None:
        self.bodies: list[Body] = []
        self.proposals: list[tuple[Terms, Body]] = []

    def on_commit(self, host: Host, commit: Commit) -> None:
        if host.name == "w":
            self.bodies.append(commit.body)

    def on_send(self, host: Host, action: Send) -> None:
        said, peer = action.message, host.peer
        if isinstance(said, m.Propose) and peer is not None and peer.round == said.round:
            self.proposals.append((peer.terms, said.body))

    def name(self, peer: Any) -> str:
        return self.world.hosts[peer].name

    def factors(self, body: Body) -> dict[str, float]:
        """What is left of each worker's weight after a commit."""
        workers = [member for member in body.members if member.role is Role.WORKER]
        return {
            self.name(member.peer): audit.factor(member.reputation or audit.FOUNDER, RULES) / UNIT
            for member in workers
        }


def audited_setting(peers: int, rounds: int, faults: str, riders: int, slanderers: int = 0) -> Setting:
    plain = setting(peers, rounds, faults)
    return dataclasses.replace(plain, audit=TABLE, riders=riders, slanderers=slanderers)


def run(seed: int, chosen: Setting) -> tuple[Outcome, Seen]:
    seen = Seen()
    outcome = trial(seed, chosen, checkers=[*all_checkers(), seen])
    assert (outcome.violation, outcome.stuck) == (None, None)
    return outcome, seen


@pytest.fixture(scope="module")
def calm() -> tuple[Outcome, Seen]:
    """Nine workers; two do not train, and another one lies about everybody whenever it is drawn."""
    return run(5, audited_setting(9, 18, "none", riders=2, slanderers=1))


def test_who_does_not_train_loses_all_weight_and_nobody_else_any(calm: tuple[Outcome, Seen]) -> None:
    outcome, seen = calm
    assert outcome.rejected == {}
    last = seen.factors(seen.bodies[-1])
    assert {name for name, left in last.items() if left == 0} == {"p1", "p2"}
    assert {left for name, left in last.items() if name not in ("p1", "p2")} == {1.0}
    late = [body for body in seen.bodies[-5:] if body.kind is Kind.UPDATE]
    for body in late:
        assert not {"p1", "p2"} & {seen.name(c.peer) for c in body.contributors}
        assert all(c.weight == c.tokens for c in body.contributors)
    still = {seen.name(one.peer) for body in late for one in body.sent}
    assert still >= {"p1", "p2"}, "they may come back"


def test_every_round_but_the_first_two_has_scores_of_the_one_before_the_last(
    calm: tuple[Outcome, Seen],
) -> None:
    bodies = calm[1].bodies
    first = next(place for place, body in enumerate(bodies) if body.sent)
    assert not any(body.scores for body in bodies[: first + 2])
    scored = [body for body in bodies[first + 2 :] if body.scores]
    assert len(scored) >= len(bodies[first + 2 :]) - 2
    for body in scored:
        drawn = audited.draw(bodies[body.round - 1 - audited.AFTER], RULES)
        assert {score.auditor for score in body.scores} <= {*drawn.auditors}
        assert {score.target for score in body.scores} <= {*drawn.targets}


def test_a_weight_goes_down_with_the_reputation_and_not_at_once(calm: tuple[Outcome, Seen]) -> None:
    seen = calm[1]
    left = [seen.factors(body)["p1"] for body in seen.bodies]
    assert left[0] == 1.0
    assert any(0 < share < 1 for share in left)
    for before, body in zip(left, seen.bodies[1:], strict=False):
        weighed = {seen.name(c.peer): c.weight / c.tokens for c in body.contributors}
        if "p1" in weighed:
            assert weighed["p1"] == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize("seed", [1, 4])
def test_audits_go_through_crashes_and_lost_messages(seed: int) -> None:
    _, seen = run(seed, audited_setting(9, 14, "crash,loss,reorder", riders=1, slanderers=1))
    last = seen.factors(seen.bodies[-1])
    assert last.get("p1", 0) < 0.5
    assert sum(left == 1.0 for name, left in last.items() if name != "p1") >= 6


def test_without_scores_a_run_goes_on_as_if_nobody_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that never answers: the rounds take as long as they did, and everybody is believed."""
    with monkeypatch.context() as silent:
        silent.setattr(Host, "_audited", lambda host, action: host.take(e.Scored(action.round, ())))
        outcome, seen = run(5, audited_setting(7, 10, "none", riders=2))
    assert not any(body.scores for body in seen.bodies)
    assert {*seen.factors(seen.bodies[-1]).values()} == {1.0}
    assert outcome.commits == run(5, audited_setting(7, 10, "none", riders=0))[0].commits


def test_a_joiner_is_tried_before_it_weighs_anything() -> None:
    """In a run that many join late: who does has been judged as often as the table says, and counts then."""
    _, seen = run(2, audited_setting(7, 18, "burst", riders=0))
    began = {m.peer for m in next(body for body in seen.bodies if body.kind is Kind.UPDATE).members}
    counted, judged = set(), dict[Any, int]()
    for body in seen.bodies:
        for c in body.contributors:
            if c.peer not in began:
                assert judged.get(c.peer, 0) >= TABLE.trials
                counted.add(c.peer)
        judged |= {m.peer: m.reputation.count for m in body.members if m.reputation is not None}
    assert len(counted) == 2


# ---- what voters refuse -------------------------------------------------------------------------

Change = Callable[[Terms, Body], Body]


def better(terms: Terms, body: Body) -> Body:
    """A leader that is its friend's friend."""
    first, *rest = body.members
    best = Reputation(UNIT, 12, body.round)
    return dataclasses.replace(body, members=(dataclasses.replace(first, reputation=best), *rest))


def forged(terms: Terms, body: Body) -> Body:
    first, *rest = body.scores
    return dataclasses.replace(body, scores=(dataclasses.replace(first, assigned=77), *rest))


def twice(terms: Terms, body: Body) -> Body:
    return dataclasses.replace(body, scores=(body.scores[0], *body.scores))


def of_itself(terms: Terms, body: Body) -> Body:
    own = dataclasses.replace(body.scores[0], target=body.scores[0].auditor)
    return dataclasses.replace(body, scores=(own,))


def unnamed(terms: Terms, body: Body) -> Body:
    return dataclasses.replace(body, sent=body.sent[1:])


def uncounted(terms: Terms, body: Body) -> Body:
    """One that weighs something may not be looked at without being taken."""
    return dataclasses.replace(body, contributors=body.contributors[1:])


def skipped(terms: Terms, body: Body) -> Body:
    return dataclasses.replace(body, kind=Kind.SKIP, contributors=(), blobs=())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (better, "does not follow from its scores"),
        (forged, "signature is not its auditor's"),
        (twice, "not one of each auditor and target"),
        (of_itself, "nobody audits itself|was not drawn"),
        (unnamed, "is not named"),
        (uncounted, "neither taken nor tried"),
        (skipped, "without update"),
    ],
)
def test_a_body_that_says_otherwise_gets_no_votes(
    calm: tuple[Outcome, Seen], change: Change, why: str
) -> None:
    seen = calm[1]
    verify = next(iter(seen.world.hosts.values())).signer.verify
    terms, body = next((t, b) for t, b in seen.proposals if b.scores and b.sent)
    assert audited.objection(terms, body, verify) is None
    with pytest.raises(AssertionError, match=why):
        assert audited.objection(terms, change(terms, body), verify) is None


def test_a_run_without_audits_has_none(calm: tuple[Outcome, Seen]) -> None:
    seen = calm[1]
    verify = next(iter(seen.world.hosts.values())).signer.verify
    terms, body = next((t, b) for t, b in seen.proposals if b.scores)
    plain = dataclasses.replace(terms, audit=None, subject=None)
    assert audited.objection(plain, body, verify) == "audits that this run does not ask for"
    unsaid = dataclasses.replace(body, sent=(), scores=(), members=terms.members)
    assert audited.objection(plain, unsaid, verify) is None


def test_who_lacks_the_commit_that_scores_are_about_does_not_vote_for_them(
    calm: tuple[Outcome, Seen],
) -> None:
    seen = calm[1]
    verify = next(iter(seen.world.hosts.values())).signer.verify
    terms, body = next((t, b) for t, b in seen.proposals if b.scores)
    lacking = dataclasses.replace(terms, subject=None)
    assert "has no commit" in str(audited.objection(lacking, body, verify))


def test_where_nobody_would_weigh_anything_all_do(calm: tuple[Outcome, Seen]) -> None:
    terms = calm[1].proposals[-1][0]
    assert terms.trying
    lost = [dataclasses.replace(m, reputation=Reputation(0, 5, 3)) for m in terms.members]
    nobody = dataclasses.replace(terms, members=tuple(lost))
    assert nobody.eligible == {m.peer for m in terms.members if m.role is Role.WORKER}
    assert not nobody.trying
    assert weight_of(nobody, terms.workers[0], 500, 5) == 500


def test_a_draw_needs_enough_to_compare_and_to_outvote(calm: tuple[Outcome, Seen]) -> None:
    body = next(body for body in calm[1].bodies if len(body.sent) >= 5)
    assert len(audited.draw(body, RULES).auditors) == TABLE.auditors
    few = dataclasses.replace(body, sent=body.sent[:2], contributors=body.contributors[:2])
    assert audited.draw(few, RULES) == audited.Draw()
    other = dataclasses.replace(body, anchor=digest_of(b"another"))
    assert audited.draw(other, RULES) != audited.draw(body, RULES), "whoever knows it has sent already"
