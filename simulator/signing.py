"""Signatures that cost a microsecond: a keyed hash whose keys the simulated world knows.

Nobody forges in here, so what matters is that a signature fits only its signer and its message, as an
Ed25519 one does. Identities are real-looking peer ids, because ledger and manifest check their form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

from atoll.protocol.ids import PeerId, peer_id
from atoll.protocol.keys import SIGNATURE_BYTES

MADE_MAX = 1 << 15


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The secret of every peer of one world, and the last signatures: everybody checks the same ones."""

    secrets: dict[PeerId, bytes]
    made: dict[tuple[PeerId, bytes], bytes] = field(default_factory=dict)

    def signature(self, peer: PeerId, message: bytes) -> bytes:
        known = self.made.get((peer, message))
        if known is None:
            if len(self.made) >= MADE_MAX:
                self.made.clear()
            known = blake2b(message, key=self.secrets[peer], digest_size=SIGNATURE_BYTES).digest()
            self.made[peer, message] = known
        return known

    def add(self, peer: PeerId) -> None:
        """One more identity, whose secret nobody else's gives away."""
        self.secrets[peer] = blake2b(b"of " + peer.encode(), digest_size=32).digest()

    def verify(self, peer: PeerId, message: bytes, signature: bytes) -> bool:
        return peer in self.secrets and self.signature(peer, message) == signature


@dataclass(frozen=True, slots=True)
class SimulatedSigner:
    """One peer's own secret, and the ring to check the others' signatures (a `protocol.keys.Signer`)."""

    peer: PeerId
    ring: KeyRing

    def sign(self, message: bytes) -> bytes:
        return self.ring.signature(self.peer, message)

    def verify(self, peer: PeerId, message: bytes, signature: bytes) -> bool:
        return self.ring.verify(peer, message, signature)


def key_ring(seed: int, count: int) -> KeyRing:
    """`count` identities that only this seed has, in a fixed order."""
    ring = KeyRing({})
    for index in range(count):
        secret = blake2b(f"{seed} {index}".encode(), digest_size=32).digest()
        ring.secrets[peer_id(blake2b(secret, digest_size=32).digest())] = secret
    return ring
