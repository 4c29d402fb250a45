"""One byte per gradient: what it means, which direction it is about, and replicas that never differ."""

from __future__ import annotations

from math import e, exp, inf, log, nan

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from optim_vectors import USUAL, integers_to_floats, tensor
from torch import Tensor

from atoll.optim import reference_rules
from atoll.optim.digest import tensor_digest
from atoll.optim.flat import PIECE, NonFinite
from atoll.optim.scalar_replica import PEERS_MAX, Replica
from atoll.optim.scalars import ZERO, ScalarRule, code_of, gradient_of
from atoll.protocol.errors import RemoteProtocolError

RULE = ScalarRule(0.01, 1e-3, b"a run")
CODES = st.integers(0, 255).filter(lambda code: code != 0x80)
PEERS = ("alice", "bob", "carol")
RECEIVED = st.dictionaries(st.tuples(st.integers(0, 7), st.sampled_from(PEERS)), CODES, max_size=14)


# ---- the byte -------------------------------------------------------------------------------------


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_byte_keeps_sign_and_size(gradient: float) -> None:
    code = code_of(gradient)
    assert 0 <= code <= 255
    found = gradient_of(code)
    if gradient == 0:
        assert (code, found) == (ZERO, 0.0)
        return
    assert (found > 0) == (gradient > 0)
    if exp(-63 / 8) <= abs(gradient) <= exp(63 / 8):
        assert abs(log(found / gradient)) <= 1 / 16 + 1e-6
    else:
        assert abs(found) == pytest.approx(exp(63 / 8) if abs(gradient) > 1 else exp(-63 / 8))


@given(CODES)
def test_a_code_decodes_to_what_it_encodes(code: int) -> None:
    assert gradient_of(code) == reference_rules.scalar_value(code)
    assert code_of(gradient_of(code)) == code


def test_two_hundred_and_fifty_five_codes_and_no_other() -> None:
    values = [gradient_of(code) for code in range(256) if code != 0x80]
    assert len(set(values)) == 255
    assert gradient_of(64) == 1.0
    assert gradient_of(72) == pytest.approx(e)
    assert gradient_of(72 | 0x80) == -gradient_of(72)
    for code in (0x80, -1, 256, 1 << 40):
        with pytest.raises(RemoteProtocolError, match="no gradient has the code"):
            gradient_of(code)
    for gradient in (nan, inf, -inf):
        with pytest.raises(NonFinite):
            code_of(gradient)


# ---- directions -----------------------------------------------------------------------------------


def direction(rule: ScalarRule, step: int, peer: str, numel: int) -> Tensor:
    vector = torch.zeros(numel)
    rule.move_(vector, step, peer, 1.0)
    return vector


@settings(max_examples=20)
@given(st.binary(max_size=9), st.integers(0, 2**63), st.sampled_from(PEERS), st.integers(0, 300))
def test_a_direction_is_the_bits_of_the_published_mix(seed: bytes, step: int, peer: str, numel: int) -> None:
    found = direction(ScalarRule(0.1, 0.1, seed), step, peer, numel)
    assert found.tolist() == [reference_rules.sign(seed, step, peer, place) for place in range(numel)]


def test_a_direction_goes_on_through_pieces() -> None:
    found = direction(RULE, 3, "alice", 2 * PIECE + 70)
    for place in (0, PIECE - 1, PIECE, 2 * PIECE - 1, 2 * PIECE, 2 * PIECE + 69):
        assert found[place].item() == reference_rules.sign(RULE.seed, 3, "alice", place)


def test_directions_are_balanced_and_have_nothing_in_common() -> None:
    """Sums of n signs have standard deviation sqrt(n) = 512; 5 of them are 2,560."""
    numel = 1 << 18
    known = [direction(RULE, step, peer, numel) for step in range(3) for peer in PEERS]
    for place, one in enumerate(known):
        assert abs(float(one.sum())) < 2560
        assert abs(float((one[1:] * one[:-1]).sum())) < 2560
        assert all(abs(float((one * other).sum())) < 2560 for other in known[:place])


def test_measuring_leaves_the_parameters_and_sees_the_slope() -> None:
    start = integers_to_floats(200, 1)
    slope = integers_to_floats(200, 2)
    kept = start.clone()
    code = RULE.measure(lambda at: float((at.double() * slope.double()).sum()), start, 5, "alice")
    assert torch.equal(start, kept)
    along = float((slope * direction(RULE, 5, "alice", 200)).sum())
    assert abs(log(gradient_of(code) / along)) <= 1 / 16 + 1e-2
    with pytest.raises(NonFinite):
        RULE.measure(lambda _: nan, start, 5, "alice")
    assert RULE.measure(lambda _: 2.0, start, 5, "alice") == ZERO


