"""Peer ids are libp2p's, and a key signs for its own id only."""

from __future__ import annotations

import base58
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import flipped, key, read

from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import (
    REASON_MAX,
    PeerId,
    digest_bytes,
    digest_from_bytes,
    digest_of,
    peer_id,
    public_key_of,
    readable,
    short,
)
from atoll.protocol.keys import SIGNATURE_BYTES, Key, verify

keys_32 = st.binary(min_size=32, max_size=32)
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@given(keys_32)
def test_a_peer_id_is_base58_of_libp2ps_identity_multihash(public: bytes) -> None:
    message = bytes([8, 1, 18, len(public)]) + public  # PublicKey{Type: Ed25519, Data: public}
    multihash = bytes([0, len(message)]) + message  # the identity hash
    assert peer_id(public) == base58.b58encode(multihash).decode()
    assert peer_id(public).startswith("12D3Koo")


@given(keys_32)
def test_the_public_key_comes_back_out_of_the_id(public: bytes) -> None:
    assert public_key_of(peer_id(public)) == public


@given(keys_32, st.integers(0, 51), st.sampled_from(ALPHABET + "0OIl é\0"))
def test_a_damaged_letter_never_gives_the_same_key(public: bytes, place: int, letter: str) -> None:
    sound = peer_id(public)
    damaged = sound[:place] + letter + sound[place + 1 :]
    if damaged == sound:
        return
    assert read(public_key_of, damaged) != public


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "w1",
        "12D3Koo",
        key("w1").peer[:-1],
        key("w1").peer + "1",
        "1" + key("w1").peer,
        key("w1").peer[1:],
        key("w1").peer.lower(),
        " " + key("w1").peer,
        "z" * 60,
        "1" * 52,
        "Qm" + base58.b58encode(bytes(range(32))).decode(),
        base58.b58encode(b"\x12\x20" + bytes(32)).decode(),  # a SHA-256 multihash: an RSA peer
        base58.b58encode(b"\x00\x25\x08\x02\x12\x21" + bytes(33)).decode(),  # secp256k1
        "9" * 100_000,
    ],
)
def test_what_is_no_ed25519_peer_id_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="peer id") as caught:
        public_key_of(text)
    assert len(str(caught.value)) < 200


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    public = read(public_key_of, text)
    assert public is None or peer_id(public) == text


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_a_digest_is_of_the_concatenation(pieces: list[bytes]) -> None:
    assert digest_of(*pieces) == digest_of(b"".join(pieces))
    assert digest_from_bytes(digest_bytes(digest_of(*pieces))) == digest_of(*pieces)


@pytest.mark.parametrize("size", [0, 31, 33, 1000])
def test_a_digest_has_32_bytes(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"not {size}"):
        digest_from_bytes(bytes(size))


def test_short_tells_peers_apart() -> None:
    assert key("w1").peer.endswith(short(key("w1").peer))
    assert short(key("w1").peer) != short(key("w2").peer)


@given(st.text(max_size=600))
def test_somebodys_words_are_one_bounded_printable_line(words: str) -> None:
    shown = readable(words)
    assert shown.isprintable()
    assert len(shown) == min(len(words), REASON_MAX)
    assert readable(shown) == shown
    assert all(mine in (theirs, "?") for mine, theirs in zip(shown, words, strict=False))


# ---- keys ---------------------------------------------------------------------------------------


@given(keys_32, st.binary(max_size=100))
def test_a_signature_is_ed25519(seed: bytes, message: bytes) -> None:
    signature = Key(seed).sign(message)
    assert len(signature) == SIGNATURE_BYTES
    assert signature == Ed25519PrivateKey.from_private_bytes(seed).sign(message)
    assert Key(seed).seed == seed


@given(st.binary(max_size=60), st.integers(0))
def test_a_signature_fits_its_key_and_its_message_only(message: bytes, bit: int) -> None:
    ada, ben = key("ada"), key("ben")
    signature = ada.sign(message)
    assert ben.verify(ada.peer, message, signature)
    assert not ben.verify(ben.peer, message, signature)
    assert not ben.verify(ada.peer, message + b"\0", signature)
    assert not ben.verify(ada.peer, message, flipped(signature, bit))
    assert not verify(flipped(ada.public, bit), message, signature)


@given(st.binary(max_size=80), st.binary(max_size=40), st.text(max_size=60))
def test_garbage_never_verifies_and_never_raises(signature: bytes, public: bytes, name: str) -> None:
    assert not verify(public, b"message", signature)
    assert not key("ada").verify(PeerId(name), b"message", signature)


def test_generated_keys_differ() -> None:
    assert Key.generate().peer != Key.generate().peer
