"""Policies in virtual time: what closed forms say of waiting, and what exact codes say of trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
import torch

from atoll.optim.coding.bursts import Bursts
from atoll.simulator.timing import coded, policies, text, traces
from atoll.simulator.timing.buffered import Buffered
from atoll.simulator.timing.learner import BATCH, NUMEL, Learner, Unit, Vector
from atoll.simulator.timing.rounds import History, Policy, Run, Setting
from atoll.simulator.timing.traces import Trace

WORKERS, STEPS = 12, 2
BURSTS = Bursts(1, 2, 2)
SLOTS = 400


@pytest.fixture(scope="module")
def learner() -> Learner:
    return Learner(text.load("non-iid", WORKERS, 0, bytes_max=200_000), 0)


class Still:
    """A learner that learns nothing: who waits for whom does not depend on it."""

    def first(self) -> Vector:
        return np.zeros(NUMEL, np.float32)

    def mean(self, anchor: Vector, weights: object) -> Vector:
        return np.zeros(NUMEL, np.float32)

    def losses(self, anchor: Vector) -> tuple[float, ...]:
        return (1.0,)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The matrices are small: two threads take longer than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shares(policy: Policy, trace: Trace, rounds: int) -> dict[str, float]:
    setting = Setting(steps=STEPS, exchange_s=0.0, rounds_max=rounds)
    return Run(policy, trace, cast(Learner, Still()), setting).until().spent.shares()


def ran(policy: Policy, trace: Trace, learner: Learner, rounds: int) -> History:
    setting = Setting(steps=STEPS, rounds_max=rounds)
    return Run(policy, trace, learner, setting).until()


# ---- the learner ----------------------------------------------------------------------------------


def test_a_unit_does_not_depend_on_what_is_trained_beside_it(learner: Learner) -> None:
    anchor = learner.first()
    units = [Unit(0, 3, 2), Unit(1, 3, 4), Unit(1, 3, 2, part=1, batch=8)]
    together = learner.deltas(anchor, units)
    for unit in units:
        alone = learner.deltas(anchor, [unit])
        np.testing.assert_allclose(alone[unit], together[unit], atol=1e-6)
    assert np.abs(together[units[1]] - together[units[2]]).max() > 1e-4, "parts have other batches"


def test_training_lowers_the_loss_on_real_text(learner: Learner) -> None:
    history = ran(policies.wait_all(WORKERS, 8), traces.calm(WORKERS), learner, 8)
    losses = [point.loss for point in history.points]
    assert losses[-1] < losses[0] < np.log(text.VOCABULARY)
    assert losses[-1] < losses[0] - 0.5


def test_shards_of_topics_differ_and_equal_ones_do_not() -> None:
    def spread(kind: str) -> float:
        shards = text.load(kind, 4, 0, bytes_max=200_000).training
        counts = [np.bincount(shard.ravel(), minlength=text.VOCABULARY) / shard.size for shard in shards]
        return float(max(np.abs(one - other).sum() for one in counts for other in counts))

    assert spread("non-iid") > 4 * spread("iid")


# ---- the same trajectory --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        policies.Quorum(WORKERS, STEPS),
        policies.Compass(WORKERS, STEPS),
        coded.Repetition(WORKERS, STEPS, 1),
        coded.Repetition(WORKERS, STEPS, 2),
    ],
    ids=lambda policy: f"{policy.name}",
)
def test_without_stragglers_all_policies_train_alike(policy: Policy, learner: Learner) -> None:
    calm = traces.calm(WORKERS)
    wanted = ran(policies.wait_all(WORKERS, STEPS), calm, learner, 4)
    assert (ran(policy, calm, learner, 4).anchor == wanted.anchor).all()


def test_who_waits_for_all_merges_nothing(learner: Learner) -> None:
    """Nobody is late then, and every update is the one that waiting for all makes, bit for bit."""
    slow = traces.bursty(WORKERS, SLOTS, 2.0, 5)
    wanted = ran(policies.wait_all(WORKERS, STEPS), slow, learner, 4)
    found = Buffered(slow, learner, Setting(STEPS, rounds_max=4), quorum=1.0).until()
    assert (found.anchor == wanted.anchor).all()
    assert [p.now_s for p in found.points] == pytest.approx([p.now_s for p in wanted.points])
    assert found.spent.shares() == pytest.approx(wanted.spent.shares())


def test_the_slow_are_merged_and_nobody_waits_for_them(learner: Learner) -> None:
    """By hand: two workers at full speed and one at a third of it, without an exchange. The slow one ends
    with the third update, and began two updates before the anchor that it meets."""
    speeds = np.array([[1.0], [1.0], [0.34]])
    setting = Setting(STEPS, exchange_s=0.0, rounds_max=3)
    run = Buffered(Trace("one slow", speeds, 1000.0), learner, setting)
    history = run.until()
    assert [point.now_s for point in history.points] == pytest.approx([STEPS, 2 * STEPS, 3 * STEPS])
    anchor = torch.from_numpy(learner.first())
    first, state = anchor.numpy().copy(), setting.outer.state(anchor.numel())
    for round_ in range(3):
        weights = {Unit(0, round_, STEPS): 1.0, Unit(1, round_, STEPS): 1.0}
        late = {Unit(2, 0, STEPS): 37837 / 65536} if round_ == 2 else {}
        total = sum(weights.values()) + sum(late.values())
        mean = learner.mean(anchor.numpy(), {u: w / total for u, w in weights.items()})
        mean = mean + learner.mean(first, {u: w / total for u, w in late.items()}) if late else mean
        setting.outer.step_(anchor, state, torch.from_numpy(mean.copy()))
    assert history.anchor == pytest.approx(anchor.numpy(), rel=1e-5, abs=1e-7)
    possible, done = 3 * STEPS * 2.34, 7 * STEPS
    assert history.spent.shares()["waiting"] == pytest.approx(1 - done / possible)
    assert history.spent.shares()["useful"] == pytest.approx(done / possible)


def test_who_is_too_slow_begins_anew(learner: Learner) -> None:
    speeds = np.array([[1.0], [1.0], [0.01]])
    setting = Setting(STEPS, exchange_s=0.0, rounds_max=5)
    run = Buffered(Trace("stuck", speeds, 1000.0), learner, setting, staleness_max=2)
    run.until()
    assert run.spent.shares()["useful"] == pytest.approx(2 / 2.01, rel=1e-3)


def test_a_code_loses_nobody_whoever_straggles(learner: Learner) -> None:
    wanted = ran(policies.wait_all(WORKERS, STEPS), traces.calm(WORKERS), learner, 6)
    slow = traces.bursty(WORKERS, SLOTS, 2.0, 5)
    assert (ran(coded.Repetition(WORKERS, STEPS), slow, learner, 6).anchor == wanted.anchor).all()
    other = ran(policies.Quorum(WORKERS, STEPS, quorum=0.5), slow, learner, 6)
    assert (other.anchor != wanted.anchor).any(), "a quorum leaves somebody out on this trace"


@pytest.mark.parametrize("make", [coded.sr_sgc, coded.m_sgc])
def test_sequential_codes_decode_the_same_from_any_bursts(make, learner: Learner) -> None:  # type: ignore[no-untyped-def]
    """Each of the models trained side by side ends where it ends without stragglers."""
    rounds = 7
    calm = ran(make(WORKERS, STEPS, BURSTS), traces.calm(WORKERS), learner, rounds)
    slow = ran(make(WORKERS, STEPS, BURSTS), traces.bursty(WORKERS, SLOTS, 2.0, 5), learner, rounds)
    assert len(slow.points) == rounds - 1, "jobs are a round late"
    assert [point.losses for point in slow.points] == [point.losses for point in calm.points]


def test_selective_repeat_trains_what_waiting_for_all_trains(learner: Learner) -> None:
    slow = traces.bursty(WORKERS, SLOTS, 2.0, 5)
    wanted = ran(policies.wait_all(WORKERS, STEPS, chains=2), traces.calm(WORKERS), learner, 6)
    found = ran(coded.sr_sgc(WORKERS, STEPS, BURSTS), slow, learner, 7)
    assert [p.losses for p in found.points] == [p.losses for p in wanted.points]


def test_a_multiplexed_job_weighs_every_unit_by_its_data(learner: Learner) -> None:
    policy = coded.m_sgc(WORKERS, STEPS, BURSTS)
    work = policy.assign(0)
    assert {len(units) for units in work} == {1}
    assert {units[0].batch for units in work} == {24}
    assert sum(policy.batches) == WORKERS * BATCH


# ---- waiting --------------------------------------------------------------------------------------


def test_two_workers_of_which_one_is_half_as_fast() -> None:
    """The fast one waits half of each round: 1/3 of what both could do."""
    trace = traces.mix(2, (1.0, 2.0))
    spent = shares(policies.wait_all(2, STEPS), trace, 3)
    assert spent["waiting"] == pytest.approx(1 / 3)
    assert spent["useful"] == pytest.approx(2 / 3)
    assert spent["exchange"] == 0.0


def test_the_mix_of_one_two_four() -> None:
    """Waiting for all wastes 4 of 7 parts; work by speed wastes what it takes to learn the speeds."""
    trace = traces.mix(WORKERS)
    all_ = shares(policies.wait_all(WORKERS, 8), trace, 4)
    paced = shares(policies.Compass(WORKERS, 8), trace, 26)
    assert all_["waiting"] == pytest.approx(4 / 7)
    assert paced["waiting"] < 0.05
    assert paced["useful"] > 0.95


def test_replicas_do_everything_twice() -> None:
    spent = shares(coded.Repetition(WORKERS, STEPS, 1), traces.calm(WORKERS), 3)
    assert spent["useful"] == pytest.approx(0.5)
    assert spent["unused"] == pytest.approx(0.5)


def test_a_group_that_is_slow_as_a_whole_is_waited_for() -> None:
    took_s = np.full(WORKERS, 1.0)
    took_s[[0, 3]] = 9.0
    assert coded.Repetition(WORKERS, STEPS, 1).end_s(0, took_s) == 1.0
    took_s[1] = 7.0
    assert coded.Repetition(WORKERS, STEPS, 1).end_s(0, took_s) == 7.0


def test_backup_workers_wait_for_fewer_where_one_is_slow(learner: Learner) -> None:
    policy = policies.BackupWorkers(WORKERS, STEPS, 0.7)
    speeds = np.ones((WORKERS, 1))
    speeds[0] = 0.05
    history = ran(policy, Trace("one", speeds, 1.0), learner, 8)
    waited = ran(policies.wait_all(WORKERS, STEPS), Trace("one", speeds, 1.0), learner, 8)
    assert history.points[-1].now_s < 0.6 * waited.points[-1].now_s


def test_a_target_is_reached_when_all_models_reached_it() -> None:
    from atoll.simulator.timing.rounds import Point, Spent

    points = tuple(Point(now, (loss,)) for now, loss in ((1, 3.0), (2, 2.0), (3, 1.0), (4, 1.5)))
    history = History(points, Spent(), 4, 2, np.zeros(1, np.float32))
    assert history.time_to(1.5) == 4 / 2
    assert history.time_to(1.2) is None
