"""Each contribution weighs what the run's rule gives it, worked out here again from what the world knows.

Participation is counted from the contributors of the commits before, in exact fractions: in runs of fewer
updates than `participation.GAPS_MAX`, that is the mean of all gaps.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit, Kind
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.roster import Role

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

Past = dict[PeerId, tuple[bool, ...]]
"""Of each member, whether it contributed to each update since it could."""


class Weighed:
    world: World

    def __init__(self) -> None:
        self.pasts: dict[Digest, Past] = {}

    def on_commit(self, host: Host, commit: Commit) -> None:
        body, manifest = commit.body, self.world.signed.manifest
        plain = (manifest.rounds.weights, manifest.rounds.late == "merge") == ("tokens", False)
        if body.digest in self.pasts or plain:
            return
        past = self.pasts.get(body.parent, {})
        for c in body.contributors:
            counted = min(c.tokens, manifest.assignment.tokens)
            if manifest.rounds.weights == "rate":
                usual = Fraction(manifest.assignment.tokens, manifest.assignment.steps)
                due = counted * min(1, Fraction(counted, c.steps) / usual)
            elif manifest.rounds.weights == "participation":
                due = counted * min(10, _mean_gap(past.get(c.peer, ())))
            else:
                due = counted
            fresh = c.staleness <= manifest.rounds.staleness_max
            self.world.require(fresh, f"{c.peer[-8:]} is {c.staleness} updates late in commit {body.round}")
            due = float(due) / math.sqrt(1 + c.staleness)
            self.world.require(
                due - 2 < c.weight < due + 1e-6,  # rounded down twice
                f"{c.peer[-8:]} weighs {c.weight} in commit {body.round}, and {due} is its due",
            )
        here = {c.peer for c in body.contributors}
        if body.kind is Kind.UPDATE:
            able = [m.peer for m in body.before if m.role is Role.WORKER and m.weight_from <= body.round]
            past = {**past, **{peer: (*past.get(peer, ()), peer in here) for peer in able}}
        self.pasts[body.digest] = {m.peer: past[m.peer] for m in body.members if m.peer in past}


def _mean_gap(presence: tuple[bool, ...]) -> Fraction:
    ends = [0, *(place for place, here in enumerate(presence, 1) if here)]
    return Fraction(ends[-1], len(ends) - 1) if len(ends) > 1 else Fraction(1)
