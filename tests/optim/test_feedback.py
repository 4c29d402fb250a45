from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from optim_vectors import USUAL, integers_to_floats, usual_vectors
from torch import Tensor

from atoll.optim import reference
from atoll.optim.codecs import CODECS, Codec, Payload, codec
from atoll.optim.codecs.projection import Projection
from atoll.optim.feedback import Feedback, Residual
from atoll.optim.flat import PIECE, NonFinite
from atoll.optim.parts import part_bounds
from atoll.protocol.errors import ConfigError

INT8 = codec("int8")
EVERY = pytest.mark.parametrize("each", CODECS.values(), ids=list(CODECS))
OUTCOMES = st.sampled_from(["accepted", "carried", "dropped"])


@given(st.lists(st.tuples(USUAL, OUTCOMES, USUAL), max_size=8), st.sampled_from([1.0, 0.95, 0.3, 0.0]))
def test_it_follows_the_reference_to_the_bit(history: list[tuple[float, str, float]], decay: float) -> None:
    ours, theirs = Residual(1, decay), 0.0
    for delta, outcome, decoded in history:
        before = ours.buffer.clone()
        ours.offer(torch.tensor([delta]))
        assert ours.pending
        assert torch.equal(ours.buffer, before)
        if outcome == "accepted":
            ours.accepted(torch.tensor([decoded]))
        else:
            getattr(ours, outcome)()
        theirs = reference.residual_after(theirs, delta, outcome, decoded, decay)
        assert not ours.pending
        assert ours.buffer.item() == theirs


@EVERY
@settings(max_examples=25)
@given(usual_vectors(), st.sampled_from([1.0, 0.95]))
def test_decoded_plus_residual_is_what_was_offered(each: Codec, delta: Tensor, decay: float) -> None:
    residual = Residual(delta.numel(), decay)
    for _ in range(3):
        offered = residual.offer(delta).clone()
        decoded = each.decode(each.encode(offered), delta.numel())
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


@pytest.mark.parametrize("decay", [1.0, 0.95, 0.0])
@pytest.mark.parametrize("outcomes", ["acad", "ccsa", "dsca"])
def test_an_offer_may_take_the_place_of_its_delta(decay: float, outcomes: str) -> None:
    numel = PIECE + 100
    own, lent = Residual(numel, decay), Residual(numel, decay)
    for round_, outcome in enumerate(outcomes):
        delta = integers_to_floats(numel, round_)
        given = delta.clone()
        offered = lent.offer(given, given)
        assert offered is given
        assert torch.equal(own.offer(delta), offered)
        for each in (own, lent):
            if outcome == "a":
                each.accepted(delta.round())
            elif outcome == "d":
                each.dropped()
            else:
                each.carried(0.5 if outcome == "s" else 1.0)
        given.fill_(float("nan"))
        assert torch.equal(own.buffer, lent.buffer)


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


# ---- decay ----------------------------------------------------------------------------------------


def test_a_decay_fades_what_waits_and_never_the_new_delta() -> None:
    residual = Residual(1, decay=0.5)
    residual.offer(torch.tensor([8.0]))
    residual.carried()
    assert residual.buffer.tolist() == [8.0]  # a missed round: nothing was sent, nothing of it has faded
    assert residual.offer(torch.tensor([1.0])).tolist() == [5.0]
    residual.carried()
    assert residual.offer(torch.tensor([1.0])).tolist() == [3.5]
    residual.accepted(torch.tensor([3.0]))
    assert residual.buffer.tolist() == [0.5]


def test_a_dropped_offer_takes_its_decay_back() -> None:
    residual = Residual(1, decay=0.5)
    residual.load(torch.tensor([8.0]))
    for _ in range(3):
        assert residual.offer(torch.tensor([1.0])).tolist() == [5.0]
        residual.dropped()
        assert residual.buffer.tolist() == [8.0]


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_decay_lies_between_zero_and_one(decay: float) -> None:
    with pytest.raises(ConfigError, match="decay is"):
        Residual(1, decay)


# ---- a codec and its residual ---------------------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """A codec that counts how often it decodes."""

    inner: Codec
    decoded: list[int] = field(default_factory=list)
    name: str = "counted"
    feedback: bool = True

    @property
    def block(self) -> int:
        return self.inner.block

    def payload_bytes(self, numel: int) -> int:
        return self.inner.payload_bytes(numel)

    def encode(self, x: Tensor) -> bytes:
        return self.inner.encode(x)

    def encode_into(self, x: Tensor, out: bytearray | memoryview) -> None:
        self.inner.encode_into(x, out)

    def decode(self, payload: Payload, numel: int, out: Tensor | None = None) -> Tensor:
        self.decoded.append(numel)
        return self.inner.decode(payload, numel, out)

    def pieces(self, payload: Payload, numel: int) -> Iterator[tuple[slice, Tensor]]:
        self.decoded.append(numel)
        return self.inner.pieces(payload, numel)


