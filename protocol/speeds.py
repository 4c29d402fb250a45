"""What the ledger knows of its members' speeds, and the steps that the next commit assigns them.

Speeds and steps stand with the members. Who has a body can compute them again: from the members of its round
and what its contributors report. So voters check them, and no leader can choose them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.protocol.commits import Body, Contributor, Kind
from atoll.protocol.manifest import Assignment, RoundRules
from atoll.protocol.pace import Pace, PaceRules, Report, next_paces
from atoll.protocol.roster import Member, Role

if TYPE_CHECKING:
    from atoll.protocol.terms import Terms

NO_PACE = Pace()


def pace_rules(assignment: Assignment, rules: RoundRules) -> PaceRules:
    return PaceRules(assignment.steps, min(rules.steps_min, assignment.steps))


def paced(
    terms: Terms, members: Sequence[Member], kind: Kind, contributors: Sequence[Contributor]
) -> tuple[Member, ...]:
    """The next members with their speeds and steps, whatever these said before.

    Only an update tells something new. A witness and one that rests keep what they had, and who weighs
    nothing yet is not slow because nothing of it was counted.
    """
    paces = {member.peer: Pace(member.speed, member.steps) for member in terms.members}
    following = dict(paces)
    if terms.by_speed and kind is Kind.UPDATE:
        reports = {c.peer: Report(c.steps, c.train_ms) for c in contributors}
        asked = {p: pace if p in terms.eligible else Pace(pace.speed) for p, pace in paces.items()}
        workers = [member.peer for member in members if member.role is Role.WORKER]
        rules = pace_rules(terms.assignment, terms.rules)
        following.update(next_paces(asked, reports, workers, terms.round, rules))
    return terms.listed([_with(member, following.get(member.peer, NO_PACE)) for member in members])


def _with(member: Member, pace: Pace) -> Member:
    if (member.speed, member.steps) == (pace.speed, pace.steps):
        return member
    return dataclasses.replace(member, speed=pace.speed, steps=pace.steps)


def pace_objection(terms: Terms, body: Body) -> str | None:
    """Why the speeds and steps of the next members are not those that follow, or None."""
    if body.members is terms.members and not terms.by_speed:
        return None
    if paced(terms, body.members, body.kind, body.contributors) != body.members:
        return "the steps of the next members do not follow from what the contributors report"
    return None
