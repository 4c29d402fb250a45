"""Chunks that are written from views and read as views are protobuf's own, byte for byte."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from atoll.node.link import Link
from atoll.node.transport import (
    CHUNK_BYTES,
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MIN,
    Blob,
    Piece,
    chunks,
    read_chunk,
)
from atoll.protocol.envelope import Record
from atoll.protocol.ids import Digest
from atoll.protocol.keys import Key
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


@pytest.mark.parametrize(
    ("wished", "size"),
    [
        (0, CHUNK_BYTES),
        (1, CHUNK_BYTES_MIN),
        (20_000, 20_000),
        (300_000, 300_000),
        (CHUNK_BYTES_MAX, CHUNK_BYTES_MAX),
        (1 << 31, CHUNK_BYTES_MAX),
    ],
)
def test_chunks_are_as_large_as_the_caller_wishes_within_bounds(wished: int, size: int) -> None:
    blob = Blob(memoryview(bytes(3 * CHUNK_BYTES_MAX + 5)), "state")
    sizes = [len(piece.data) for piece in chunks(blob, 0, wished)]
    assert set(sizes[:-1]) == {size}
    assert sum(sizes) == len(blob.view)


def test_a_link_wishes_for_chunks_that_come_soon_at_the_pace_of_the_last_stream() -> None:
    link = Link(Record(Digest("0" * 64), Key.generate().peer, 1, ("127.0.0.1:1",), None))
    assert link.chunk_bytes == CHUNK_BYTES
    link.carried(50_000_000, 0.5)
    assert link.chunk_bytes == CHUNK_BYTES_MAX
    link.carried(1000, 10.0)  # too little to tell
    assert link.chunk_bytes == CHUNK_BYTES_MAX
    link.carried(1_000_000, 8.0)
    assert link.chunk_bytes == CHUNK_BYTES
