"""How the parts of an update are shared out among owners with fast and slow uplinks."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import peer

from atoll.protocol.ids import PeerId
from atoll.protocol.shares import _speeds, relayed, shared_out

A, B, C, D = map(peer, "abcd")


def counts(parts: int, **rates: int) -> dict[str, int]:
    order = [peer(name) for name in rates]
    owned = Counter(shared_out(parts, order, {peer(name): rate for name, rate in rates.items()}))
    return {name: owned[peer(name)] for name in rates}


def test_equals_take_turns_in_the_order_given() -> None:
    assert shared_out(8, [C, A, D, B], {}) == [C, A, D, B] * 2
    assert shared_out(3, [B, A], {A: 5, B: 5}) == [B, A, B]


def test_what_is_measured_a_little_differently_counts_as_equal() -> None:
    assert counts(16, a=100, b=60, c=130, d=50) == {"a": 4, "b": 4, "c": 4, "d": 4}


def test_a_slow_uplink_owns_little_or_nothing() -> None:
    assert counts(16, a=100, b=100, c=100, d=1) == {"a": 6, "b": 5, "c": 5, "d": 0}


def test_the_others_share_what_a_slow_one_does_not_own() -> None:
    order = [peer(f"w{place}") for place in range(40)]
    rates = dict.fromkeys(order, 1000) | {order[0]: 499}
    owned = Counter(shared_out(640, order, rates))
    assert owned[order[0]] == 0
    assert set(owned.values()) <= {16, 17}


def test_beyond_a_gigabit_all_are_equal() -> None:
    assert counts(6, a=10**9, b=2 * 10**8, c=10**10) == {"a": 2, "b": 2, "c": 2}


def test_who_was_never_measured_counts_as_usual() -> None:
    assert counts(4, a=0, b=100, c=100, d=100) == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_two_share_evenly_whatever_they_have() -> None:
    """Each sends as much: the half that it does not own goes out, and the mean of the other half too."""
    assert counts(4, a=1000, b=900) == {"a": 2, "b": 2}


def test_one_alone_owns_all() -> None:
    assert counts(3, a=7) == {"a": 3}


@given(
    st.integers(1, 64), st.dictionaries(st.sampled_from([A, B, C, D]), st.integers(0, 1 << 40), min_size=1)
)
def test_everything_is_owned_and_more_speed_is_never_less_to_own(
    parts: int, uplinks: dict[PeerId, int]
) -> None:
    order = sorted(uplinks)
    owned = Counter(shared_out(parts, order, uplinks))
    assert sum(owned.values()) == parts
    known = [who for who in order if uplinks[who]]
    for slow in known:
        for fast in known:
            assert uplinks[slow] >= uplinks[fast] or owned[slow] <= owned[fast] + 1


def test_the_leader_passes_on_what_a_slow_uplink_sent_once() -> None:
    assert relayed(A, [A, B, C, D], {A: 100, B: 100, C: 100, D: 10}, 3) == {D}
    assert relayed(A, [A, B, C, D], {A: 100, B: 90, C: 100, D: 60}, 3) == set()
    assert relayed(A, [A, B, C, D], {}, 3) == set()
    assert relayed(D, [A, B, C, D], {A: 100, B: 100, C: 100, D: 10}, 3) == set()


def test_a_witness_that_leads_has_more_room() -> None:
    rates = {A: 100, B: 100, C: 30, D: 20}
    assert relayed(A, [A, B, C, D], rates, 3) == {D}
    assert relayed(peer("witness"), [A, B, C, D], rates, 3) == {C, D}


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=12), st.integers(0, 12), st.integers(0, 20))
def test_passing_on_makes_nobody_slower(rates: list[int], led_by: int, more: int) -> None:
    """By the speeds that count: one that is unknown, or half of the usual one, is the usual one."""
    peers = [peer(f"w{place}") for place in range(len(rates))]
    leader = peers[led_by] if led_by < len(peers) else peer("witness")
    copies = len(peers) + more
    spared = relayed(leader, peers, dict(zip(peers, rates, strict=True)), copies)
    speeds = _speeds([*dict.fromkeys((*peers, leader))], dict(zip(peers, rates, strict=True)))
    own = (copies + 1) * (leader in peers)
    before = [copies / speeds[p] for p in peers if p != leader]
    after = [copies / speeds[p] for p in peers if p != leader and p not in spared]
    assert leader not in spared
    assert max([own / speeds[leader], *before]) >= max(
        [(own + copies * len(spared)) / speeds[leader], *after]
    )
