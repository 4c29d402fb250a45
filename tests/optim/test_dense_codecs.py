from __future__ import annotations

import struct
from math import isqrt

import hypothesis.strategies as st
import numba
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from optim_vectors import integers_to_floats, tensor, usual_vectors, vectors
from torch import Tensor

from atoll.optim import kernels, reference_codecs
from atoll.optim.codecs import CODECS, HEADER_BYTES, codec
from atoll.optim.codecs.blockwise import PIECE
from atoll.optim.feedback import Residual
from atoll.optim.flat import VALUE_MAX
from atoll.optim.packing import pack, packed_bytes, unpack
from atoll.protocol.errors import RemoteProtocolError

DENSE = ("fp16", "bf16", "int8", "int8-mean", "int4", "e3m0", "2bit", "1bit")
FOUND_BY_ORACLE = ("fp16", "bf16", *reference_codecs.BLOCKWISE)
BINNED = ("int8-mean", "2bit")
each_of = pytest.mark.parametrize


def decoded(name: str, x: Tensor) -> Tensor:
    return codec(name).decode(codec(name).encode(x), x.numel())


def bits(x: Tensor) -> list[int]:
    return x.view(torch.int32).tolist()


def raw(seed: int) -> Tensor:
    """Numbers of every exponent, subnormal ones among them."""
    words = (integers_to_floats(3_000, seed, 0).double() * 2**40).long() + 977 * torch.arange(3_000)
    x = words.to(torch.int32).view(torch.float32)
    return torch.where(x.abs() <= VALUE_MAX, x, torch.zeros(()))


@each_of("name", FOUND_BY_ORACLE)
@settings(max_examples=40)
@given(vectors())
@example(tensor([VALUE_MAX, -VALUE_MAX, 0.0, -0.0, 1.0]))
@example(tensor([1e-45, -1e-40]))
@example(tensor([65504.0, 65519.996, 65520.0, -1e6, 6.1e-5, 2.0**-25, 2.0**-24 * 1.5]))
@example(torch.zeros(1025))
@example(torch.full((1025,), 3e-3))
@example(integers_to_floats(2_049, 5))
@example(raw(3))
@example(raw(4) * 2.0**-100)
def test_payload_and_values_are_the_oracles_to_the_bit(name: str, x: Tensor) -> None:
    payload, values = reference_codecs.encoded(name, x.tolist())
    assert codec(name).encode(x) == payload
    assert bits(codec(name).decode(payload, x.numel())) == bits(tensor(values))


@each_of("name", ["int8-mean", "int4"])
def test_the_oracle_agrees_over_many_blocks(name: str) -> None:
    x = integers_to_floats(2 * 32_768 + 321, 9)
    payload, values = reference_codecs.encoded(name, x.tolist())
    assert codec(name).encode(x) == payload
    assert bits(codec(name).decode(payload, x.numel())) == bits(tensor(values))


@each_of("name", DENSE)
@each_of("numel", [1, 127, 128, 1_000_001])
def test_payload_bytes_follow_from_the_number_of_elements(name: str, numel: int) -> None:
    per_block = {"fp16": (1, 0), "bf16": (1, 0), "int8": (256, 4), "int8-mean": (32_768, 1024)}
    per_block |= {"int4": (128, 4), "e3m0": (256, 4), "2bit": (1024, 16), "1bit": (1024, 4)}
    code_bits = {"fp16": 16, "bf16": 16, "int4": 4, "e3m0": 4, "2bit": 2, "1bit": 1}.get(name, 8)
    block, table = per_block[name]
    blocks = len(range(0, numel, block))
    assert codec(name).block == block
    assert codec(name).payload_bytes(numel) == 16 + blocks * table + (numel * code_bits + 7) // 8


@each_of("name", CODECS)
def test_parts_cut_at_blocks_decode_like_the_whole(name: str) -> None:
    each = codec(name)
    x = integers_to_floats(PIECE + 3 * each.block + 1_000, 4)
    cut = 2 * each.block
    parts = [decoded(name, part.contiguous()) for part in (x[:cut], x[cut:])]
    assert torch.equal(torch.cat(parts), decoded(name, x))


@each_of("name", CODECS)
@each_of("offset", [1, 2, 3])
def test_payloads_may_lie_anywhere_in_memory(name: str, offset: int) -> None:
    each, x = codec(name), integers_to_floats(5_001, 4)
    payload = each.encode(x)
    buffer = bytearray(len(payload) + offset)
    each.encode_into(x, memoryview(buffer)[offset:])
    assert buffer[offset:] == payload
    for view in (memoryview(buffer)[offset:], memoryview(bytes(buffer))[offset:]):
        assert torch.equal(each.decode(view, x.numel()), each.decode(payload, x.numel()))


