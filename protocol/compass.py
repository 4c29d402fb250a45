"""Arrival groups: peers at any speed are given as many steps as let a whole group arrive at one time.

`pace` keeps rounds in which all take part. Here there are no rounds: whoever asks for work joins the group
that it can do most steps for, or opens one; a group is merged once all of it has arrived, or when it is late.
State and rules are plain values and times whole milliseconds, so one run is like another. (FedCompass, Li et
al. 2024)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import PeerId


@dataclass(frozen=True, slots=True)
class CompassRules:
    """The least and the most steps of one piece of work, and when a group is late: in percent of its time."""

    steps_min: int
    steps_max: int
    latest_percent: int = 150

    def __post_init__(self) -> None:
        if not 1 <= self.steps_min <= self.steps_max:
            raise ConfigError(f"steps_min = {self.steps_min}", "compass", f"1 to {self.steps_max}")
        if self.latest_percent < 100:
            raise ConfigError(f"latest_percent = {self.latest_percent}", "compass", "100 or more")


@dataclass(frozen=True, slots=True)
class Group:
    """Those that are to arrive together, those of them that did, and the fastest one's speed."""

    number: int
    expected_ms: int
    latest_ms: int
    speed_max: int
    waiting: frozenset[PeerId]
    arrived: tuple[PeerId, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What a peer is given: steps, the group that they are for, and when it is expected."""

    group: int
    steps: int
    expected_ms: int


@dataclass(frozen=True, slots=True)
class Compass:
    """The groups under way. Each waits for a peer or holds its work, and a peer is in one of them only."""

    groups: tuple[Group, ...] = ()
    opened: int = 0

    def group_of(self, peer: PeerId) -> Group | None:
        return next((g for g in self.groups if peer in g.waiting), None)

    @property
    def wake_ms(self) -> int | None:
        """When the next group is late; None if there is none."""
        return min((group.latest_ms for group in self.groups), default=None)


def steps_within(speed: int, left_ms: int) -> int:
    """Whole steps in so many milliseconds; speeds are in steps per 1000 s, above 0."""
    return max(0, left_ms) * speed // 10**6


def ms_for(steps: int, speed: int) -> int:
    """Milliseconds that so many steps take, rounded up."""
    return -(-steps * 10**6 // speed)


def place(
    compass: Compass, peer: PeerId, speed: int, now_ms: int, rules: CompassRules
) -> tuple[Compass, Work]:
    """Give a peer work: in the group for which it can do most steps, or in a new one.

    A new group's first peer does as many steps as it could before the fastest of some other group would
    arrive a second time: then that one can join this group. Raises ValueError for a speed that is not
    positive, and for a peer whose last work is not merged yet: it would be in two groups.
    """
    if speed <= 0:
        raise ValueError(f"a speed is above 0, not {speed}")
    if any(peer in group.arrived for group in compass.groups):
        raise ValueError("its last work is not merged yet")
    compass = _without(compass, peer)
    fits = [(steps, -g.number, g) for g in compass.groups if (steps := _fits(g, speed, now_ms, rules))]
    if fits:
        steps, _, group = max(fits, key=lambda fit: fit[:2])
        joined = replace(group, waiting=group.waiting | {peer}, speed_max=max(group.speed_max, speed))
        return _with(compass, joined), Work(group.number, steps, group.expected_ms)
    steps = _opening(compass, speed, now_ms, rules)
    took_ms = ms_for(steps, speed)
    latest_ms = now_ms + took_ms * rules.latest_percent // 100
    group = Group(compass.opened, now_ms + took_ms, latest_ms, speed, frozenset({peer}))
    grown = Compass((*compass.groups, group), compass.opened + 1)
    return grown, Work(group.number, steps, group.expected_ms)


def place_all(
    compass: Compass, speeds: Mapping[PeerId, int], now_ms: int, rules: CompassRules
) -> tuple[Compass, dict[PeerId, Work]]:
    """Give work to several at once, the fastest first, so that slower ones find a group to join."""
    work = {}
    for peer in sorted(speeds, key=lambda peer: (-speeds[peer], peer)):
        compass, work[peer] = place(compass, peer, speeds[peer], now_ms, rules)
    return compass, work


def _fits(group: Group, speed: int, now_ms: int, rules: CompassRules) -> int:
    """The steps that a peer can do before the group arrives, or 0 if they are too few or too many.

    More than `steps_max` by no more than the millisecond that the group's own time was rounded up by is
    `steps_max`.
    """
    left_ms = group.expected_ms - now_ms
    steps = steps_within(speed, left_ms)
    if ms_for(rules.steps_max, speed) >= left_ms:
        steps = min(steps, rules.steps_max)
    return steps if rules.steps_min <= steps <= rules.steps_max else 0


def _opening(compass: Compass, speed: int, now_ms: int, rules: CompassRules) -> int:
    """Steps of the first one of a new group."""
    found = [
        steps_within(speed, group.latest_ms + ms_for(rules.steps_max, group.speed_max) - now_ms)
        for group in compass.groups
        if group.latest_ms > now_ms
    ]
    return min(max(max(found, default=rules.steps_max), rules.steps_min), rules.steps_max)


def arrive(compass: Compass, peer: PeerId) -> tuple[Compass, int | None]:
    """Note that a peer is done; the number of its group, or None if that was merged without it.

    What comes late is merged with the next group that is, by its staleness.
    """
    group = compass.group_of(peer)
    if group is None:
        return compass, None
    here = replace(group, waiting=group.waiting - {peer}, arrived=(*group.arrived, peer))
    return _with(compass, here), group.number


def due(compass: Compass, now_ms: int) -> tuple[Compass, tuple[Group, ...]]:
    """Take out the groups that are to be merged now, oldest first: all have arrived, or it is late."""
    ready = tuple(g for g in compass.groups if not g.waiting or now_ms >= g.latest_ms)
    return replace(compass, groups=tuple(g for g in compass.groups if g not in ready)), ready


def _with(compass: Compass, group: Group) -> Compass:
    groups = tuple(group if g.number == group.number else g for g in compass.groups)
    return replace(compass, groups=groups)


def _without(compass: Compass, peer: PeerId) -> Compass:
    """A peer that asks for work anew will not bring what it had; a group that it was alone in is gone."""
    left = (replace(g, waiting=g.waiting - {peer}) if peer in g.waiting else g for g in compass.groups)
    return replace(compass, groups=tuple(g for g in left if g.waiting or g.arrived))
