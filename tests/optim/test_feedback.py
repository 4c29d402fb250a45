from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from optim_vectors import USUAL, integers_to_floats, usual_vectors
from torch import Tensor

from atoll.optim import reference
from atoll.optim.codecs import codec
from atoll.optim.feedback import Residual

INT8 = codec("int8")
OUTCOMES = st.sampled_from(["accepted", "carried", "dropped"])


@given(st.lists(st.tuples(USUAL, OUTCOMES, USUAL), max_size=8))
def test_it_follows_the_reference_to_the_bit(history: list[tuple[float, str, float]]) -> None:
    ours, theirs = Residual(1), 0.0
    for delta, outcome, decoded in history:
        before = ours.buffer.clone()
        ours.offer(torch.tensor([delta]))
        assert ours.pending
        assert torch.equal(ours.buffer, before)
        if outcome == "accepted":
            ours.accepted(torch.tensor([decoded]))
        else:
            getattr(ours, outcome)()
        theirs = reference.residual_after(theirs, delta, outcome, decoded)
        assert not ours.pending
        assert ours.buffer.item() == theirs


@given(usual_vectors(), usual_vectors())
def test_decoded_plus_residual_is_what_was_offered(delta: Tensor, decoded_from: Tensor) -> None:
    residual = Residual(delta.numel())
    for _ in range(3):
        offered = residual.offer(delta).clone()
        decoded = INT8.decode(INT8.encode(offered), delta.numel())
        residual.accepted(decoded)
        together = decoded.double() + residual.buffer.double()
        place = np.spacing(np.maximum(offered.abs().numpy(), decoded.abs().numpy()))
        assert np.all(np.abs((together - offered.double()).numpy()) <= place)


def test_over_rounds_nothing_is_lost() -> None:
    """What was sent in 50 rounds is what was found, but for one residual; without feedback it is not."""
    numel, rounds = 512, 50
    residual, found, sent, plain = Residual(numel), torch.zeros(numel), torch.zeros(numel), torch.zeros(numel)
    steady = integers_to_floats(numel, 9) * 0.01
    steady[::256] = 1.0  # an outlier in each block: most of a small value is below half a step
    for _ in range(rounds):
        decoded = INT8.decode(INT8.encode(residual.offer(steady)), numel)
        residual.accepted(decoded)
        found, sent, plain = found + steady, sent + decoded, plain + INT8.decode(INT8.encode(steady), numel)
    step = 1.1 / 127
    assert (found - sent).abs().max() <= step
    assert (found - plain).abs().max() > 10 * step


def test_a_carried_offer_comes_again_in_full() -> None:
    residual = Residual(2)
    residual.offer(torch.tensor([1.0, 2.0]))
    residual.carried()
    assert residual.offer(torch.tensor([10.0, 20.0])).tolist() == [11.0, 22.0]
    residual.carried()
    assert residual.offer(torch.zeros(2)).tolist() == [11.0, 22.0]
    residual.dropped()
    assert residual.buffer.tolist() == [11.0, 22.0]


def test_a_saved_residual_goes_on() -> None:
    one, other = Residual(2), Residual(2)
    one.offer(torch.tensor([1.0, 2.0]))
    one.carried()
    saved = one.buffer.clone()
    other.load(saved)
    saved.zero_()
    assert other.offer(torch.zeros(2)).tolist() == [1.0, 2.0]


def test_misuse_trips() -> None:
    residual = Residual(2)
    for outcome in (residual.carried, residual.dropped, lambda: residual.accepted(torch.zeros(2))):
        with pytest.raises(AssertionError, match="without an offer"):
            outcome()
    residual.offer(torch.zeros(2))
    with pytest.raises(AssertionError, match="second offer"):
        residual.offer(torch.zeros(2))
    with pytest.raises(AssertionError, match="load between"):
        residual.load(torch.zeros(2))
    with pytest.raises(ValueError, match="decoded must have 2"):
        residual.accepted(torch.zeros(3))
    residual.dropped()
    with pytest.raises(AssertionError, match="without an offer"):
        residual.dropped()
    with pytest.raises(ValueError, match="delta must"):
        residual.offer(torch.zeros(3))
    assert not residual.pending
