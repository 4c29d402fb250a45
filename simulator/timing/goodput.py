"""Useful tokens by possible tokens where machines fail: the rounds of docs/protocol.md, and data-parallel.

Everything is counted in seconds of training. Possible is the time in which a peer's machines are there.
What an update takes, at once or from a residual later, is useful. Lost is what is not: loading, waiting,
restarts, and what a peer had done that no commit had taken when it died.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from atoll.protocol.manifest import RoundRules
from atoll.protocol.roster import majority
from atoll.simulator.timing.traces import Failures, Floats

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Swarm:
    """Peers whose machines fail. A peer is an island of `machines`; if one of them fails, all of it stops.

    `stopped_s` is for how long a failed peer's machines are there and do nothing: an island regroups, or
    takes a spare. Then `load_s` passes until it has the newest state, if it is still a member; `join_s` if
    it was left out meanwhile. `failures` is of one machine; `away_s` in it counts as impossible, not as
    lost.
    """

    peers: int
    failures: Failures
    machines: int = 1
    stopped_s: float = 0.0
    load_s: float = 2.0
    join_s: float = 60.0

    @property
    def up_s(self) -> float:
        return self.failures.up_s / self.machines


@dataclass(frozen=True, slots=True)
class Rounds:
    """A round's training and its exchange; `frozen_share` of the failures go unnoticed until a deadline.

    Where work is `paced`, who missed a round is assigned a quarter less in the next, and moves half-way back
    to all of it with each that it takes part in (`protocol/pace.py`): so it catches up with the others.
    """

    train_s: float
    exchange_s: float
    rules: RoundRules = field(default_factory=RoundRules)
    frozen_share: float = 0.1
    paced: bool = True


@dataclass(slots=True)
class Goodput:
    """Seconds of training of all peers together, and what the rounds were."""

    possible_s: float = 0.0
    useful_s: float = 0.0
    rounds: int = 0
    skipped: int = 0
    take_overs: int = 0

    @property
    def share(self) -> float:
        return self.useful_s / self.possible_s if self.possible_s else 0.0


def goes_on_s(finish_s: Floats, expected: int, quorum: int, rules: RoundRules) -> float | None:
    """When a leader goes on, after the round began: what `deciding.decide` comes to. None without a quorum.

    `finish_s` are the times at which offers come, infinite for those that do not come; `expected` counts the
    workers that are not known to be lost.
    """
    came = np.sort(finish_s[np.isfinite(finish_s)])
    if len(came) < quorum or came[quorum - 1] * 1000 >= rules.train_ms_max:
        return None
    quorum_s = float(came[quorum - 1])
    share_s = min(rules.grace_share * quorum_s, rules.grace_ms_max / 1000)
    end_s = quorum_s + max(rules.grace_ms_min / 1000, share_s)
    all_s = float(came[expected - 1]) if len(came) >= expected else math.inf
    return min(max(all_s, quorum_s), end_s)


class Simulation:
    """Rounds of one swarm, each a few operations on arrays of all peers."""

    def __init__(self, swarm: Swarm, rounds: Rounds, seed: int) -> None:
        self._swarm, self._rounds = swarm, rounds
        self._draws = np.random.default_rng(seed)
        peers = swarm.peers
        self.now_s, self.goodput = 0.0, Goodput()
        self._ready_s = np.zeros(peers)
        self._fails_s = self._draws.exponential(swarm.up_s, peers)
        self._ahead_s, self._carried_s = np.zeros(peers), np.zeros(peers)
        self._pace = np.ones(peers)
        self._member, self._missed = np.ones(peers, bool), np.zeros(peers, np.int64)
        self._weight_from = np.zeros(peers, np.int64)

    def until(self, end_s: float) -> Goodput:
        while self.now_s < end_s:
            self._round()
        return self.goodput

    def _round(self) -> None:
        """From one commit to the next."""
        start_s, rules = self.now_s, self._rounds.rules
        begin_s = np.maximum(start_s, self._ready_s)
        finish_s = begin_s + np.maximum(0.0, self._work_s - self._ahead_s)
        offers = self._member & (self._weight_from <= self.goodput.rounds)
        there = offers & (self._fails_s > finish_s)
        frozen = offers & ~there & (self._draws.random(len(there)) < self._rounds.frozen_share)
        connected = self._back_s <= start_s + self._rounds.train_s
        expected = int(((there & connected) | frozen).sum())
        quorum = max(1, math.ceil(rules.quorum * int(offers.sum())))
        took_s = goes_on_s(np.where(there, finish_s - start_s, np.inf), expected, quorum, rules)
        patience_s = rules.train_ms_max / 1000 if expected >= quorum else self._rounds.train_s
        decided_s = start_s + (patience_s if took_s is None else took_s)
        commit_s = self._majority_s(self._commit_s(decided_s))
        took_part = there & (finish_s <= decided_s) & (self._fails_s > commit_s)
        if took_s is None or took_part.sum() < quorum:
            self.goodput.skipped += 1
            took_part = np.zeros_like(took_part)
        self._settle(begin_s, commit_s, took_part)
        self._fail(commit_s)
        self._members(commit_s)
        self.goodput.rounds += 1
        self.now_s = commit_s

    def _commit_s(self, decided_s: float) -> float:
        """When the round is committed: an exchange later, or more if its leader dies in it.

        Any peer that takes over makes the exchange anew; a frozen leader costs a deadline first.
        """
        commit_s = decided_s + self._rounds.exchange_s
        for _ in range(8):
            alive = np.flatnonzero(self._member & (self._ready_s <= decided_s))
            if not len(alive) or self._fails_s[self._draws.choice(alive)] > commit_s:
                break
            self.goodput.take_overs += 1
            frozen = self._draws.random() < self._rounds.frozen_share
            commit_s += self._rounds.exchange_s + (self._rounds.rules.deadline_ms / 1000 if frozen else 0)
        return commit_s

    def _majority_s(self, commit_s: float) -> float:
        """No commit before a majority of the members is there: those that are away are waited for."""
        members = np.flatnonzero(self._member)
        here_s = np.where(self._fails_s[members] > commit_s, self._ready_s[members], np.inf)
        here_s = np.sort(here_s)[: majority(len(members))]
        return max(commit_s, float(here_s[-1])) if np.isfinite(here_s).all() else commit_s

    def _settle(self, begin_s: Floats, commit_s: float, took_part: Flags) -> None:
        """What each has trained by the commit: taken, or carried, or done ahead for the next rounds."""
        most_s = self._work_s + self._rounds.rules.overlap * self._rounds.train_s
        trained_s = self._ahead_s + np.maximum(0.0, np.minimum(commit_s, self._fails_s) - begin_s)
        trained_s = np.minimum(trained_s, most_s)
        own_s = np.minimum(trained_s, self._work_s)
        self.goodput.useful_s += float((own_s + self._carried_s)[took_part].sum())
        carried_s = self._carried_s + own_s if self._rounds.rules.late == "carry" else np.zeros_like(own_s)
        self._carried_s = np.where(took_part, 0.0, carried_s)
        self._ahead_s = trained_s - own_s
        if self._rounds.paced:
            self._pace = np.where(took_part, (1 + self._pace) / 2, np.maximum(0.1, 0.75 * self._pace))
        there_s = np.minimum(commit_s, self._fails_s) - np.maximum(self.now_s, self._back_s)
        self.goodput.possible_s += float(np.maximum(0.0, there_s).sum())

    @property
    def _work_s(self) -> Floats:
        """What each is assigned."""
        return self._rounds.train_s * self._pace

    @property
    def _back_s(self) -> Floats:
        """Since when each peer's machines are there: it may be loading still."""
        return self._ready_s - self._pause_s(~self._member)

    def _pause_s(self, joins: Flags) -> Floats:
        swarm = self._swarm
        return swarm.stopped_s + np.where(joins, swarm.join_s, swarm.load_s)

    def _fail(self, commit_s: float) -> None:
        """Those that failed before the commit lose what no commit had taken, and come back later.

        Who is back and has the state before the commit trains for this round still, and is late with it.
        """
        carries = self._rounds.rules.late == "carry"
        while (failed := np.flatnonzero(self._fails_s <= commit_s)).size:
            away_s = self._draws.exponential(self._swarm.failures.away_s, failed.size)
            back_s = self._fails_s[failed] + away_s
            fails_s = back_s + self._draws.exponential(self._swarm.up_s, failed.size)
            ready_s = back_s + self._pause_s(~self._member)[failed]
            until_s = np.minimum(commit_s, fails_s)
            self.goodput.possible_s += float(np.maximum(0.0, until_s - back_s).sum())
            late_s = np.clip(until_s - ready_s, 0.0, self._rounds.train_s) * self._member[failed]
            self._ahead_s[failed], self._carried_s[failed] = 0.0, late_s * carries
            self._fails_s[failed], self._ready_s[failed] = fails_s, ready_s

    def _members(self, commit_s: float) -> None:
        """Who is away misses a round, and after `missed_max` in a row is no member; who is ready joins."""
        rules = self._rounds.rules
        away = self._member & (self._ready_s > commit_s)
        self._missed = np.where(away, self._missed + 1, 0)
        left_out = self._missed > rules.missed_max
        self._ready_s[left_out] += self._swarm.join_s - self._swarm.load_s
        self._member &= ~left_out
        joined = ~self._member & (self._ready_s <= commit_s)
        self._member |= joined
        self._weight_from[joined] = self.goodput.rounds + 1 + rules.probation_rounds


# ---- data-parallel --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DataParallel:
    """All machines take each step together, so a failure of one stops all.

    It costs `restart_s` and what was done since the last save, every `save_s`. Elastic: the survivors hold
    the state, so a save is a step. One that fails while all are stopped anyway costs nothing more.
    """

    restart_s: float
    save_s: float

    def goodput(self, failure_s: float) -> float:
        """The useful share of the time, with a failure of some machine every `failure_s` on average.

        Time goes from one failure to the next: steps that are saved at every `save_s`, which is
        save / (exp(save / failure) - 1) of them on average, and a restart.
        """
        saved_s = self.save_s / math.expm1(self.save_s / failure_s) if self.save_s < 700 * failure_s else 0.0
        return saved_s / (failure_s + self.restart_s)
