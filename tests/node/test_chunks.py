"""Chunks that are written from views and read as views are protobuf's own, byte for byte."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from atoll.node import transport
from atoll.node.transport import CHUNK_BYTES, Blob, Piece, chunks, read_chunk
from atoll.protocol.wire import messages_pb2 as wire

DATA = st.one_of(st.binary(max_size=300), st.integers(16_380, 16_390).map(bytes))


@given(DATA, st.booleans())
@example(bytes(CHUNK_BYTES), False)
def test_a_piece_is_written_as_protobuf_writes_it(data: bytes, last: bool) -> None:
    raw = wire.Chunk(data=data, last=last).SerializeToString()
    piece = Piece(memoryview(data), last)
    assert piece.SerializeToString() == raw
    assert piece.ByteSize() == len(raw)


@given(st.builds(wire.Chunk, data=DATA, last=st.booleans(), refused=st.text(max_size=20)))
def test_a_chunk_is_read_as_protobuf_reads_it(chunk: wire.Chunk) -> None:
    read = read_chunk(chunk.SerializeToString())
    assert (bytes(read.data), read.last, read.refused) == (chunk.data, chunk.last, chunk.refused)


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda tail: b"\x0a" + tail)))
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x0a\x05abc")
@example(b"\x0a\x01a\x10\x02")
@example(b"\x0a\x01a\x0a\x01b")
def test_any_bytes_are_read_as_protobuf_reads_them_or_refused(raw: bytes) -> None:
    expected = None
    with contextlib.suppress(DecodeError):
        expected = wire.Chunk.FromString(raw)
    read = None
    with contextlib.suppress(DecodeError):
        read = read_chunk(raw)
    assert (read is None) == (expected is None)
    if read is not None and expected is not None:
        assert (bytes(read.data), read.last, read.refused) == (expected.data, expected.last, expected.refused)


def test_the_pieces_of_a_blob_are_views_of_it() -> None:
    data = bytes(range(256)) * 3000
    pieces = list(chunks(Blob(memoryview(data), "state"), 1000))
    assert b"".join(piece.data for piece in pieces) == data[1000:]
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(piece.data.obj is data for piece in pieces)


def test_chunks_grow_while_they_are_quick_and_shrink_when_they_are_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    monkeypatch.setattr(transport.time, "monotonic", lambda: now_s)
    sizes = []
    took_s = [0.001] * 4 + [0.1] * 2 + [1.0] * 4
    stream = chunks(Blob(memoryview(bytes(32 * CHUNK_BYTES)), "state"), 0)
    for seconds, piece in zip(took_s, stream, strict=False):
        sizes.append(len(piece.data) // CHUNK_BYTES)
        now_s += seconds
    assert sizes == [1, 2, 4, 4, 4, 4, 4, 2, 1, 1]