def test_scalars_alone_find_a_minimum() -> None:
    """|p - goal|^2 in 20 dimensions, three peers: the mean of g * z points along the gradient."""
    rule = ScalarRule(0.02, 1e-3, b"another run")
    goal = integers_to_floats(20, 4)
    at, losses = torch.zeros(20), []
    for step in range(150):
        losses.append(float((at.double() - goal.double()).square().sum()))
        codes = [
            (peer, rule.measure(lambda p: float((p.double() - goal).square().sum()), at, step, peer))
            for peer in PEERS
        ]
        rule.step_(at, step, codes)
    assert losses[-1] < 1e-3 * losses[0]


# ---- replicas -------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.lists(USUAL, min_size=1, max_size=6), RECEIVED, st.randoms(use_true_random=False), st.integers(0, 8)
)
def test_replicas_are_equal_to_the_bit_in_any_order_of_arrival(
    start: list[float], received: dict[tuple[int, str], int], random: object, early: int
) -> None:
    """One gets every byte before its step; the other gets them shuffled, many of them late."""
    one, two = (Replica(RULE, tensor(start), 8) for _ in range(2))
    assert all(one.take(step, peer, code) for (step, peer), code in received.items())
    for _ in range(8):
        one.advance()
    arriving = list(received.items())
    random.shuffle(arriving)  # type: ignore[attr-defined]
    for place, ((step, peer), code) in enumerate(arriving):
        if place == early:
            for _ in range(8):
                two.advance()
        assert two.take(step, peer, code)
    while two.step < 8:
        two.advance()
    expected = reference_rules.scalar_steps(start, RULE.lr, RULE.seed, received)
    assert one.parameters.tolist() == expected
    assert one.digest == two.digest == tensor_digest(tensor(expected))


def test_a_long_run_with_late_bytes_is_the_run_without() -> None:
    """Sixty steps, backups every eight; each byte comes up to eight steps late, by a fixed pattern."""
    sent = {
        (step, peer): (7 * step + 31 * place) % 127 + 1
        for step in range(60)
        for place, peer in enumerate(PEERS)
    }
    on_time, late = (Replica(RULE, integers_to_floats(1000, 2), 8) for _ in range(2))
    waiting: dict[int, list[tuple[int, str]]] = {}
    for step in range(60):
        for place, peer in enumerate(PEERS):
            assert on_time.take(step, peer, sent[step, peer])
            waiting.setdefault(min(59, step + (5 * step + place) % 8), []).append((step, peer))
        on_time.advance()
        late.advance()
        assert all(late.take(*key, sent[key]) for key in waiting.pop(step, []))
    assert on_time.step == late.step == 60
    assert on_time.digest == late.digest
    assert on_time.digest != Replica(RULE, integers_to_floats(1000, 2)).digest


def test_order_is_what_makes_them_equal() -> None:
    """The same two updates in the other order give other bits: sorting is not for looks."""
    found = []
    for peers in (("alice", "bob"), ("bob", "alice")):
        at = integers_to_floats(2000, 3)
        RULE.step_(at, 0, [(peer, 90 if peer == "alice" else 10) for peer in peers])
        found.append(tensor_digest(at))
    assert found[0] != found[1]


def test_what_comes_too_late_too_early_or_twice_is_not_taken() -> None:
    replica = Replica(RULE, torch.zeros(3), 4)
    assert replica.take(0, "alice", 70)
    assert not replica.take(0, "alice", 71)
    assert replica.take(4, "alice", 70)
    assert not replica.take(5, "alice", 70)
    assert not replica.take(-1, "alice", 70)
    for _ in range(9):
        replica.advance()
    assert not replica.take(3, "bob", 70), "the backup has gone past it"
    assert replica.take(4, "bob", 70)
    with pytest.raises(RemoteProtocolError):
        replica.take(9, "bob", 0x80)


def test_one_step_keeps_a_bounded_number_of_bytes() -> None:
    replica = Replica(RULE, torch.zeros(1))
    assert all(replica.take(0, str(peer), 64) for peer in range(PEERS_MAX))
    assert not replica.take(0, "one more", 64)


@pytest.mark.parametrize("knobs", [(0.0, 1.0), (1.0, 0.0), (nan, 1.0), (1.0, inf)])
def test_a_rule_that_cannot_train_is_refused(knobs: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="scalar"):
        ScalarRule(*knobs, b"")
