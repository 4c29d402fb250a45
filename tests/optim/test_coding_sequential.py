"""Sequential codes: bursts, who repeats what, and that every job is decoded in time."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import inf
from random import Random

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from atoll.optim import reference_coding as reference
from atoll.optim.coding.bursts import Bursts, Wait, conforms, must_wait, stragglers
from atoll.optim.coding.codes import Code, circulant, identity, random_cyclic, repetition
from atoll.optim.coding.decoding import Refusal
from atoll.optim.coding.multiplexed import Multiplexed
from atoll.optim.coding.selective_repeat import SelectiveRepeat, stragglers_for
from atoll.optim.coding.sequential import Schedule, Task

Sequential = SelectiveRepeat | Multiplexed
Values = dict[int, np.ndarray]  # of each job, by chunk
SEED = b"a digest"
PATTERNS = 1000


def pattern(random: Random, bursts: Bursts, workers: int, rounds: int) -> list[set[int]]:
    """A conforming pattern as full of stragglers as chance makes it: they are added while none must wait.

    Workers come in a random order, and one that was late in the round before is likely to be late again.
    """
    found: list[set[int]] = []
    eager = random.choice((0.1, 0.5, 0.9))
    for _ in range(rounds):
        late: set[int] = set()
        for worker in random.sample(range(workers), workers):
            again = bool(found) and worker in found[-1]
            likely = random.random() < (0.95 if again else eager)
            if likely and must_wait(bursts, found, late | {worker}) is None:
                late.add(worker)
        found.append(late)
    assert reference.conforms(bursts.burst, bursts.window, bursts.distinct, found)
    return found


def run_pattern(state: Sequential, workers: int, rounds: Iterable[set[int]]) -> list[Schedule]:
    """Run it with a random vector of fp64 numbers for each chunk; every job's sum must come out, in time."""
    values: Values = {}
    answers: dict[tuple[int, int, int], np.ndarray] = {}
    random = np.random.default_rng(7)
    schedules, largest = [], len(state.weights)
    for number, late in enumerate(rounds):
        values[number] = random.standard_normal(largest)
        schedules.append(state.schedule())
        for worker, tasks in enumerate(schedules[-1]):
            for task in () if worker in late else tasks:
                came = sum(factor * values[task.job][chunk] for chunk, factor in task.row)
                answers[task.job, worker, task.item] = np.asarray(came)
        state = state.after(set(range(workers)) - late)
        done = number - state.delay
        if done >= 0:
            terms = state.decode(done, inf)
            assert not isinstance(terms, Refusal), (number, terms)
            total = sum(term.coefficient * answers[done, term.worker, term.item] for term in terms)
            assert abs(total - values[done].sum()) < 1e-9
            assert state.decodable(done, inf)
    return schedules


def times_decoded(state: Sequential, workers: int, bursts: Bursts, seed: int, patterns: int) -> int:
    """How many patterns were decoded to their end, and had stragglers at all."""
    random, full = Random(seed), 0
    for _ in range(patterns):
        rounds = pattern(random, bursts, workers, 3 * (state.delay + 1) + 4)
        run_pattern(state, workers, rounds)
        full += any(rounds)
    return full


# ---- bursts ------------------------------------------------------------------------------------------


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 4)),
    st.lists(st.sets(st.integers(0, 4)), max_size=9),
)
def test_conforming_is_the_models_definition(sizes: tuple[int, int, int], rounds: list[set[int]]) -> None:
    bursts = Bursts(sizes[0], sizes[0] + sizes[1], sizes[2])
    assert conforms(bursts, rounds) == reference.conforms(
        bursts.burst, bursts.window, bursts.distinct, rounds
    )


@given(st.integers(0, 10**6), st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 4)))
def test_who_waits_when_told_keeps_to_the_model(seed: int, sizes: tuple[int, int, int]) -> None:
    random, bursts = Random(seed), Bursts(sizes[0], sizes[0] + sizes[1], sizes[2])
    kept: list[set[int]] = []
    for _ in range(30):
        late = {worker for worker in range(6) if random.random() < 0.2}
        kept.append(set() if must_wait(bursts, kept, late) else late)
    assert reference.conforms(bursts.burst, bursts.window, bursts.distinct, kept)


