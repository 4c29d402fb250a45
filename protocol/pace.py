"""How many inner steps each member is assigned, so that all have them done at about the same time.

Everything is whole numbers, computed from what commits say: whoever has the same ledger assigns the same
steps. Speeds are in steps per 1000 s, 0 where nobody measured one yet. A speed is what its owner says of
itself, so nothing here lets one member's word move the others far. docs/decisions/0026-speed-aware-work.md
says why each rule is as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import PeerId
from atoll.protocol.manifest import STEPS_MAX, Assignment

SPEED_MAX = 10**12
"""A billion steps per second: beyond it a claim is cut, so that no product grows."""
FACTOR_MAX = 2
"""One report moves a speed no further than to this multiple of it, or this part: it may be absurd."""
LEVELS = 32
"""Shares of the fastest one's speed are told apart to 1/32 of the power of two above them."""
CALM, SETTLED = 8, 32
"""An assignment stays while a speed 1/8 lower or higher would explain it; 1/32 where it is settled anew."""


@dataclass(frozen=True, slots=True)
class PaceRules:
    """What the fastest does, and how far the others may stay behind it.

    `steps` is the manifest's assignment, `steps_min` the least that a round is worth to anybody (H_min of
    DyLU). The fastest counts as `lead_max` times the median at most. Every `settle_rounds` rounds what was
    assigned before no longer counts.
    """

    steps: int
    steps_min: int = 1
    lead_max: int = 8
    settle_rounds: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.steps_min <= self.steps <= STEPS_MAX:
            raise ConfigError(f"steps_min = {self.steps_min}", "pace", f"steps_min is 1 to {self.steps}")
        if min(self.lead_max, self.settle_rounds) < 1:
            raise ConfigError("lead_max or settle_rounds below 1", "pace", "both are 1 or more")


@dataclass(frozen=True, slots=True)
class Pace:
    """A member's speed as far as it is known, and the steps that it is assigned; 0 where there is none."""

    speed: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What a member says of its round: inner steps done, and the milliseconds of training that they took."""

    steps: int
    train_ms: int


def assign(
    speeds: Sequence[int], rules: PaceRules, before: Sequence[int] = (), calm: int = CALM
) -> tuple[int, ...]:
    """Steps for each speed: all of them for the fastest, steps * v / v_max for others, `steps_min` at least.

    One that is unknown counts as the median: a guess above it makes everybody wait, one below it costs only
    the new one a part of one round. With nobody known all get all. `before` are the steps of the last round,
    0 for who had none; they stay unless a speed, against the fastest, has moved by 1 / `calm`: with an
    eighth, nothing changes as long as no speed has moved by more than 5 %.
    (DyLU: Asynchronous Local-SGD, Liu et al. 2024; FedCompass, Li et al. 2024)
    """
    known = sorted(speed for speed in speeds if speed > 0)
    if not known:
        return (rules.steps,) * len(speeds)
    usual = lower_median(known)
    first = min(known[-1], rules.lead_max * usual)
    had = before or (0,) * len(speeds)
    return tuple(
        _kept(speed or usual, first, rules, was, calm) for speed, was in zip(speeds, had, strict=True)
    )


def _kept(speed: int, first: int, rules: PaceRules, was: int, calm: int) -> int:
    """What was assigned before if a speed not far from this one explains it, else what this speed gets."""
    low = _share(speed * (calm - 1), first * calm, rules)
    high = _share(speed * (calm + 1), first * calm, rules)
    return was if low <= was <= high else _share(speed, first, rules)


def _share(speed: int, first: int, rules: PaceRules) -> int:
    """steps * speed / first, the quotient rounded to the nearest of 16 levels between two powers of two.

    It grows with the speed. The levels let those that are nearly equal do the same, and cost whoever is next
    to one 1/32 of its round at most, or all others as much of theirs.
    """
    if speed >= first:
        return rules.steps
    octave = max(0, first.bit_length() - speed.bit_length() - 1)
    octave += speed << (octave + 1) <= first
    level = (2 * LEVELS * (speed << octave) + first) // (2 * first)
    return max(rules.steps_min, rules.steps * level // (LEVELS << octave))


def speed_after(speed: int, report: Report) -> int:
    """The speed half-way to what a report says, which counts within FACTOR_MAX of what was known before."""
    if report.steps <= 0 or report.train_ms <= 0:
        return speed
    sample = min(SPEED_MAX, max(1, report.steps * 10**6 // report.train_ms))
    if not speed:
        return sample
    return toward(speed, min(max(sample, speed // FACTOR_MAX), speed * FACTOR_MAX))


def toward(old: int, sample: int) -> int:
    """An exponential average with factor 1/2; it ends at a constant sample exactly, and not one below it."""
    gap = sample - old
    return old + (gap + 1) // 2 if gap > 0 else old - (1 - gap) // 2


def lower_median(ordered: Sequence[int]) -> int:
    """The middle one of a sorted row, the lower of two."""
    return ordered[(len(ordered) - 1) // 2]


def next_paces(
    paces: Mapping[PeerId, Pace],
    reports: Mapping[PeerId, Report],
    members: Sequence[PeerId],
    round_: int,
    rules: PaceRules,
) -> dict[PeerId, Pace]:
    """What each of the `members` of the next round is assigned, from the paces and the reports of `round_`.

    Who was assigned steps and says nothing was slower than was thought, or it would have been in time: its
    speed falls by a quarter. Otherwise one that is always late would never get less to do. Where less than
    half reported, the round itself failed, and nobody is slower for it.
    """
    speeds = [_next_speed(peer, paces, reports) for peer in members]
    before = tuple(paces.get(peer, Pace()).steps for peer in members)
    steps = assign(speeds, rules, before, CALM if round_ % rules.settle_rounds else SETTLED)
    return {peer: Pace(*pair) for peer, *pair in zip(members, speeds, steps, strict=True)}


def _next_speed(peer: PeerId, paces: Mapping[PeerId, Pace], reports: Mapping[PeerId, Report]) -> int:
    pace, report = paces.get(peer, Pace()), reports.get(peer)
    if report is not None:
        return speed_after(pace.speed, report)
    times = sorted(r.train_ms for other, r in reports.items() if other in paces and r.train_ms > 0)
    expected = [other for other, it in paces.items() if it.steps]
    if not pace.steps or not times or 2 * len(times) < len(expected):
        return pace.speed
    thought = pace.speed or pace.steps * 10**6 // lower_median(times)
    return max(1, toward(thought, thought // FACTOR_MAX))


def tokens_of(steps: int, assignment: Assignment) -> int:
    """The tokens of so many steps of the manifest's assignment; a contribution weighs no more."""
    return min(steps, assignment.steps) * assignment.tokens // assignment.steps
