"""Until when a leader waits for more contributions than a quorum, by the run's `wait`.

"grace": a share of the time that the quorum took (`grace_ms`). "slack", where training runs ahead of the
ledger: as long as no worker needs the update (`slack_ms`). "dynamic", where it does not: for the number of
contributions that gives most of them by time, foreseen from the progress that workers report. All of it is
a leader's own decision within the manifest's quorum and `train_ms_max`; voters check the quorum and nothing
else, so it need not agree on two peers. docs/decisions/0031-how-long-a-leader-waits.md says why. (Decoupled
DiLoCo, 2026; dynamic backup workers: Xu, Neglia and Sebastianelli 2020)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atoll.protocol.grace import grace_ms, slack_ms
from atoll.protocol.ids import PeerId

if TYPE_CHECKING:
    from atoll.protocol.manifest import RoundRules

WAITS = ("grace", "slack", "dynamic")
SLACK_SHARE = 0.75
"""Of the time that nobody needs; the rest is for exchanges and steps that take longer than usual."""


@dataclass(slots=True)
class Syncs:
    """What the rounds' exchange, vote and commit take, as this peer saw them: 0 until it saw one."""

    usual_ms: int = 0
    begun_ms: int | None = None

    def begin(self, now_ms: int) -> None:
        """A round's exchange is planned; a later plan of the same round is part of it."""
        if self.begun_ms is None:
            self.begun_ms = now_ms

    def end(self, now_ms: int) -> None:
        """The round is over."""
        if self.begun_ms is not None:
            took_ms = max(1, now_ms - self.begun_ms)
            self.usual_ms = (self.usual_ms + took_ms + 1) // 2 if self.usual_ms else took_ms
        self.begun_ms = None


@dataclass(slots=True)
class Watch:
    """What a leader sees of its round: who is at which step since when, until when who offered can train on.

    `due` is until when each one is waited for: a later report never postpones it, so none can keep a round
    open by being almost done again and again. Each of the three has an entry for a member at most.
    """

    progress: dict[PeerId, tuple[int, int]] = field(default_factory=dict)
    spent_ms: dict[PeerId, int] = field(default_factory=dict)
    due: dict[PeerId, int] = field(default_factory=dict)

    def report(self, peer: PeerId, steps: int, now_ms: int) -> None:
        """A worker is at this step; said again, it was so the first time."""
        if steps > self.progress.get(peer, (0, 0))[0]:
            self.progress[peer] = (steps, now_ms)

    def offer(self, peer: PeerId, spent_ms: int) -> None:
        """A worker stands still from then on, unless it has the update. The last word counts: what is offered
        a round ahead says nothing of it, and comes again when its round begins."""
        self.spent_ms[peer] = spent_ms


@dataclass(frozen=True, slots=True)
class Moment:
    """A round in which a quorum is there: when it began, when the quorum was there, what a sync takes."""

    now_ms: int
    since_ms: int
    quorum_ms: int
    sync_ms: int
    rules: RoundRules

    def grace_after(self, waited_ms: int) -> int:
        rules = self.rules
        return grace_ms(waited_ms, rules.grace_share, (rules.grace_ms_min, rules.grace_ms_max))

    @property
    def usual_ms(self) -> int:
        """The end of the usual grace."""
        return self.quorum_ms + self.grace_after(self.quorum_ms - self.since_ms)

    @property
    def last_ms(self) -> int:
        """Members bear a leader that waits for no longer than this."""
        return self.since_ms + self.rules.train_ms_max


def end_ms(
    moment: Moment, watch: Watch, offers: Collection[PeerId], missing: Mapping[PeerId, int]
) -> int | None:
    """Until when to wait; None where that is the usual grace. `missing` are those that may still offer, with
    the steps that each is assigned.
    """
    rule = _RULES.get(moment.rules.wait)
    return None if rule is None else rule(moment, watch, offers, missing)


def _slack(moment: Moment, watch: Watch, offers: Collection[PeerId], missing: Mapping[PeerId, int]) -> int:
    """The usual grace, or for as long as nobody stands still for it."""
    spent = [spent_ms for peer, spent_ms in watch.spent_ms.items() if peer in offers]
    if not spent or not moment.sync_ms:
        return moment.usual_ms
    window_ms, quorum_ms = min(spent) - moment.since_ms, moment.quorum_ms - moment.since_ms
    spare_ms = slack_ms(window_ms, quorum_ms, moment.sync_ms, SLACK_SHARE)
    return max(moment.usual_ms, min(moment.quorum_ms + spare_ms, moment.last_ms))


def _dynamic(moment: Moment, watch: Watch, offers: Collection[PeerId], missing: Mapping[PeerId, int]) -> int:
    """The least grace, or until the last of those is due that are worth the wait.

    Worth it is the number of contributions that are most by time, a round's exchange included; of equals the
    largest. It is DBW's choice where the noise of a mean outweighs all else, so that its gain grows with
    their number: how much contributions differ no leader knows before it has them.
    """
    seen = ((peer, *watch.progress[peer], steps) for peer, steps in missing.items() if peer in watch.progress)
    ends = sorted((_expected_ms(moment, *report), peer) for peer, *report in seen)
    least_ms = moment.quorum_ms + moment.rules.grace_ms_min
    best, best_ms, found_ms = len(offers), _length_ms(moment, moment.now_ms), least_ms
    count, latest_ms = best, 0
    for end, peer in ends:
        due_ms = end + moment.grace_after(end - moment.since_ms)
        due_ms = watch.due[peer] = min(due_ms, watch.due.get(peer, due_ms), moment.last_ms)
        if due_ms <= moment.now_ms:
            continue
        count, latest_ms, length_ms = count + 1, max(latest_ms, due_ms), _length_ms(moment, end)
        if count * best_ms >= best * length_ms:
            best, best_ms, found_ms = count, length_ms, max(least_ms, latest_ms)
    return found_ms


def _expected_ms(moment: Moment, steps: int, at_ms: int, assigned: int) -> int:
    """When a worker is done that had so many steps at that time, if it goes on as before."""
    took_ms = (at_ms - moment.since_ms) * max(steps, assigned)
    return moment.since_ms - (-took_ms // steps)


def _length_ms(moment: Moment, end: int) -> int:
    return max(1, max(end, moment.now_ms) - moment.since_ms + moment.sync_ms)


_RULES: dict[str, Callable[[Moment, Watch, Collection[PeerId], Mapping[PeerId, int]], int]] = {
    "slack": _slack,
    "dynamic": _dynamic,
}
