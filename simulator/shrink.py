"""A failing seed made small: fewer peers, fewer rounds, fewer strikes, as long as it still fails likewise.

First a smaller setting is looked for, in which some seed nearby fails; then its strikes are noted, and left
out by halves, quarters, and at last one by one. (Delta debugging, Zeller and Hildebrandt 2002)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from atoll.protocol.errors import ConfigError
from atoll.protocol.roster import liars_max
from atoll.simulator.run import Outcome, trial
from atoll.simulator.setting import Setting
from atoll.simulator.strikes import Strike
from atoll.simulator.transcript import Case

SEEDS_NEAR = 10
TRIALS_MAX = 400
T = TypeVar("T")

_DETAIL = re.compile(r"\b[0-9a-f]{8,}\b|\b[wp]?\d+\b|\b\w{8}\b")


def kind_of(outcome: Outcome) -> str | None:
    """What failed, without names and numbers; None if nothing did."""
    if outcome.violation is not None:
        return _DETAIL.sub("_", outcome.violation)[:60]
    return "stuck" if outcome.stuck is not None else None


class Budget:
    """How many more trials may be made."""

    def __init__(self, trials: int) -> None:
        self.left = trials

    def spend(self) -> bool:
        self.left -= 1
        return self.left >= 0


def shrink(seed: int, chosen: Setting, trials_max: int = TRIALS_MAX) -> Case:
    """The smallest case found that fails as this seed does; ConfigError if it does not fail."""
    outcome = trial(seed, chosen)
    wanted = kind_of(outcome)
    if wanted is None:
        raise ConfigError(f"seed {seed} does not fail", "--shrink", "a seed that fails")
    cases = [Case(seed, chosen, outcome.strikes)]
    budget = Budget(trials_max // 2)
    for smaller in _smaller_settings(chosen):
        found = _near(seed, smaller, wanted, budget)
        if found is not None:
            cases.append(found)
            break
    budget.left = trials_max // 2
    return min((_fewer(case, wanted, budget) for case in reversed(cases)), key=_size)


def _size(case: Case) -> tuple[int, int, int]:
    return len(case.strikes), case.setting.peers, case.setting.rounds


def _fewer(case: Case, wanted: str, budget: Budget) -> Case:
    """The case with as few of its strikes as fail."""

    def fails(strikes: Sequence[Strike]) -> bool:
        shorter = dataclasses.replace(case, strikes=tuple(strikes))
        return budget.spend() and kind_of(shorter.run()) == wanted

    return dataclasses.replace(case, strikes=tuple(least(list(case.strikes), fails)))


def _smaller_settings(chosen: Setting) -> Iterator[Setting]:
    """From the smallest on; fewer kinds of fault come by themselves, with fewer strikes."""
    for peers in range(min(3, chosen.peers), chosen.peers + 1):
        for rounds in sorted({min(2, chosen.rounds), max(1, chosen.rounds // 2), chosen.rounds}):
            if (peers, rounds) != (chosen.peers, chosen.rounds):
                liars = min(chosen.liars, liars_max(peers + 1))
                yield dataclasses.replace(chosen, peers=peers, rounds=rounds, liars=liars)


def _near(seed: int, chosen: Setting, wanted: str, budget: Budget) -> Case | None:
    """A seed near this one that fails likewise."""
    for other in range(seed, seed + SEEDS_NEAR):
        if not budget.spend():
            return None
        outcome = trial(other, chosen)
        if kind_of(outcome) == wanted:
            return Case(other, chosen, outcome.strikes)
    return None


def least(items: list[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """A part of `items` that still fails, and of which no single one can be left out (within the budget)."""
    parts = 2
    if not items or fails([]):
        return []
    while len(items) > 1:
        size = -(-len(items) // parts)
        for start in range(0, len(items), size):
            rest = items[:start] + items[start + size :]
            if fails(rest):
                items, parts = rest, max(2, parts - 1)
                break
        else:
            if parts >= len(items):
                return items
            parts = min(len(items), 2 * parts)
    return items
