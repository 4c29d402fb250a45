"""Names of things: peers by their Ed25519 key, everything else by the BLAKE3 of its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from blake3 import blake3

from atoll.protocol.errors import RemoteProtocolError

PeerId = NewType("PeerId", str)
"""base58 of the identity multihash of libp2p's public-key message: `12D3Koo…`."""

Digest = NewType("Digest", str)
"""BLAKE3 as 64 hexadecimal digits."""

REASON_MAX = 500
_PEER_PREFIX = b"\x00\x24\x08\x01\x12\x20"
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def digest_of(*pieces: bytes | memoryview) -> Digest:
    """Digest of the concatenation of `pieces`."""
    hasher = blake3()
    for piece in pieces:
        hasher.update(piece)
    return Digest(hasher.digest().hex())  # its own hexadecimal digits take a third longer


def digest_bytes(digest: Digest) -> bytes:
    """The 32 bytes that travel."""
    return bytes.fromhex(digest)


def digest_from_bytes(raw: bytes) -> Digest:
    """The inverse of `digest_bytes`; raises RemoteProtocolError unless there are 32 bytes."""
    if len(raw) != 32:
        raise RemoteProtocolError(f"a digest has 32 bytes, not {len(raw)}")
    return Digest(raw.hex())


def peer_id(public_key: bytes) -> PeerId:
    """The libp2p peer id of a raw 32-byte Ed25519 public key."""
    assert len(public_key) == 32
    raw = _PEER_PREFIX + public_key
    number, text = int.from_bytes(raw, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = _ALPHABET[rest] + text
    return PeerId("1" * (len(raw) - len(raw.lstrip(b"\0"))) + text)


def public_key_of(peer: str) -> bytes:
    """The 32-byte public key inside a peer id; raises RemoteProtocolError if there is none."""
    number = 0
    if not 40 <= len(peer) <= 60:
        raise RemoteProtocolError(f"not a peer id: {peer[:60]!r}")
    for letter in peer:
        place = _ALPHABET.find(letter)
        if place < 0:
            raise RemoteProtocolError(f"not a peer id: {peer[:60]!r}")
        number = number * 58 + place
    raw = number.to_bytes(64, "big")[-38:]
    if raw[:6] != _PEER_PREFIX or number >> (38 * 8) or peer_id(raw[6:]) != peer:
        raise RemoteProtocolError(f"not an Ed25519 peer id: {peer[:60]!r}")
    return raw[6:]


def short(peer: str) -> str:
    """The last eight letters: enough to tell peers apart in a log line."""
    return peer[-8:]


def readable(text: str) -> str:
    """Somebody's words, safe to print and to pass on: bounded, one line, no control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:REASON_MAX])


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Bytes by content: whoever has bytes of this digest and size has the blob."""

    digest: Digest
    size: int