def test_a_wait_says_why() -> None:
    bursts = Bursts(burst=1, window=3, distinct=2)
    assert must_wait(bursts, [], {0, 1}) is None
    assert must_wait(bursts, [{0, 1}], {2}) == Wait("3 workers straggled within 3 rounds, more than 2")
    assert must_wait(bursts, [{0}, {1}], {0}) == Wait("worker 0's straggling spans 3 rounds, more than 1")
    assert must_wait(bursts, [{0}, {1}, set()], {0}) is None
    assert must_wait(bursts, [{0, 1}], set()) is None


def test_models_that_are_none() -> None:
    for sizes in ((0, 2, 1), (2, 2, 1), (1, 2, -1)):
        with pytest.raises(ValueError, match="1 <= burst < window"):
            Bursts(*sizes)


def test_stragglers_are_told_from_the_fastest() -> None:
    delays = {0: 1.0, 1: 2.0, 2: 2.1, 3: inf}
    assert stragglers(delays) == {2, 3}
    assert stragglers(delays, slack=1.2) == {3}
    assert stragglers({}) == frozenset()


# ---- SR-SGC ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "code"),
    [
        ((1, 2, 2), repetition(8, 1)),
        ((1, 3, 3), repetition(8, 1)),
        ((2, 3, 2), repetition(6, 1)),
        ((1, 2, 4), circulant(7, 2)),
        ((2, 5, 4), circulant(9, 2)),
        ((1, 4, 5), circulant(7, 2)),
        ((3, 4, 6), repetition(8, 3)),
        ((1, 2, 2), random_cyclic(5, 1, SEED)),
    ],
)
def test_selective_repeat_decodes_every_job(sizes: tuple[int, int, int], code: Code) -> None:
    bursts = Bursts(*sizes)
    state = SelectiveRepeat(bursts, code)
    assert times_decoded(state, code.workers, bursts, 1, PATTERNS // 8) > PATTERNS // 10


def test_selective_repeat_needs_the_code_that_its_model_says() -> None:
    assert [stragglers_for(Bursts(*sizes)) for sizes in ((1, 2, 2), (1, 2, 3), (2, 5, 4), (1, 3, 0))] == [
        1,
        2,
        2,
        0,
    ]
    with pytest.raises(ValueError, match="must divide the window less one"):
        stragglers_for(Bursts(2, 4, 1))
    with pytest.raises(ValueError, match="a code for 1 stragglers, not 3"):
        SelectiveRepeat(Bursts(1, 2, 2), repetition(8, 3))


def test_without_stragglers_nothing_is_repeated() -> None:
    bursts = Bursts(burst=1, window=2, distinct=0)
    state = SelectiveRepeat(bursts, identity(5))
    schedules = run_pattern(state, 5, [set()] * 8)
    assert all(task.job == number for number, row in enumerate(schedules) for (task,) in row)
    assert state.load == Fraction(1, 5)


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=9))
def test_who_repeats_is_who_the_oracle_names(back: list[list[bool]]) -> None:
    """For any pattern, conforming or not: which workers compute which job."""
    state = SelectiveRepeat(Bursts(2, 3, 2), repetition(6, 1))
    found = []
    for row in back:
        found.append([task.job for (task,) in state.schedule()])
        state = state.after([worker for worker, came in enumerate(row) if came])
    assert found == reference.repeated(back, 2, 1)


def test_two_late_and_one_repeats() -> None:
    """s = 1 of lambda = 2 is spared; the first of the two computes its old row again, one round later."""
    state = SelectiveRepeat(Bursts(1, 2, 2), circulant(8, 1))
    state = state.after({0, 1, 3, 4, 6, 7})
    assert state.decode(0) == Refusal("6 of 8 workers answered: the code needs any 7")
    assert [task.job for (task,) in state.schedule()] == [1, 1, 0, 1, 1, 1, 1, 1]
    assert state.schedule()[2] == (Task(0, 0, circulant(8, 1).rows[2]),)
    state = state.after(range(8))
    assert state.decodable(0)
    assert state.decodable(1)
    with pytest.raises(ValueError, match="job 2 is not among the last"):
        state.decode(2)
    with pytest.raises(ValueError, match="job 0 is not among"):
        state.after(range(8)).decode(0)


def test_a_broken_model_is_refused_and_not_decoded_wrongly() -> None:
    state = SelectiveRepeat(Bursts(1, 2, 2), circulant(8, 1)).after(range(3)).after(range(4))
    refusal = state.decode(0)
    assert isinstance(refusal, Refusal)
    assert "the code needs any 7" in refusal.reason


# ---- M-SGC -------------------------------------------------------------------------------------------