@each_of("name", CODECS)
def test_no_elements_make_a_bare_header(name: str) -> None:
    assert codec(name).payload_bytes(0) == len(codec(name).encode(torch.zeros(0))) == HEADER_BYTES
    assert decoded(name, torch.zeros(0)).shape == (0,)


def test_below_four_bits_feedback_is_demanded() -> None:
    assert {name for name in ("fp32", *DENSE) if codec(name).feedback} == {"2bit", "1bit"}


@given(vectors())
def test_e3m0_of_decoded_values_is_the_same_payload(x: Tensor) -> None:
    once = codec("e3m0").encode(x)
    assert codec("e3m0").encode(codec("e3m0").decode(once, x.numel())) == once


@each_of("name", ["fp16", "bf16"])
@given(vectors())
def test_a_decoded_number_of_sixteen_bits_stays(name: str, x: Tensor) -> None:
    once = decoded(name, x)
    assert bits(decoded(name, once)) == bits(once)


@each_of("name", ["fp16", "bf16", "int8", "int4", "e3m0"])
@given(vectors())
def test_signs_are_treated_alike(name: str, x: Tensor) -> None:
    assert torch.equal(decoded(name, -x), -decoded(name, x))


def errors(name: str, x: Tensor) -> np.ndarray:
    return np.abs(x.double().numpy() - decoded(name, x).double().numpy())


def blocks(x: Tensor, size: int) -> tuple[Tensor, ...]:
    return x.split(size) if x.numel() else ()


@given(vectors())
def test_bf16_errs_by_a_256th(x: Tensor) -> None:
    exact = np.abs(x.double().numpy())
    assert (errors("bf16", x) <= np.maximum(exact * 2.0**-8, 2.0**-134)).all()


@given(vectors())
def test_fp16_errs_by_a_2048th_or_clamps(x: Tensor) -> None:
    exact = np.abs(x.double().numpy())
    bound = np.maximum(exact * 2.0**-11, 2.0**-25)
    assert (errors("fp16", x) <= np.where(exact > 65520, exact - 65504, bound)).all()
    assert decoded("fp16", x).abs().max() <= 65504 if x.numel() else True


@given(usual_vectors())
def test_int4_errs_by_a_fourteenth_of_the_largest(x: Tensor) -> None:
    for block in blocks(x, 128):
        assert (errors("int4", block) <= block.abs().max().item() / 14 * (1 + 1e-5)).all()


@given(usual_vectors())
@example(tensor([16.0, 12.0, 11.999, 3.0, 0.375, 0.1875, 0.125, 0.1249, -6.0]))
def test_e3m0_errs_by_a_third_or_an_eighth_of_the_scale(x: Tensor) -> None:
    for block in blocks(x, 256):
        exact, scale = np.abs(block.double().numpy()), block.abs().max().item() / 16
        bound = np.where(exact >= 3 / 16 * scale, exact / 3, scale / 8)
        assert (errors("e3m0", block) <= bound * (1 + 1e-5)).all()
        if block.abs().max() > 0:
            assert decoded("e3m0", block).abs().max() == block.abs().max()


def test_e3m0_picks_the_nearest_value_and_rounds_up_between_two() -> None:
    borders = tensor([0.125, 0.375, 0.75, 1.5, 3.0, 6.0, 12.0, 16.0])
    below = torch.nextafter(borders, torch.zeros(())).clamp(max=15.9)
    below[-1] = 16.0
    assert decoded("e3m0", borders).tolist() == [0.25, 0.5, 1, 2, 4, 8, 16, 16]
    assert decoded("e3m0", -below).tolist() == [0, -0.25, -0.5, -1, -2, -4, -8, -16]


@each_of("name", BINNED)
@given(usual_vectors())
@example(integers_to_floats(40_000, 11))
def test_bin_means_preserve_the_total_of_every_bin(name: str, x: Tensor) -> None:
    for block in blocks(x, codec(name).block):
        exact, received = block.double().numpy(), decoded(name, block).double().numpy()
        for mean in np.unique(received):
            members = exact[received == mean]
            assert abs(members.sum() - mean * members.size) <= members.size * abs(mean) * 2.0**-23


@each_of("name", BINNED)
@each_of("value", [1.0, -3e-7, VALUE_MAX, 0.0])
def test_a_lone_value_and_a_constant_block_come_back(name: str, value: float) -> None:
    for numel in (1, 5):
        x = torch.full((numel,), value)
        assert torch.allclose(decoded(name, x), x, rtol=0, atol=abs(value) * 1e-7)


