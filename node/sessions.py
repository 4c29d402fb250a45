"""How a caller proves who it is to a direct server, without a table that a caller could fill.

Greet gives a nonce, Prove checks the caller's Ed25519 signature over (server certificate, nonce, run) and
gives a token for later calls. Both are sealed with a secret of this server process (HMAC-SHA256), so the
server keeps nothing for a caller; a restarted server knows neither, and says so, and the caller proves
itself again.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from atoll.protocol.envelope import proof_message
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import Digest, PeerId, digest_bytes, peer_id
from atoll.protocol.keys import Key, verify
from atoll.protocol.wire import messages_pb2 as wire

NONCE_S = 30
SESSION_S = 12 * 3600
UNKNOWN = "unknown session: prove yourself again"
"""The reason of a refusal after which a caller proves itself once more."""
_TIME, _MAC, _KEY = 8, 32, 32


class Doorkeeper:
    """Gives nonces and session tokens and checks them. Times are seconds of the server's own clock."""

    def __init__(self, certificate: Digest, run_id: Digest) -> None:
        self._certificate, self._run_id = certificate, run_id
        self._secret = secrets.token_bytes(32)

    def greet(self, challenge: wire.Challenge, now_s: float) -> wire.Nonce:
        """A nonce for this key, good for `NONCE_S`."""
        return wire.Nonce(nonce=self._seal(b"nonce", challenge.public_key[:_KEY], now_s + NONCE_S))

    def prove(self, proof: wire.Proof, now_s: float) -> wire.Session:
        """A session for the holder of the key, or the reason why not."""
        reason = self._fault(proof, now_s)
        if reason:
            return wire.Session(refused=reason)
        return wire.Session(token=self._seal(b"session", proof.public_key, now_s + SESSION_S))

    def caller(self, token: bytes, now_s: float) -> PeerId | None:
        """Whose session this token is; None if it is not one of this server process."""
        key = token[_TIME:-_MAC]
        if len(key) != _KEY or not self._good(b"session", key, token, now_s):
            return None
        return peer_id(key)

    def _fault(self, proof: wire.Proof, now_s: float) -> str:
        if proof.run_id != digest_bytes(self._run_id):
            return "this server is of another run"
        if len(proof.public_key) != _KEY:
            return "the proof names no Ed25519 key"
        if not self._good(b"nonce", proof.public_key, proof.nonce, now_s):
            return "the nonce is not of this server, or too old"
        message = proof_message(self._certificate, proof.nonce, self._run_id)
        if not verify(proof.public_key, message, proof.signature):
            return "the signature does not match the proof"
        return ""

    def _seal(self, purpose: bytes, key: bytes, until_s: float) -> bytes:
        content = int(until_s * 1000).to_bytes(_TIME, "big") + key
        return content + hmac.digest(self._secret, purpose + content, hashlib.sha256)

    def _good(self, purpose: bytes, key: bytes, sealed: bytes, now_s: float) -> bool:
        content = sealed[:_TIME] + key
        expected = content + hmac.digest(self._secret, purpose + content, hashlib.sha256)
        return hmac.compare_digest(expected, sealed) and now_s * 1000 < int.from_bytes(sealed[:_TIME], "big")


def answer(key: Key, certificate: Digest, nonce: bytes, run_id: Digest) -> wire.Proof:
    """The caller's side: sign the pinned certificate with the server's nonce, for this run.

    The certificate is what this caller pinned, so a server in the middle cannot use the proof elsewhere.
    """
    if not 16 <= len(nonce) <= 256:
        raise RemoteProtocolError(f"a nonce of {len(nonce)} bytes")
    signature = key.sign(proof_message(certificate, nonce, run_id))
    return wire.Proof(run_id=digest_bytes(run_id), public_key=key.public, nonce=nonce, signature=signature)