def multiplexed(sizes: tuple[int, int, int], workers: int, code: Code | None) -> Multiplexed:
    return Multiplexed(Bursts(*sizes), workers, code)


MODELS = [
    ((1, 2, 1), 8, repetition(8, 1)),
    ((1, 2, 2), 4, random_cyclic(4, 2, SEED)),
    ((2, 3, 3), 8, repetition(8, 3)),
    ((2, 4, 2), 7, circulant(7, 2)),
    ((1, 4, 2), 9, repetition(9, 2)),
    ((3, 4, 1), 5, repetition(5, 1)),
    ((2, 3, 0), 4, identity(4)),
    ((1, 3, 4), 4, None),
]


@pytest.mark.parametrize(("sizes", "workers", "code"), MODELS)
def test_multiplexed_decodes_every_job(sizes: tuple[int, int, int], workers: int, code: Code | None) -> None:
    state = multiplexed(sizes, workers, code)
    decoded = times_decoded(state, workers, state.bursts, 2, PATTERNS // 8)
    assert decoded > PATTERNS // 10 if sizes[2] else decoded == 0


@pytest.mark.parametrize(("sizes", "workers", "code"), MODELS)
def test_chunks_weigh_one_and_slots_cost_the_same(
    sizes: tuple[int, int, int], workers: int, code: Code | None
) -> None:
    state = multiplexed(sizes, workers, code)
    assert sum(state.weights) == 1
    burst, window, distinct = sizes
    if code is None:
        assert state.load == Fraction(window - 1 + burst, workers * (window - 1))
    elif code.load == distinct + 1:
        whole = burst + (window - 1) * (distinct + 1)
        assert state.load == Fraction((distinct + 1) * (window - 1 + burst), workers * whole)
    for _ in range(state.slots):
        state = state.after(range(workers))
    for tasks in state.schedule():
        costs = {sum(state.weights[chunk] for chunk, _ in task.row) for task in tasks}
        assert max(costs) == state.weights[0]
        assert len(tasks) == (state.slots if code else state.own)


def test_the_table_of_four_workers() -> None:
    """n = 4, B = 1, W = 2, lambda = 2. Round r: own chunk of job r; of job r-1 the repeat or the code."""
    code = random_cyclic(4, 2, SEED)
    state = multiplexed((1, 2, 2), 4, code)
    assert state.load == Fraction(6, 16) < Fraction(3, 4)
    assert state.weights == (Fraction(3, 16),) * 4 + (Fraction(1, 16),) * 4
    own = [((worker, 1.0),) for worker in range(4)]
    coded = [tuple((4 + unit, factor) for unit, factor in row) for row in code.rows]
    assert state.schedule() == tuple((Task(0, 0, own[worker]),) for worker in range(4))
    state = state.after({0, 2})  # 1 and 3 straggle
    second = [own[1] if worker == 1 else own[3] if worker == 3 else coded[worker] for worker in range(4)]
    items = [1, 0, 1, 0]
    assert state.schedule() == tuple(
        (Task(1, 0, own[worker]), Task(0, items[worker], second[worker])) for worker in range(4)
    )
    assert state.decode(0) == Refusal("2 chunks that one worker has are missing, first chunk 0 of worker 1")
    state = state.after(range(4))
    terms = state.decode(0)
    assert not isinstance(terms, Refusal)
    assert [(term.worker, term.item) for term in terms] == [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (2, 1)]


def test_a_group_with_too_few_symbols_is_refused() -> None:
    state = multiplexed((1, 2, 2), 7, circulant(7, 2)).after(range(7)).after(range(4))
    refusal = state.decode(0)
    assert refusal == Refusal("group 0: 4 of 7 workers answered: the code needs any 5")
    with pytest.raises(ValueError, match="job 5 is not among the last"):
        state.decode(5)


def test_only_jobs_that_can_still_change_are_kept() -> None:
    for state in (
        multiplexed((2, 4, 2), 7, circulant(7, 2)),
        SelectiveRepeat(Bursts(2, 3, 2), repetition(6, 1)),
    ):
        for number in range(12):
            state = state.after(range(5))
            first = max(0, number - state.delay)
            assert sorted(state.answers) == list(range(first, number + 1))


def test_a_code_that_does_not_fit_the_model() -> None:
    with pytest.raises(ValueError, match="only where all workers may straggle"):
        multiplexed((1, 2, 2), 4, None)
    with pytest.raises(ValueError, match="a code for 2 of 4 workers"):
        multiplexed((1, 2, 2), 4, repetition(4, 1))
