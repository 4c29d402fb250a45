from __future__ import annotations

import struct
import tracemalloc

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given
from optim_vectors import integers_to_floats, tensor, vectors
from torch import Tensor

from atoll.optim import reference
from atoll.optim.codecs import CODECS, HEADER_BYTES, Codec, codec
from atoll.optim.codecs.blockwise import SMALL_PIECE
from atoll.optim.flat import PIECE, VALUE_MAX, NonFinite
from atoll.protocol.errors import ConfigError, RemoteProtocolError

EVERY = pytest.mark.parametrize("each", CODECS.values(), ids=list(CODECS))
INT8 = CODECS["int8"]
LONG = PIECE + 3 * 256 + 17
"""More than one piece of work, and a short last block."""


@EVERY
@given(vectors())
def test_payload_bytes_are_exact_and_the_shape_returns(each: Codec, x: Tensor) -> None:
    before = x.clone()
    payload = each.encode(x)
    assert type(payload) is bytes
    assert len(payload) == each.payload_bytes(x.numel())
    decoded = each.decode(payload, x.numel())
    assert (decoded.dtype, decoded.shape) == (torch.float32, x.shape)
    assert torch.equal(x, before)
    out = torch.empty(x.numel())
    assert each.decode(memoryview(payload), x.numel(), out) is out
    assert torch.equal(out, decoded)


@EVERY
@given(vectors())
def test_a_reused_buffer_gets_the_same_payload(each: Codec, x: Tensor) -> None:
    size = each.payload_bytes(x.numel())
    buffer = bytearray(b"\xff" * size)
    each.encode_into(x, buffer)
    assert bytes(buffer) == each.encode(x)
    for other in (bytearray(size + 1), memoryview(bytes(size))):
        with pytest.raises(ValueError, match=f"out must be {size} writable bytes"):
            each.encode_into(x, other)


@EVERY
def test_overhead_is_sixteen_bytes(each: Codec) -> None:
    per_element = {
        "fp32": 4 * 512,
        "fp16": 2 * 512,
        "bf16": 2 * 512,
        "int8": 512 + 2 * 4,
        "int8-mean": 512 + 256 * 4,
        "int4": 512 // 2 + 4 * 4,
        "e3m0": 512 // 2 + 2 * 4,
        "2bit": 512 // 4 + 4 * 4,
        "1bit": 512 // 8 + 4,
        "topk": 4 * 2 + 64 * 12 // 8 + 64 * 2 // 8,
        "dct": 32 * 2 + 32 * 12 // 8,
        "projection": 8 + 32 * 4,
    }
    if each.name in per_element:
        assert each.payload_bytes(512) == HEADER_BYTES + per_element[each.name]
    assert each.payload_bytes(0) == HEADER_BYTES == 16


@given(vectors())
def test_fp32_is_lossless_to_the_bit(x: Tensor) -> None:
    fp32 = codec("fp32")
    decoded = fp32.decode(fp32.encode(x), x.numel())
    assert torch.equal(decoded.view(torch.int32), x.view(torch.int32))


@given(vectors())
@example(tensor([VALUE_MAX, -VALUE_MAX, 0.0, 1.0]))
@example(tensor([1e-45, -1e-40]))
@example(torch.zeros(257))
@example(integers_to_floats(LONG, 5))
def test_int8_errs_by_half_a_step_of_the_block(x: Tensor) -> None:
    decoded = INT8.decode(INT8.encode(x), x.numel())
    for block, received in zip(x.split(256), decoded.split(256), strict=True):
        exact = block.double().numpy()
        step = np.abs(exact).max(initial=0) / 127
        error = np.abs(exact - received.double().numpy()).max(initial=0)
        # Steps below the smallest normal fp32 become zero: the error is the value itself.
        assert error <= step * 0.5 * (1 + 1e-5) or (step < 2**-125 and not received.any())


@given(vectors())
@example(integers_to_floats(LONG, 6))
def test_int8_agrees_with_the_reference(x: Tensor) -> None:
    payload = INT8.encode(x)
    scales, codes = reference.int8_codes(x.tolist(), 256)
    expected = reference.int8_payload(scales, codes, 256)
    body = len(expected) - x.numel()
    assert payload[:body] == expected[:body]
    ours = np.frombuffer(payload[body:], np.int8).astype(int)
    apart = np.nonzero(ours - np.array(codes, dtype=int))[0]
    for place in apart:  # only where the value lies between two codes, to a rounding
        ratio = x[place].item() / scales[place // 256]
        assert abs(abs(ratio - ours[place]) - 0.5) < 1e-4
    assert INT8.decode(payload, x.numel()).tolist() == reference.int8_decoded(payload)


@given(vectors())
def test_int8_of_decoded_values_is_stable(x: Tensor) -> None:
    once = INT8.decode(INT8.encode(x), x.numel())
    again = INT8.decode(INT8.encode(once), x.numel())
    assert torch.allclose(once, again, rtol=1e-6, atol=1e-35)


def test_a_zero_block_has_scale_zero() -> None:
    x = torch.zeros(512)
    x[300] = -127.0
    payload = INT8.encode(x)
    assert struct.unpack_from("<2f", payload, HEADER_BYTES) == (0.0, 1.0)
    assert torch.equal(INT8.decode(payload, 512), x)


@EVERY
@pytest.mark.parametrize("numel", [0, 5, SMALL_PIECE + 785])
def test_its_pieces_are_the_vector(each: Codec, numel: int) -> None:
    payload, at = each.encode(integers_to_floats(numel, 3)), 0
    wanted = each.decode(payload, numel)
    for piece, values in each.pieces(payload, numel):
        assert piece.start == at
        assert values.numel() == piece.stop - piece.start <= SMALL_PIECE
        assert torch.equal(values, wanted[piece])
        values.fill_(7.0)  # the caller's, until it asks for the next
        at = piece.stop
    assert at == numel
    with pytest.raises(RemoteProtocolError):
        list(each.pieces(payload + b"\0", numel))


@EVERY
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), VALUE_MAX * 1.001])
@pytest.mark.parametrize("place", [0, PIECE + 1, LONG - 1])
def test_what_is_not_a_sane_number_is_not_encoded(each: Codec, bad: float, place: int) -> None:
    x = torch.zeros(LONG)
    x[place] = bad
    with pytest.raises(NonFinite):
        each.encode(x)


