"""Top-k, cosine and projection: their bytes, what they keep, and what their decoders refuse."""

from __future__ import annotations

import struct

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from optim_vectors import USUAL, integers_to_floats, tensor, usual_vectors, vectors
from torch import Tensor

from atoll.optim import reference_sparse as reference
from atoll.optim.codecs import CODECS, HEADER_BYTES, Codec
from atoll.optim.codecs.cosines import basis
from atoll.optim.codecs.dct import Dct
from atoll.optim.codecs.projection import Projection
from atoll.optim.codecs.topk import TopK
from atoll.optim.flat import VALUE_MAX
from atoll.protocol.errors import ConfigError, RemoteProtocolError

SPARSE: list[type[TopK] | type[Dct] | type[Projection]] = [TopK, Dct, Projection]
KS = st.sampled_from([1, 2, 5, 64, 127])
LONG = 2 * 4096 + 3 * 64 + 17
"""Two whole chunks and a short one, of three whole rows and a bit."""


def body_of(payload: bytes, offset: int, patch: bytes) -> bytes:
    at = HEADER_BYTES + offset
    return payload[:at] + patch + payload[at + len(patch) :]


# ---- bytes ----------------------------------------------------------------------------------------


def test_compression_of_whole_chunks() -> None:
    numel = 1 << 20
    ratios = {name: 4 * numel / CODECS[name].payload_bytes(numel) for name in ("topk", "dct", "projection")}
    assert ratios == pytest.approx({"topk": 16384 / 120, "dct": 16384 / 112, "projection": 128}, rel=1e-3)
    assert all(CODECS[name].feedback for name in ratios)
    assert not any(CODECS[name].feedback for name in ("fp32", "int8"))


@pytest.mark.parametrize("kind", SPARSE)
@given(st.sampled_from([1, 2, 4, 64, 2048, 4096]), st.integers(0, LONG))
def test_the_size_is_what_is_written(kind: type[TopK], k: int, numel: int) -> None:
    each = kind(k=k)
    assert len(each.encode(integers_to_floats(numel, numel))) == each.payload_bytes(numel)


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("k", [0, -1, 4097])
def test_k_is_at_least_one_and_at_most_a_chunk(kind: type[TopK], k: int) -> None:
    with pytest.raises(ConfigError, match=f"k is {k}"):
        kind(k=k)


def test_directions_share_a_block_evenly() -> None:
    with pytest.raises(ConfigError, match="power of two"):
        Projection(k=48)


@given(st.lists(st.integers(0, 4095), unique=True).map(sorted))
def test_places_are_packed_two_in_three_bytes(places: list[int]) -> None:
    raw = reference.packed(places, 12)
    for first in range(0, len(places) - 1, 2):
        one, two = places[first : first + 2]
        at = 3 * first // 2
        assert list(raw[at : at + 3]) == [one & 255, one >> 8 | (two & 15) << 4, two >> 4]
    assert reference.unpacked(raw, 12, len(places)) == places


# ---- topk -----------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(vectors(), KS)
@example(integers_to_floats(LONG, 1), 64)
@example(torch.ones(LONG), 64)
@example(torch.arange(LONG, dtype=torch.float32), 3)
@example(-torch.arange(LONG, dtype=torch.float32), 4096)
@example(tensor([1.0, -1.0]), 2)
@example(tensor([VALUE_MAX, -VALUE_MAX, 1e-45, -1e-38]), 64)
@example(integers_to_floats(4096, 2, exponent=-160), 64)
def test_topk_agrees_with_the_reference_to_the_bit(x: Tensor, k: int) -> None:
    each = TopK(k=k)
    payload = each.encode(x)
    assert payload == reference.topk_payload(x.tolist(), k)
    decoded = each.decode(payload, x.numel())
    assert decoded.tolist() == reference.topk_decoded(payload, x.numel(), k)


@settings(max_examples=50)
@given(usual_vectors(), KS)
def test_topk_never_grows_the_error(x: Tensor, k: int) -> None:
    """A bin's mean is the nearest constant to its members, so what is left has less energy."""
    each = TopK(k=k)
    left = x.double() - each.decode(each.encode(x), x.numel()).double()
    energy = x.double().square().sum().item()
    assert left.square().sum().item() <= energy * (1 + 2**-7)
    if energy and x.numel() <= k:
        assert left.square().sum().item() < energy


def test_ties_go_to_the_lowest_places() -> None:
    x = torch.full((4096,), -2.0)
    x[7] = 3.0
    payload = TopK(k=4).encode(x)
    assert reference.unpacked(payload[HEADER_BYTES + 8 : HEADER_BYTES + 14], 12, 4) == [0, 1, 2, 7]


