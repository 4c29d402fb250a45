"""Who may join a run: a pure question about the joiner, its token, and the manifest."""

from __future__ import annotations

from atoll.protocol.ids import Digest, PeerId, digest_bytes, public_key_of
from atoll.protocol.keys import Key, verify
from atoll.protocol.manifest import MembershipRules
from atoll.protocol.roster import Role

_DOMAIN = b"atoll admission 1"


def token_for(secret: bytes, run_id: Digest, peer: PeerId) -> bytes:
    """What a holder of the invite's secret shows: a signature that only this peer can use, in this run."""
    return Key(secret).sign(_DOMAIN + digest_bytes(run_id) + public_key_of(peer))


def refusal(rules: MembershipRules, run_id: Digest, peer: PeerId, role: Role, token: bytes) -> str | None:
    """Why `peer` may not become a member in this role, or None."""
    if role is Role.WITNESS:
        return None if peer in rules.witnesses else "only the manifest's witnesses join as witness"
    if rules.policy == "allowlist" and peer not in rules.allow:
        return "this run has a list of peers, and you are not on it"
    if rules.policy == "token":
        message = _DOMAIN + digest_bytes(run_id) + public_key_of(peer)
        if not verify(bytes.fromhex(rules.token_key), message, token):
            return "this run asks for an invite with its secret"
    return None
