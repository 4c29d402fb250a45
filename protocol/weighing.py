"""What each contribution weighs by the run's `weights`, worked out by its leader and again by all who vote.

"tokens": those it processed, of those it was assigned. "rate": tokens times tokens by step. "participation":
tokens times the mean gap between the rounds in which its member contributed, of which the members of a round
carry what is needed. A mean divides by the weights that are here, so with "participation" an update is
brought to the length that all who are registered give it: `share`. Whatever the rule, a contribution that
started s updates ago weighs less by (1 + s)^(-1/2), and where there are audits each weighs less by its
member's reputation. (Decoupled DiLoCo, 2026; FedAU, Wang and Ji 2024; FedBuff, Nguyen et al. 2022)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.protocol.commits import Body, Contributor, Kind
from atoll.protocol.ids import PeerId
from atoll.protocol.manifest import TOKENS_MAX, Manifest
from atoll.protocol.participation import Gaps
from atoll.protocol.roster import NO_GAPS, Member, Role
from atoll.protocol.weights import combined, stale, token_rate

if TYPE_CHECKING:
    from atoll.protocol.terms import Terms


def weight_of(terms: Terms, peer: PeerId, tokens: int, steps: int, staleness: int = 0) -> int:
    """Of what a member says that it did. None is larger than TOKENS_MAX, so no sum of them overflows."""
    assigned = terms.assigned(peer)
    counted = min(tokens, assigned.tokens)
    if terms.rules.weights == "rate":
        counted = token_rate(counted, steps, assigned)
    if terms.rules.weights == "participation":
        counted = combined(counted, terms.gaps(peer).factor)
    if terms.audit is not None:
        counted = _by_reputation(counted, terms.factors.get(peer, 0))
    if staleness:
        merges = terms.rules.late == "merge"
        counted = combined(counted, stale(staleness, terms.rules.staleness_max)) if merges else 0
    return min(counted, TOKENS_MAX)


def _by_reputation(weight: int, factor: int) -> int:
    """One whose reputation leaves anything weighs something, if its contribution does."""
    return max(1, combined(weight, factor)) if weight and factor else 0


def weights_objection(terms: Terms, contributors: Sequence[Contributor]) -> str | None:
    """Why these are not the weights of these contributors, or None.

    Where weights are tokens a leader may give less, as it always could.
    """
    exact = terms.rules.weights != "tokens" or terms.rules.late == "merge"
    for c in contributors:
        most = weight_of(terms, c.peer, c.tokens, c.steps, c.staleness)
        if not 0 < c.weight <= most:
            return "a weight is not within what was assigned"
        if exact and c.weight != most:
            return f"{c.peer} weighs {most} by the run's rule, not {c.weight}"
    return None


# ---- participation ------------------------------------------------------------------------------


def attended(
    terms: Terms, members: tuple[Member, ...], kind: Kind, contributors: Sequence[Contributor]
) -> tuple[Member, ...]:
    """The next members with their gaps, whatever these said before.

    Only an update is anybody's gap, and only of those who could contribute to it.
    """
    if terms.rules.weights != "participation":
        return members
    following = {member.peer: member.gaps for member in terms.members}
    if kind is Kind.UPDATE:
        here = {contributor.peer for contributor in contributors}
        following.update((peer, following[peer].after(peer in here)) for peer in terms.eligible)
    return terms.listed([_with(member, following.get(member.peer, NO_GAPS)) for member in members])


def _with(member: Member, gaps: Gaps) -> Member:
    return member if member.gaps == gaps else dataclasses.replace(member, gaps=gaps)


def attendance_objection(terms: Terms, body: Body) -> str | None:
    """Why the gaps of the next members are not those that follow, or None."""
    if terms.rules.weights == "participation":
        right = attended(terms, body.members, body.kind, body.contributors) == body.members
    else:
        right = body.members is terms.members or all(member.gaps == NO_GAPS for member in body.members)
    return None if right else "the gaps of the next members do not follow from who contributed"


def share(body: Body, manifest: Manifest) -> tuple[int, int] | None:
    """(weights that are here, what all who may contribute would weigh at factor 1); None for a plain mean."""
    if manifest.rounds.weights != "participation":
        return None
    registered = sum(m.role is Role.WORKER and m.weight_from <= body.round for m in body.before)
    return sum(c.weight for c in body.contributors), registered * manifest.assignment.tokens
