"""Training with free riders, audited: auditors measure losses and train again, reputations weigh the mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from statistics import mean

import numpy as np
import torch

from atoll.optim.codecs import CODECS
from atoll.optim.robust import aggregate
from atoll.optim.rules.nesterov import NesterovRule
from atoll.protocol import audit
from atoll.protocol.audit import AuditRules, Replay, Score
from atoll.protocol.ids import Digest, PeerId, digest_of
from atoll.protocol.roster import Reputation
from atoll.protocol.weights import UNIT, combined
from atoll.simulator.timing.attacks import LOSS_MAX, Field, Stack
from atoll.simulator.timing.learner import BATCH, NUMEL, Learner, Unit, Vector
from atoll.simulator.timing.text import VOCABULARY

IDENTITY = CODECS["fp32"]
OUTER_LR = 0.7
NOBODYS = 1 << 20
"""So many rounds ahead are the steps that nobody was dealt: what the control is measured on."""
DIFFERENCE_MAX = 0.01
"""Of the way that a replayed stretch goes: other processors round otherwise, other work goes elsewhere."""


@dataclass(frozen=True)
class Work:
    """One round, as free riders see it: the last of the workers are they.

    `honest` are the others' pseudo-gradients, `before` those of the round before, and `update` the last mean.
    """

    learner: Learner
    anchor: Vector
    units: Sequence[Unit]
    honest: Stack
    before: Stack
    update: Vector
    draws: np.random.Generator

    def copies(self, of: Stack) -> Stack:
        return of[self.draws.integers(len(of), size=len(self.units))]

    def disguised(self, sent: Stack) -> Stack:
        """With a little noise: equal bytes would give a copy away."""
        noise = self.draws.standard_normal(sent.shape) * (0.01 * sent.std(1, keepdims=True))
        found: Stack = (sent + noise).astype(np.float32)
        return found

    def trained(self, learner: Learner, units: Sequence[Unit]) -> Stack:
        found = learner.deltas(self.anchor, units)
        return np.stack([found[unit] for unit in units])


def noise(work: Work) -> Stack:
    """As long as an honest one."""
    length = np.median(np.linalg.norm(work.honest, axis=1))
    drawn = work.draws.standard_normal((len(work.units), NUMEL))
    found: Stack = (length * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return found


def other_data(work: Work) -> Stack:
    """Full work, on batches of the right shard that it chose itself."""
    return work.trained(work.learner, [replace(unit, part=1) for unit in work.units])


def quarter(work: Work) -> Stack:
    """A quarter of the steps, and as long as if it were all."""
    done = work.trained(work.learner, [replace(unit, steps=_quarter(unit.steps)) for unit in work.units])
    length = np.median(np.linalg.norm(work.honest, axis=1))
    found: Stack = (done * (length / np.linalg.norm(done, axis=1, keepdims=True))).astype(np.float32)
    return found


def labels(work: Work) -> Stack:
    """Full work on the assigned data, with wrong labels: no free ride, but harm."""
    learner, reversed_ = work.learner, np.arange(VOCABULARY)[::-1].copy()
    return work.trained(Learner(learner.text, learner.seed, learner.inner, reversed_), work.units)


RIDERS: dict[str, Callable[[Work], Stack]] = {
    "copy": lambda work: work.disguised(work.copies(work.honest)),
    "mean": lambda work: work.disguised(np.repeat(work.honest.mean(0)[None], len(work.units), 0)),
    "noise": noise,
    "zeros": lambda work: np.zeros((len(work.units), NUMEL), np.float32),
    "stale": lambda work: work.disguised(work.copies(work.before)),
    "last update": lambda work: work.disguised(np.repeat(work.update[None], len(work.units), 0)),
    "other data": other_data,
    "quarter": quarter,
    "labels": labels,
}


def _quarter(steps: int) -> int:
    return max(1, steps // 4)


@dataclass(frozen=True, slots=True)
class Audit:
    """How a run audits: the rules, at how many steps of a target each auditor looks, and how many steps are
    between breakpoints to train to again; 0 if it does not."""

    rules: AuditRules = field(default_factory=AuditRules)
    steps: int = 4
    stretch: int = 0


@dataclass(frozen=True)
class Taken:
    """What a round's commit took: `sent` from the anchor, [workers, NUMEL]; `places` are the targets'."""

    round_: int
    parent: Digest
    anchor: Vector
    sent: Stack
    places: Sequence[int]

    def clipped(self) -> Stack:
        """The targets' contributions, no longer than the median of all: as the mean takes them."""
        lengths = np.linalg.norm(self.sent, axis=1)
        factors = np.minimum(1, np.median(lengths) / np.maximum(lengths, np.float32(1e-30)))
        found: Stack = (self.sent * factors[:, None])[list(self.places)].astype(np.float32)
        return found


@dataclass(frozen=True, slots=True)
class Audited:
    """The final held-out loss, None if it diverged; and weight factors of 0..1, [rounds, workers]."""

    loss: float | None
    factors: Vector


