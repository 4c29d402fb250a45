"""Why a peer holds the others up: slow compute, a slow link one way or the other, or stuck.

Training rounds are alike, so what a peer's times differ from those of the others in says what is wrong with
it. Inputs are what a leader sees anyway: when offers came, how fast transfers ran, who was left out. An
outlier is what exceeds the median by three deviations (median absolute deviation, scaled), and by a tenth of
the time that the round would take if all waited for it: so jitter of 5 % never is. Medians over the last
rounds, so one bad round is none either. Whole numbers; the verdict is advice to people and to pace.py, and
nothing that must agree. (C4, Dong et al. 2024)
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from atoll.protocol.commits import Body
from atoll.protocol.ids import PeerId
from atoll.protocol.ledger import NOBODY
from atoll.protocol.pace import lower_median
from atoll.protocol.reasons import MISSED, NO_OFFER
from atoll.protocol.roster import Role

WINDOW = 5
"""Rounds that are kept and judged."""
ROUNDS_MIN = 3
"""Fewer rounds of a peer's own say nothing about it."""
STUCK_ROUNDS = 2
"""So many rounds without progress, while most others made some, are no accident."""
MAD_THOUSANDTHS = 4448
"""Three standard deviations in units of the median absolute deviation, if times were normal: 3 * 1.4826."""
COMPUTE_PART, LINK_PART = 10, 4
"""A tenth of the time is no excess in computing; links vary more, and a quarter is none."""
SAMPLE_BYTES = 256 << 10
"""A smaller transfer fits into buffers, and says nothing about a link."""
TRANSFERS_MAX = 4096
"""Of one round, the largest ones are kept."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What a peer did in a round: inner steps of those assigned, the training time (so far) that they took.

    `offered` whether its offer came before the plan, `missed` whether it was offered and left out of the cut.
    """

    peer: PeerId
    steps: int
    assigned: int
    train_ms: int
    offered: bool = True
    missed: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes from one peer to another and the time they took; NOBODY where only one end is known."""

    source: PeerId
    target: PeerId
    size_bytes: int
    took_ms: int


@dataclass(frozen=True, slots=True)
class RoundTimes:
    timings: tuple[Timing, ...]
    transfers: tuple[Transfer, ...] = ()


def times_of(body: Body, steps: int) -> RoundTimes:
    """What a commit tells of its round; `steps` is what a member without steps of its own was assigned.

    Times of training are in it where a run assigns work by speed. Transfers are not: who has some adds them.
    """
    done = {c.peer: c for c in body.contributors}
    reasons = {r.peer: r.reason for r in body.rejected}
    timings = []
    for member in body.before:
        if member.role is not Role.WORKER or member.weight_from > body.round:
            continue
        mine, why = done.get(member.peer), reasons.get(member.peer, NO_OFFER)
        assigned = member.steps or steps
        if mine is not None:
            timings.append(Timing(member.peer, mine.steps, assigned, mine.train_ms))
        else:
            timings.append(Timing(member.peer, 0, assigned, 0, why != NO_OFFER, why in MISSED))
    return RoundTimes(tuple(timings))


def noted(past: tuple[RoundTimes, ...], new: RoundTimes) -> tuple[RoundTimes, ...]:
    """The rounds to judge after one more: the last WINDOW, each with no more transfers than say something."""
    telling = [t for t in new.transfers if t.size_bytes >= SAMPLE_BYTES and t.took_ms > 0]
    telling.sort(key=lambda t: -t.size_bytes)
    return (*past, RoundTimes(new.timings, tuple(telling[:TRANSFERS_MAX])))[-WINDOW:]


class Verdict(enum.Enum):
    """One word for `atoll status`."""

    STUCK = "stuck"
    SLOW_COMPUTE = "slow compute"
    SLOW_UPLINK = "slow uplink"
    SLOW_DOWNLINK = "slow downlink"
    FINE = "fine"


@dataclass(frozen=True, slots=True)
class Excess:
    """How much more than the median a peer's figure is, and how much would be usual."""

    value: int = 0
    over: int = 0
    usual: int = 0

    @property
    def outlier(self) -> bool:
        return self.over > self.usual

    @property
    def percent(self) -> int:
        """Of the median."""
        return 100 * self.over // max(1, self.value - self.over)


NO_EXCESS = Excess()


@dataclass(frozen=True, slots=True)
class Figures:
    """What a verdict is read off.

    `compute` is in milliseconds of a round's training, `uplink` and `downlink` in microseconds for 1 MiB.
    `idle` is for how many rounds on end it made no offer, and either no step or all that were assigned.
    """

    rounds: int
    idle: int
    missed: int
    compute: Excess = NO_EXCESS
    uplink: Excess = NO_EXCESS
    downlink: Excess = NO_EXCESS


@dataclass(frozen=True, slots=True)
class Cause:
    """A verdict, when it holds (of several, the first), and its words."""

    verdict: Verdict
    holds: Callable[[Figures], bool]
    words: Callable[[Figures], str]


