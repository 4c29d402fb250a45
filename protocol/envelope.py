"""Signed envelopes: the signature covers the exact bytes that travel; nothing is re-serialized to check it.

Also the signed record that says where a peer can be reached, and the words a caller signs to prove itself
to a server. Each kind of signature has its own domain, so that none can pass for another.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import Digest, PeerId, digest_bytes, digest_from_bytes, peer_id
from atoll.protocol.keys import Key, verify
from atoll.protocol.wire import messages_pb2 as wire

VERSION = 2
ENVELOPE_BYTES_MAX = 1 << 20
RECORD_BYTES_MAX = 8 << 10
ADDRESSES_MAX = 16
_ENVELOPE, _RECORD, _PROOF = b"atoll envelope 1", b"atoll peer record 1", b"atoll channel proof 1"


def _signed(version: int, run_id: bytes, body: bytes) -> bytes:
    return _ENVELOPE + version.to_bytes(4, "big") + run_id + body


def seal(key: Key, run_id: Digest, body: bytes, record: bytes = b"") -> wire.Envelope:
    """Sign `body` as this peer, for one run. `record` introduces the sender to one who may not know it."""
    run = digest_bytes(run_id)
    signature = key.sign(_signed(VERSION, run, body))
    return wire.Envelope(
        version=VERSION, run_id=run, public_key=key.public, body=body, signature=signature, record=record
    )


def open_envelope(envelope: wire.Envelope, run_id: Digest) -> tuple[PeerId, bytes]:
    """The sender and the body of an envelope; RemoteProtocolError says what is wrong with it."""
    if envelope.version != VERSION:
        raise RemoteProtocolError(
            f"this peer speaks version {VERSION}, the envelope is of {envelope.version}"
        )
    if len(envelope.body) > ENVELOPE_BYTES_MAX:
        raise RemoteProtocolError(f"{len(envelope.body)} bytes, at most {ENVELOPE_BYTES_MAX} are read")
    if envelope.run_id != digest_bytes(run_id):
        raise RemoteProtocolError("the envelope is for another run")
    if len(envelope.public_key) != 32:
        raise RemoteProtocolError("the envelope names no Ed25519 key")
    if not envelope.signature:
        raise RemoteProtocolError("the envelope is not signed")
    message = _signed(envelope.version, envelope.run_id, envelope.body)
    if not verify(envelope.public_key, message, envelope.signature):
        raise RemoteProtocolError("the signature does not match the envelope")
    return peer_id(envelope.public_key), envelope.body


@dataclass(frozen=True, slots=True)
class Record:
    """Where a peer of a run can be reached."""

    run_id: Digest
    peer: PeerId
    sequence: int
    direct: tuple[str, ...] = ()
    certificate: Digest | None = None
    multiaddrs: tuple[str, ...] = ()
    role: str = "worker"
    agent: str = ""


def seal_record(key: Key, record: Record) -> bytes:
    """Serialize and sign one's own record."""
    assert record.peer == key.peer
    message = wire.PeerRecord(
        run_id=digest_bytes(record.run_id),
        public_key=key.public,
        sequence=record.sequence,
        direct=record.direct,
        certificate_digest=digest_bytes(record.certificate) if record.certificate else b"",
        multiaddrs=record.multiaddrs,
        role=record.role,
        agent=record.agent,
    ).SerializeToString()
    return wire.SignedRecord(record=message, signature=key.sign(_RECORD + message)).SerializeToString()


def open_record(raw: bytes, run_id: Digest) -> Record:
    """Check and read a signed record of this run; RemoteProtocolError says what is wrong with it."""
    if len(raw) > RECORD_BYTES_MAX:
        raise RemoteProtocolError(f"a peer record has at most {RECORD_BYTES_MAX} bytes, not {len(raw)}")
    try:
        signed = wire.SignedRecord.FromString(raw)
        record = wire.PeerRecord.FromString(signed.record)
    except DecodeError:
        raise RemoteProtocolError("not a peer record") from None
    if len(record.public_key) != 32 or not verify(
        record.public_key, _RECORD + signed.record, signed.signature
    ):
        raise RemoteProtocolError("the signature does not match the peer record")
    if record.run_id != digest_bytes(run_id):
        raise RemoteProtocolError("the peer record is for another run")
    if len(record.direct) > ADDRESSES_MAX or len(record.multiaddrs) > ADDRESSES_MAX:
        raise RemoteProtocolError(f"a peer record lists at most {ADDRESSES_MAX} addresses of a kind")
    return Record(
        run_id=run_id,
        peer=peer_id(record.public_key),
        sequence=record.sequence,
        direct=tuple(record.direct),
        certificate=digest_from_bytes(record.certificate_digest) if record.certificate_digest else None,
        multiaddrs=tuple(record.multiaddrs),
        role=record.role,
        agent=record.agent,
    )


def proof_message(certificate: Digest, nonce: bytes, run_id: Digest) -> bytes:
    """What a caller signs to a server whose certificate it pinned: bound to that channel, nonce and run."""
    return _PROOF + digest_bytes(certificate) + digest_bytes(run_id) + nonce