def test_two_opposite_values_do_not_share_a_bin() -> None:
    x = tensor([2.0, -2.0])
    assert torch.equal(TopK().decode(TopK().encode(x), 2), x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.0, 1e-40, 2e19, -3e38])
def test_bad_bin_means_are_refused(bad: float) -> None:
    payload = TopK().encode(integers_to_floats(5000, 3))
    with pytest.raises(RemoteProtocolError, match="value that is not finite"):
        TopK().decode(body_of(payload, 2, struct.pack("<f", bad)[2:]), 5000)


@pytest.mark.parametrize("places", [[1, 1, 2], [3, 2, 5], [0, 1, 100]])
def test_places_in_disorder_or_outside_are_refused(places: list[int]) -> None:
    payload = TopK(k=3).encode(torch.ones(100))
    with pytest.raises(RemoteProtocolError, match="places"):
        TopK(k=3).decode(body_of(payload, 8, reference.packed(places, 12)), 100)


@pytest.mark.parametrize("offset", [8 + 4, 8 + 5])
def test_padding_bits_are_refused(offset: int) -> None:
    payload = TopK(k=3).encode(torch.ones(100))
    last = payload[HEADER_BYTES + offset]
    with pytest.raises(RemoteProtocolError, match="padding"):
        TopK(k=3).decode(body_of(payload, offset, bytes([last | 0x80])), 100)


# ---- dct ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 63, 64])
def test_the_basis_is_the_cosine_and_orthonormal(size: int) -> None:
    ours, exact = basis(size).astype(np.float64), np.array(reference.cosine_basis(size))
    assert np.abs(ours - exact).max() <= 2**-25
    assert np.abs(ours @ ours.T - np.eye(size)).max() < 1e-6
    assert min(abs(x) for x in ours.flat if x) >= 2**-8  # what the smallest coefficient relies on


@settings(max_examples=12)
@given(st.lists(USUAL, max_size=190).map(tensor), KS)
@example(tensor([VALUE_MAX] * 70), 64)
@example(integers_to_floats(130, 2, exponent=-90), 64)
def test_dct_agrees_with_the_reference_to_the_bit(x: Tensor, k: int) -> None:
    each = Dct(k=k)
    payload = each.encode(x)
    assert payload == reference.dct_payload(x.tolist(), k)
    assert each.decode(payload, x.numel()).tolist() == reference.dct_decoded(payload, x.numel(), k)


def test_a_whole_block_agrees_with_the_reference_to_the_bit() -> None:
    x = integers_to_floats(4096, 4)
    payload = Dct().encode(x)
    assert payload == reference.dct_payload(x.tolist(), 32)
    assert Dct().decode(payload, x.numel()).tolist() == reference.dct_decoded(payload, x.numel(), 32)


@pytest.mark.parametrize("numel", [1, 63, 64, 65, 4095, LONG])
def test_all_coefficients_are_the_vector(numel: int) -> None:
    """The inverse of the transform, but for bf16: 2^-9 of the largest coefficient at most."""
    x = integers_to_floats(numel, 5)
    error = Dct(k=4096).decode(Dct(k=4096).encode(x), numel) - x
    assert error.norm() <= 2**-9 * x.norm()


def test_one_wave_is_one_coefficient() -> None:
    row = torch.from_numpy(basis(64)[3].copy())
    x = torch.outer(row, row).flatten() * 1024
    decoded = Dct(k=1).decode(Dct(k=1).encode(x), 4096)
    assert (decoded - x).abs().max() < 1e-3
    assert reference.unpacked(Dct(k=1).encode(x)[-2:], 12, 1) == [3 * 64 + 3]


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), -0.0, 2.0**-61, 2e21])
def test_bad_coefficients_are_refused(bad: float) -> None:
    payload = Dct().encode(integers_to_floats(5000, 3))
    with pytest.raises(RemoteProtocolError, match="value that is not finite"):
        Dct().decode(body_of(payload, 4, struct.pack("<f", bad)[2:]), 5000)


@pytest.mark.parametrize("places", [[1, 1, 2], [3, 2, 5], [0, 1, 70]])
def test_coefficients_in_disorder_or_outside_are_refused(places: list[int]) -> None:
    payload = Dct(k=3).encode(torch.ones(70))  # a row of 64 and a row of 6
    with pytest.raises(RemoteProtocolError, match="places"):
        Dct(k=3).decode(body_of(payload, 6, reference.packed(places, 12)), 70)


def test_the_largest_coefficients_decode_within_bounds() -> None:
    most = struct.pack("<f", 64 * VALUE_MAX)[2:]
    payload = Dct().encode(torch.zeros(4096))
    body = most * 32 + reference.packed(range(32), 12)
    decoded = Dct().decode(payload[:HEADER_BYTES] + body, 4096)
    assert decoded.abs().max() == VALUE_MAX


