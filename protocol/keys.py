"""Ed25519 and nothing else of cryptography: the one module of protocol/ that imports a library."""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import PeerId, peer_id, public_key_of

SIGNATURE_BYTES = 64


class Signer(Protocol):
    """Signs as one peer and checks the signatures of others. The simulator has a cheaper one."""

    @property
    def peer(self) -> PeerId: ...
    def sign(self, message: bytes) -> bytes: ...
    def verify(self, peer: PeerId, message: bytes, signature: bytes) -> bool: ...


class Key:
    """An Ed25519 private key: a peer's identity, or a run's authority."""

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._peer = peer_id(self.public)

    @classmethod
    def generate(cls) -> Key:
        return cls(
            Ed25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        )

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes."""
        return self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def verify(self, peer: PeerId, message: bytes, signature: bytes) -> bool:
        try:
            return verify(public_key_of(peer), message, signature)
        except RemoteProtocolError:
            return False


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is the one of `message` by the holder of `public_key`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