@EVERY
@pytest.mark.parametrize("x", [torch.ones(4).double(), torch.ones(2, 2), torch.ones(8)[::2]])
def test_only_flat_fp32_vectors_are_taken(each: Codec, x: Tensor) -> None:
    with pytest.raises(ValueError, match="must be a contiguous 1-D fp32"):
        each.encode(x)
    with pytest.raises(ValueError, match="out must"):
        each.decode(each.encode(torch.ones(4)), 4, x)
    with pytest.raises(ValueError, match="out must have 4 elements, not 5"):
        each.decode(each.encode(torch.ones(4)), 4, torch.ones(5))


def decodes_or_refuses(each: Codec, payload: bytes, numel: int) -> bool:
    try:
        decoded = each.decode(payload, numel)
    except RemoteProtocolError:
        return False
    assert decoded.shape == (numel,)
    assert decoded.abs().max() <= VALUE_MAX if numel else True
    return True


@EVERY
@given(st.binary(max_size=64), st.integers(0, 20))
def test_any_bytes_decode_or_are_refused(each: Codec, payload: bytes, numel: int) -> None:
    decodes_or_refuses(each, payload, numel)


@EVERY
@given(
    vectors(), st.lists(st.tuples(st.integers(0), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4)
)
def test_mutated_payloads_decode_or_are_refused(
    each: Codec, x: Tensor, edits: list[tuple[int, bytes]]
) -> None:
    payload = bytearray(each.encode(x))
    for where, patch in edits:
        place = where % len(payload)
        payload[place : place + len(patch)] = patch
    decodes_or_refuses(each, bytes(payload), x.numel())


@EVERY
@given(st.data())
def test_right_length_and_header_with_any_body(each: Codec, data: st.DataObject) -> None:
    numel = data.draw(st.integers(1, 12))
    header = each.encode(torch.zeros(numel))[:HEADER_BYTES]
    body = each.payload_bytes(numel) - HEADER_BYTES
    decodes_or_refuses(each, header + data.draw(st.binary(min_size=body, max_size=body)), numel)


@EVERY
@given(vectors(), st.integers(-300, 300).filter(bool))
def test_another_length_is_refused(each: Codec, x: Tensor, more: int) -> None:
    payload = each.encode(x)
    other = payload + bytes(more) if more > 0 else payload[:more]
    with pytest.raises(RemoteProtocolError, match="bytes, expected"):
        each.decode(other, x.numel())


@EVERY
@pytest.mark.parametrize(
    ("offset", "patch", "field"),
    [
        (0, b"X", "magic"),
        (4, b"\2", "version"),
        (5, b"\x63", "codec id"),
        (6, b"\7", "block"),
        (8, b"\5", "numel"),
    ],
)
def test_each_field_of_the_header_is_checked(each: Codec, offset: int, patch: bytes, field: str) -> None:
    payload = bytearray(each.encode(torch.ones(4)))
    payload[offset : offset + 1] = patch
    with pytest.raises(RemoteProtocolError, match=f"header: {field}"):
        each.decode(bytes(payload), 4)


def test_a_payload_of_another_codec_is_refused() -> None:
    # 256 elements by int8 take 276 bytes; so do 65 by fp32: the header alone tells them apart.
    payload = INT8.encode(torch.ones(256))
    with pytest.raises(RemoteProtocolError, match="codec id 2, expected 1"):
        codec("fp32").decode(payload, 65)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, -0.0, 1e-40, 1.5e17, 3e38])
def test_bad_scales_are_refused(bad: float) -> None:
    payload = bytearray(INT8.encode(torch.ones(300)))
    struct.pack_into("<f", payload, HEADER_BYTES + 4, bad)
    with pytest.raises(RemoteProtocolError, match="scale"):
        INT8.decode(bytes(payload), 300)


def test_a_code_that_no_encoder_writes_is_refused() -> None:
    payload = INT8.encode(torch.ones(300))
    with pytest.raises(RemoteProtocolError, match="code that no encoder writes"):
        INT8.decode(payload[:-1] + b"\x80", 300)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 2e19])
def test_bad_values_in_an_fp32_payload_are_refused(bad: float) -> None:
    payload = bytearray(codec("fp32").encode(torch.ones(LONG)))
    struct.pack_into("<f", payload, len(payload) - 4, bad)
    with pytest.raises(RemoteProtocolError, match="NaN"):
        codec("fp32").decode(bytes(payload), LONG)


@EVERY
def test_a_header_that_promises_much_allocates_little(each: Codec) -> None:
    payload = bytearray(each.encode(torch.ones(4)))
    struct.pack_into("<Q", payload, 8, 2**40)
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError):
        each.decode(bytes(payload), 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_name_that_is_not_there_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'int8'"):
        codec("int-8")
    with pytest.raises(ConfigError, match="did you mean 'fp32'"):
        codec("float32")
    assert codec("int8") is INT8