@dataclass
class Run:
    """Workers train, riders do not; a few of all score a few. `liars` of the riders, when drawn, call riders
    the best and honest ones the worst."""

    learner: Learner
    field: Field
    rider: str
    seed: int
    how: Audit | None
    liars: int = 0

    def __post_init__(self) -> None:
        self.peers = [PeerId(f"{n:04}") for n in range(self.field.workers)]
        self.honest = self.field.workers - self.field.attackers
        self.known: dict[PeerId, Reputation] = {}
        self.draws = np.random.default_rng(self.seed)
        self.update = np.zeros(NUMEL, np.float32)
        self.before = np.zeros((self.honest, NUMEL), np.float32)

    def trained(self) -> Audited:
        anchor, outer = torch.from_numpy(self.learner.first()), NesterovRule(OUTER_LR, 0.6)
        state, factors, loss = outer.state(NUMEL), [], 0.0
        for round_ in range(self.field.rounds):
            start = anchor.numpy().copy()
            sent = self._sent(start, round_)
            self.update = self._mean(sent)
            outer.step_(anchor, state, torch.from_numpy(self.update))
            if self.how is not None:
                self._audit(self.how, start, sent, round_)
            factors.append([self._factor(peer) / UNIT for peer in self.peers])
            loss = mean(self.learner.losses(anchor.numpy()))
            if not isfinite(loss) or loss > LOSS_MAX:
                return Audited(None, np.array(factors, np.float32))
        return Audited(loss, np.array(factors, np.float32))

    def _factor(self, peer: PeerId) -> int:
        if self.how is None:
            return UNIT
        return audit.factor(self.known.get(peer, audit.FOUNDER), self.how.rules)

    def _units(self, round_: int) -> list[Unit]:
        return [Unit(worker, round_, self.field.steps) for worker in range(self.field.workers)]

    def _sent(self, anchor: Vector, round_: int) -> Stack:
        """What all workers send, the riders' at the end: [workers, NUMEL]."""
        units = self._units(round_)
        found = self.learner.deltas(anchor, units[: self.honest])
        honest = np.stack([found[unit] for unit in units[: self.honest]])
        sent = honest
        if self.field.attackers:
            work = Work(
                self.learner, anchor, units[self.honest :], honest, self.before, self.update, self.draws
            )
            sent = np.concatenate([honest, RIDERS[self.rider](work)])
        self.before = honest
        return sent

    def _mean(self, sent: Stack) -> Vector:
        """The clipped mean, the default of a run, weighed by reputations. Without any weight, nothing."""
        tokens = self.field.steps * BATCH
        weights = [combined(tokens, self._factor(peer)) for peer in self.peers]
        payloads = [
            (weight, IDENTITY.encode(torch.from_numpy(each.copy())))
            for weight, each in zip(weights, sent, strict=True)
            if weight
        ]
        if not payloads:
            return np.zeros(NUMEL, np.float32)
        found = aggregate("mean", payloads, IDENTITY, NUMEL, clip=True)
        assert found is not None
        update: Vector = found.numpy()
        return update

    def _audit(self, how: Audit, anchor: Vector, sent: Stack, round_: int) -> None:
        parent = digest_of(f"{self.seed} {round_}".encode())
        drawn = audit.targets(parent, self.peers, self.known, how.rules)
        auditors = audit.panel(parent, self.peers, self.known, how.rules)
        taken = Taken(round_, parent, anchor, sent, [self.peers.index(target) for target in drawn])
        models = anchor - np.float32(OUTER_LR) * taken.clipped()
        before = mean(self.learner.losses(anchor))
        heldout = [audit.clamped(before - mean(self.learner.losses(model))) for model in models]
        replays = [self._replay(how, taken, place) for place in taken.places]
        scores = []
        for auditor in auditors:
            assigned = self._falls(how, taken, models, auditor, round_)
            control = self._falls(how, taken, models, auditor, round_ + NOBODYS)
            told = zip(drawn, heldout, assigned, control, replays, strict=True)
            scores += [self._said(Score(auditor, *each)) for each in told if each[0] != auditor]
        self.known = audit.judged(self.known, audit.judgements(scores, auditors), round_, how.rules)

    def _falls(self, how: Audit, taken: Taken, models: Stack, auditor: PeerId, round_: int) -> list[int]:
        """How far each target's model is below the anchor, on the steps of a round that an auditor drew."""
        steps = self.field.steps
        looked_at = {
            Unit(place, round_, steps): audit.steps_drawn(
                taken.parent, auditor, self.peers[place], steps, how.steps
            )
            for place in taken.places
        }
        before = self.learner.losses_on(np.repeat(taken.anchor[None], len(models), 0), looked_at)
        return [audit.clamped(float(fall)) for fall in before - self.learner.losses_on(models, looked_at)]

    def _replay(self, how: Audit, taken: Taken, place: int) -> Replay:
        """Train to a breakpoint again, alone, and compare with where the target committed to have been."""
        if not how.stretch:
            return Replay.NOT_TRIED
        stretches = audit.stretches_drawn(taken.parent, self.peers[place], self.field.steps // how.stretch)
        unit = Unit(place, taken.round_, how.stretch * stretches)
        again = self.learner.deltas(taken.anchor, [unit])[unit]
        claimed = self._claimed(taken.anchor, taken.sent, unit)
        near = np.linalg.norm(claimed - again) <= DIFFERENCE_MAX * np.linalg.norm(again)
        return Replay.MATCH if near else Replay.DIFFERS

    def _claimed(self, anchor: Vector, sent: Stack, unit: Unit) -> Vector:
        """Where a worker says that it was after so many steps: those that trained, where they were (among all
        that train, so bits may differ); the others, on the straight way to what they sent."""
        done = unit.steps <= _quarter(self.field.steps) if self.rider == "quarter" else False
        if unit.shard < self.honest or done:
            units = [replace(each, steps=unit.steps) for each in self._units(unit.job)]
            return self.learner.deltas(anchor, units)[unit]
        share: Vector = sent[unit.shard] * np.float32(unit.steps / self.field.steps)
        return share

    def _said(self, score: Score) -> Score:
        if score.auditor not in self.peers[self.field.workers - self.liars :]:
            return score
        good = score.target in self.peers[self.honest :]
        best = audit.CHANGE_MAX if good else -audit.CHANGE_MAX
        replay = Replay.MATCH if good else Replay.DIFFERS
        return replace(score, heldout=best, assigned=best, control=-best, replay=replay)