def test_int8_mean_errs_by_a_bin_within_three_deviations() -> None:
    x = integers_to_floats(32_768, 12)
    deviation = x.double().norm().item() / 32_767**0.5
    assert (errors("int8-mean", x) <= 6 * deviation / 256 * (1 + 1e-6))[
        x.abs().numpy() < 2.9 * deviation
    ].all()


@given(usual_vectors())
def test_1bit_is_the_sign_times_the_mean_magnitude(x: Tensor) -> None:
    for block in blocks(x, 1024):
        mean = block.double().abs().mean().item()
        expected = np.where(block.numpy() < 0, -mean, mean)
        assert np.allclose(decoded("1bit", block).numpy(), expected, rtol=1e-6, atol=1e-37)


@each_of("name", ["2bit", "1bit"])
@given(usual_vectors())
def test_what_needs_feedback_never_lengthens_the_residual(name: str, x: Tensor) -> None:
    assert (errors(name, x) ** 2).sum() <= (x.double() ** 2).sum().item() * (1 + 1e-6)


@each_of("name", ["2bit", "1bit"])
def test_feedback_brings_the_mean_over_rounds_to_the_truth(name: str) -> None:
    x, rounds = integers_to_floats(4_096, 13), 64
    residual, received = Residual(x.numel()), torch.zeros(x.numel())
    for _ in range(rounds):
        sent = decoded(name, residual.offer(x))
        residual.accepted(sent)
        received += sent / rounds
    assert (received - x).norm() < 4 / isqrt(rounds) * (decoded(name, x) - x).norm()


@each_of(
    ("name", "place", "patch", "reason"),
    [
        ("int8", -1, b"\x80", "no encoder writes"),
        ("int4", -1, b"\x08", "no encoder writes"),
        ("int4", -2, b"\x80", "no encoder writes"),
        ("e3m0", -2, b"\x08", "no encoder writes"),
        ("int4", -1, b"\x10", "behind its last code"),
        ("e3m0", -1, b"\xf0", "behind its last code"),
        ("2bit", -1, b"\x04", "behind its last code"),
        ("1bit", -1, b"\x02", "behind its last code"),
        ("fp16", -1, b"\x7c", "no encoder writes"),
        ("fp16", 17, b"\xff", "no encoder writes"),
        ("bf16", -1, b"\x7f", "no encoder writes"),
        ("bf16", 16, b"\x7f\x5f", "no encoder writes"),
    ],
)
def test_codes_that_no_encoder_writes_are_refused(name: str, place: int, patch: bytes, reason: str) -> None:
    numel = 8 * 256 + 1
    payload = bytearray(codec(name).encode(torch.zeros(numel)))
    at = place % len(payload)
    payload[at : at + len(patch)] = patch
    with pytest.raises(RemoteProtocolError, match=reason):
        codec(name).decode(bytes(payload), numel)


NO_NUMBERS = (float("nan"), float("inf"), -float("inf"), 1e-40, -1e-40, 2e19)


@each_of(
    ("name", "bad"),
    [(name, bad) for name in ("int4", "e3m0", "1bit") for bad in (*NO_NUMBERS, -1.0, -0.0)]
    + [(name, bad) for name in BINNED for bad in NO_NUMBERS]
    + [("e3m0", 2.0**-125), ("e3m0", VALUE_MAX / 15), ("int4", VALUE_MAX / 6)],
)
def test_tables_that_no_encoder_writes_are_refused(name: str, bad: float) -> None:
    payload = bytearray(codec(name).encode(torch.ones(300)))
    struct.pack_into("<f", payload, HEADER_BYTES, bad)
    with pytest.raises(RemoteProtocolError, match="scale"):
        codec(name).decode(bytes(payload), 300)


@each_of("code_bits", [1, 2, 4])
@given(st.data())
def test_packed_codes_are_one_long_number(code_bits: int, data: st.DataObject) -> None:
    codes = np.array(data.draw(st.lists(st.integers(0, 2**code_bits - 1), max_size=70)), dtype=np.uint8)
    out = np.full(packed_bytes(codes.size, code_bits), 255, dtype=np.uint8)
    pack(codes, code_bits, out)
    assert out.tobytes() == reference_codecs.packed(codes.tolist(), code_bits)
    back = np.full(codes.size, 255, dtype=np.uint8)
    unpack(out, code_bits, back)
    assert back.tolist() == codes.tolist()


def test_a_kernel_runs_where_compiled_code_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = numba.njit, []

    def without_folders(**options: object) -> object:
        asked.append(options["cache"])
        if options["cache"]:
            raise RuntimeError("cannot cache function 'twice': no locator available for file 'x'")
        return real(**options)

    monkeypatch.setattr(numba, "njit", without_folders)
    assert kernels.kernel(twice)(21) == 42
    assert asked == [True, False]


def twice(number: int) -> int:
    return 2 * number