CAUSES = (
    Cause(
        Verdict.STUCK,
        lambda f: f.idle >= STUCK_ROUNDS,
        lambda f: f"no offer and no progress for {f.idle} rounds in which most others made one",
    ),
    Cause(
        Verdict.SLOW_COMPUTE,
        lambda f: f.compute.outlier,
        lambda f: f"its steps take {f.compute.value} ms, {f.compute.percent} % more than the median",
    ),
    Cause(
        Verdict.SLOW_UPLINK,
        lambda f: f.uplink.outlier,
        lambda f: f"it sends {rates(f.uplink)}",
    ),
    Cause(
        Verdict.SLOW_DOWNLINK,
        lambda f: f.downlink.outlier,
        lambda f: f"it receives {rates(f.downlink)}",
    ),
    Cause(
        Verdict.SLOW_UPLINK,
        lambda f: f.missed >= ROUNDS_MIN and 2 * f.missed > f.rounds,
        lambda f: f"what it offered did not arrive in time in {f.missed} of {f.rounds} rounds",
    ),
    Cause(Verdict.FINE, lambda f: True, lambda f: f"as fast as the others in {f.rounds} rounds"),
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    verdict: Verdict
    figures: Figures
    why: str


def rates(link: Excess) -> str:
    """A link's speed and the median one in words, from the microseconds that 1 MiB takes."""
    mine, usual = ((1 << 20) / max(1, took) for took in (link.value, link.value - link.over))
    return f"{mine:.1f} MB/s, where the median is {usual:.1f}"


def diagnose(past: Sequence[RoundTimes]) -> dict[PeerId, Diagnosis]:
    """A verdict for each peer of the newest round, from the last WINDOW rounds."""
    past = past[-WINDOW:]
    if not past:
        return {}
    compute = _compute(past)
    uplinks, downlinks = _links(past, ends=True), _links(past, ends=False)
    found = {}
    for peer in (timing.peer for timing in past[-1].timings):
        rows = [timing for one in past for timing in one.timings if timing.peer == peer]
        enough = len(rows) >= ROUNDS_MIN
        figures = Figures(
            rounds=len(rows),
            idle=_idle(past, peer),
            missed=sum(row.missed for row in rows),
            compute=compute.get(peer, NO_EXCESS),
            uplink=uplinks.get(peer, NO_EXCESS) if enough else NO_EXCESS,
            downlink=downlinks.get(peer, NO_EXCESS) if enough else NO_EXCESS,
        )
        cause = next(cause for cause in CAUSES if cause.holds(figures))
        found[peer] = Diagnosis(cause.verdict, figures, cause.words(figures))
    return found


def _compute(past: Sequence[RoundTimes]) -> dict[PeerId, Excess]:
    """By how much each is later than the median. Who stopped early counts as if it had gone on."""
    late: dict[PeerId, list[tuple[int, int]]] = {}
    for one in past:
        times = {t.peer: _whole_ms(t) for t in one.timings if t.steps > 0 and t.train_ms > 0}
        usual = lower_median(sorted(times.values())) if times else 0
        for peer, time in times.items():
            late.setdefault(peer, []).append((time - usual, time))
    kept = {peer: its for peer, its in late.items() if len(its) >= ROUNDS_MIN}
    over = {peer: lower_median(sorted(by for by, _ in its)) for peer, its in kept.items()}
    times = {peer: lower_median(sorted(time for _, time in its)) for peer, its in kept.items()}
    return _excesses(over, times, COMPUTE_PART)


def _whole_ms(timing: Timing) -> int:
    return max(timing.train_ms, timing.train_ms * timing.assigned // timing.steps)


def _excesses(over: Mapping[PeerId, int], values: Mapping[PeerId, int], part: int) -> dict[PeerId, Excess]:
    """Each figure, how far it is above the usual, and how far it may be: by the spread, and by 1 / part."""
    if not over:
        return {}
    middle = lower_median(sorted(over.values()))
    spread = lower_median(sorted(abs(by - middle) for by in over.values()))
    allowed = MAD_THOUSANDTHS * spread // 1000
    return {peer: Excess(values[peer], by, max(allowed, values[peer] // part)) for peer, by in over.items()}


def _links(past: Sequence[RoundTimes], ends: bool) -> dict[PeerId, Excess]:
    """How slow each peer's link is, upwards or downwards: the median of its transfers with all others.

    A slow end makes all of its transfers slow, a slow path one of them: so one partner alone says nothing,
    unless the figure is the peer's own sum over all (its partner is NOBODY).
    """
    cells: dict[PeerId, dict[PeerId, list[int]]] = {}
    for transfer in _transfers(past):
        mine, other = transfer.source, transfer.target
        if not ends:
            mine, other = other, mine
        if mine != NOBODY:
            slow = transfer.took_ms * 1000 * (1 << 20) // transfer.size_bytes
            cells.setdefault(mine, {}).setdefault(other, []).append(slow)
    values = {
        peer: lower_median(sorted(lower_median(sorted(its)) for its in by_other.values()))
        for peer, by_other in cells.items()
        if len(by_other) > 1 or NOBODY in by_other
    }
    usual = lower_median(sorted(values.values())) if values else 0
    return _excesses({peer: value - usual for peer, value in values.items()}, values, LINK_PART)


def _transfers(past: Sequence[RoundTimes]) -> Iterable[Transfer]:
    return (transfer for one in past for transfer in one.transfers)


def _idle(past: Sequence[RoundTimes], peer: PeerId) -> int:
    """For how many of the newest rounds on end it made no offer, and no step or nothing of all its steps.

    Rounds in which less than half of the peers offered say nothing: the round failed, not the peer.
    """
    idle = 0
    for one in reversed(past):
        if 2 * sum(timing.offered for timing in one.timings) < len(one.timings):
            continue
        row = next((timing for timing in one.timings if timing.peer == peer), None)
        if row is None or row.offered or 0 < row.steps < row.assigned:
            break
        idle += 1
    return idle