@EVERY
@pytest.mark.parametrize("outcomes", ["aaa", "aca", "adca", "ccda"])
def test_feedback_is_a_codec_and_a_residual(each: Codec, outcomes: str) -> None:
    numel = 5000
    feedback, residual = Feedback(each, Residual(numel, 0.9)), Residual(numel, 0.9)
    for round_, outcome in enumerate(outcomes):
        delta = integers_to_floats(numel, round_)
        payload = feedback.encode(delta)
        assert payload == each.encode(residual.offer(delta))
        decoded = each.decode(payload, numel)
        assert torch.equal(feedback.decoded(), decoded)
        if outcome == "a":
            feedback.accepted()
            residual.accepted(decoded)
        elif outcome == "c":
            feedback.carried()
            residual.carried()
        else:
            feedback.dropped()
            residual.dropped()
        assert torch.equal(feedback.residual.buffer, residual.buffer)


def test_a_payload_is_decoded_once_and_only_if_asked_for() -> None:
    counted = Counted(codec("topk"))
    feedback = Feedback(counted, Residual(5000))
    feedback.encode(integers_to_floats(5000, 1))
    feedback.carried()
    assert counted.decoded == []
    feedback.encode(integers_to_floats(5000, 2))
    first = feedback.decoded().clone()
    feedback.accepted()
    assert torch.equal(feedback.decoded(), first)
    assert counted.decoded == [5000]


@pytest.mark.parametrize("name", [name for name in CODECS if name != "projection"])
def test_parts_leave_the_residual_of_the_whole(name: str) -> None:
    """But for the projection, whose signs come from the part."""
    each = codec(name)
    numel = 3 * each.block + 100
    whole, cut = Feedback(each, Residual(numel)), Feedback(each, Residual(numel))
    bounds = part_bounds(numel, 3, each.block)
    for round_ in range(2):
        delta = integers_to_floats(numel, round_)
        whole.encode(delta)
        payloads = cut.encode_parts(delta, bounds)
        sizes = [each.payload_bytes(stop - start) for start, stop in bounds]
        assert [len(payload) for payload in payloads] == sizes
        whole.accepted()
        cut.accepted()
        assert torch.equal(whole.residual.buffer, cut.residual.buffer)


def test_what_is_not_finite_is_not_offered() -> None:
    feedback = Feedback(INT8, Residual(2))
    with pytest.raises(AssertionError, match="nothing was encoded"):
        feedback.decoded()
    with pytest.raises(NonFinite):
        feedback.encode(torch.tensor([1.0, float("nan")]))
    assert not feedback.residual.pending
    feedback.encode(torch.ones(2))
    feedback.accepted()
    assert feedback.decoded().tolist() == [1.0, 1.0]


@EVERY
def test_over_rounds_every_codec_tracks_the_sum(each: Codec) -> None:
    """Of a steady delta all but a bounded residue arrives, however little a round sends. A chunk takes at
    most 128 rounds to be sent in full; along random directions the residue is sqrt(2) times as much."""
    numel, rounds, slowest = 4096 + 130, 512, 128
    feedback, sent = Feedback(each, Residual(numel)), torch.zeros(numel, dtype=torch.float64)
    delta = integers_to_floats(numel, 9) * 0.01
    for _ in range(rounds):
        feedback.encode(delta)
        feedback.accepted()
        sent += feedback.decoded()
    found = rounds * delta.double()
    lost = found - sent - feedback.residual.buffer.double()
    assert lost.norm() <= 1e-5 * found.norm()  # rounding
    assert (found - sent).norm() <= 1.5 * slowest * delta.double().norm()
    if each.feedback:  # without it a round sends the same part again
        alone = rounds * each.decode(each.encode(delta), numel).double()
        assert (found - alone).norm() > 1.5 * (found - sent).norm()


def test_an_unbiased_projection_with_feedback_diverges() -> None:
    """Why the codec sends the projection itself unless told that nothing is fed back."""
    norms = {}
    for unbiased in (False, True):
        feedback = Feedback(Projection(unbiased=unbiased), Residual(4096))
        for _ in range(5):
            feedback.encode(integers_to_floats(4096, 1))
            feedback.accepted()
        norms[unbiased] = float(feedback.residual.buffer.norm())
        assert feedback.codec.feedback is not unbiased
    assert norms[True] > 1e4 * norms[False]


def test_what_a_missed_round_left_arrives_later() -> None:
    """Every third contribution is not accepted: what was decoded and accepted still tracks the sum."""
    numel, rounds = 4096, 384
    topk = codec("topk")
    feedback, found, sent = Feedback(topk, Residual(numel)), torch.zeros(numel), torch.zeros(numel)
    for round_ in range(rounds):
        delta = integers_to_floats(numel, round_ % 7)
        found += delta
        feedback.encode(delta)
        if round_ % 3:
            feedback.accepted()
            sent += feedback.decoded()
        else:
            feedback.carried()
    left = found - sent
    assert torch.allclose(left, feedback.residual.buffer, atol=1e-3)
    assert left.norm() < 0.5 * found.norm()