# ---- projection -----------------------------------------------------------------------------------


@settings(max_examples=40)
@given(usual_vectors(), st.sampled_from([1, 2, 32, 4096]))
@example(integers_to_floats(16 * 4096 + LONG, 6), 32)
def test_projection_agrees_with_the_reference(x: Tensor, k: int) -> None:
    each = Projection(k=k)
    payload = each.encode(x)
    decoded = each.decode(payload, x.numel())
    assert decoded.tolist() == reference.projection_decoded(payload, x.numel(), k)
    sent = [value for (value,) in struct.iter_unpack("<f", payload[HEADER_BYTES + 8 :])]
    exact = reference.projected(x.tolist(), int.from_bytes(payload[16:24], "little"), k)
    largest = x.abs().max().item() if x.numel() else 0.0
    assert sent == pytest.approx(exact, rel=0, abs=1e-5 * largest)


def test_the_signs_are_philox_as_published() -> None:
    """numpy's stream, which begins at counter one, is ten rounds written out; half of it are minus."""
    assert np.random.Philox(key=99).random_raw(9).tolist() == reference.philox(99, 9)
    signs = reference.projection_signs(99, 4096)
    assert abs(sum(signs)) < 4 * 64


def test_what_is_left_is_orthogonal_to_the_directions() -> None:
    """It is a projection: what is left has no part along the directions, but for rounding."""
    each, x = Projection(), integers_to_floats(LONG, 7)
    payload = each.encode(x)
    left = x - each.decode(payload, LONG)
    signs = np.array(reference.projection_signs(int.from_bytes(payload[16:24], "little"), LONG))
    along = np.bincount(reference.directions(LONG, 32), weights=left.numpy().astype(np.float64) * signs)
    assert np.abs(along).max() < 1e-4 * float(x.abs().sum()) / len(along)


def test_over_seeds_the_unbiased_projection_is_the_vector() -> None:
    """E[decoded] = x with variance 127 |x|^2 in all, by every seed; the biased one is 1/128 of it."""
    numel, seeds, k = 4096, 800, 32
    x = torch.cat([integers_to_floats(numel, 8), torch.zeros(1)])
    total, energy = torch.zeros(numel), 0.0
    for seed in range(seeds):
        x[-1] = float(seed)  # in a block of its own: another seed for the same values
        decoded = Projection(k=k, unbiased=True).decode(Projection(k=k, unbiased=True).encode(x), numel + 1)
        total += decoded[:numel]
        energy += float((decoded - x)[:numel].square().sum())
    norm = float(x[:numel].square().sum())
    assert energy / seeds / norm == pytest.approx(numel / k - 1, rel=0.1)
    assert float((total / seeds - x[:numel]).square().sum()) / norm == pytest.approx(127 / seeds, rel=0.25)
    biased = Projection(k=k).decode(Projection(k=k).encode(x), numel + 1)
    assert float((biased - x)[:numel].square().sum()) / norm == pytest.approx(1 - k / numel, rel=0.05)


def test_two_vectors_do_not_share_their_signs() -> None:
    x = integers_to_floats(5000, 9)
    seeds = {Projection().encode(each)[16:24] for each in (x, -x, x + 1, x * 0.5)}
    assert len(seeds) == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -2e19])
def test_bad_projections_are_refused(bad: float) -> None:
    payload = Projection().encode(integers_to_floats(5000, 3))
    with pytest.raises(RemoteProtocolError, match="NaN"):
        Projection().decode(body_of(payload, 8 + 4 * 40, struct.pack("<f", bad)), 5000)


# ---- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPARSE)
@settings(max_examples=60)
@given(st.data())
def test_near_payloads_decode_within_bounds_or_are_refused(kind: type[TopK], data: st.DataObject) -> None:
    """Right length and header, and bodies that are nearly in order, so that every check is reached."""
    each: Codec = kind(k=data.draw(st.sampled_from([1, 2, 8])))
    numel = data.draw(st.sampled_from([1, 7, 70, 4100]))
    payload = bytearray(each.encode(integers_to_floats(numel, 10)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(HEADER_BYTES, len(payload) - 1))
        payload[place] ^= 1 << data.draw(st.integers(0, 7))
    guard = torch.full((numel + 64,), 5.0)
    try:
        decoded = each.decode(bytes(payload), numel, guard[32:-32])
        assert decoded.abs().max() <= VALUE_MAX
    except RemoteProtocolError:
        pass
    assert torch.equal(guard[:32], torch.full((32,), 5.0))
    assert torch.equal(guard[-32:], torch.full((32,), 5.0))
