"""Nobody reads a window twice: the dealing is a permutation, split without overlap."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.workload import shards


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(0, 99))
def test_a_pass_is_a_permutation(size: int, data_pass: int) -> None:
    keys = shards._keys(b"seed", data_pass)
    assert sorted(shards.permute(place, size, keys) for place in range(size)) == list(range(size))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.binary(max_size=8),
    round=st.integers(0, 10**9),
    members=st.integers(1, 9),
    steps=st.integers(1, 6),
    batch=st.integers(1, 4),
    spare=st.integers(0, 500),
)
def test_a_round_deals_each_window_at_most_once_a_pass(
    seed: bytes, round: int, members: int, steps: int, batch: int, spare: int
) -> None:
    dealt = members * steps * batch
    windows = dealt + spare
    got = [
        int(window)
        for member in range(members)
        for step in range(steps)
        for window in shards.batch(seed, round, member, members, step, batch, steps, windows)
    ]
    assert all(0 <= window < windows for window in got)
    first_pass = windows - round * dealt % windows  # positions of this round before the next pass begins
    positions = {
        ((round * steps + step) * members + member) * batch + i: got[(member * steps + step) * batch + i]
        for member in range(members)
        for step in range(steps)
        for i in range(batch)
    }
    ordered = [positions[p] for p in sorted(positions)]
    assert sorted(positions) == list(range(round * dealt, (round + 1) * dealt))
    for part in (ordered[:first_pass], ordered[first_pass:]):
        assert len(set(part)) == len(part)


def test_rounds_together_read_all_the_data_before_any_of_it_again() -> None:
    windows, members, steps, batch = 240, 3, 4, 5
    rounds = windows // (members * steps * batch)
    for data_pass in range(3):
        got = [
            shards.batch(b"s", data_pass * rounds + r, m, members, s, batch, steps, windows)
            for r in range(rounds)
            for m in range(members)
            for s in range(steps)
        ]
        assert sorted(np.concatenate(got).tolist()) == list(range(windows))


def test_the_order_depends_on_seed_and_pass_and_never_changes() -> None:
    def take(seed: bytes, round: int) -> list[int]:
        return shards.batch(seed, round, 1, 4, 2, 6, 10, 1000).tolist()

    assert take(b"run", 0) == [305, 712, 181, 153, 3, 204]  # written down: other machines must agree
    assert take(b"run", 0) != take(b"ruin", 0)
    assert [shards.permute(p, 50, shards._keys(b"a", 0)) for p in range(50)] != [
        shards.permute(p, 50, shards._keys(b"a", 1)) for p in range(50)
    ]


def test_the_permutation_mixes() -> None:
    """Neighbouring positions land far apart, as those of a shuffle do."""
    size = 4096
    keys = shards._keys(b"x", 0)
    order = np.array([shards.permute(place, size, keys) for place in range(size)])
    correlation = np.corrcoef(np.arange(size), order)[0, 1]
    jumps = np.abs(np.diff(order)).mean()
    assert abs(correlation) < 0.06
    assert abs(jumps - size / 3) < size * 0.03
