"""A signature covers the exact bytes that travel: whatever is changed on the way is refused, in words."""

from __future__ import annotations

import dataclasses

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import RUN, digest, flipped, key, read

from atoll.protocol import envelope as envelopes
from atoll.protocol.commits import vote_message
from atoll.protocol.envelope import (
    ADDRESSES_MAX,
    ENVELOPE_BYTES_MAX,
    RECORD_BYTES_MAX,
    VERSION,
    Record,
    open_envelope,
    open_record,
    proof_message,
    seal,
    seal_record,
)
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.keys import verify
from atoll.protocol.proofs import Place
from atoll.protocol.wire import messages_pb2 as wire

ADA = key("ada")
SIGNED_FIELDS = ("body", "run_id", "public_key", "signature")


def refused(envelope: wire.Envelope) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        open_envelope(envelope, RUN)
    return str(caught.value)


@given(st.binary(max_size=300), st.binary(max_size=30))
def test_what_was_sealed_opens(body: bytes, record: bytes) -> None:
    travelled = wire.Envelope.FromString(seal(ADA, RUN, body, record).SerializeToString())
    assert open_envelope(travelled, RUN) == (ADA.peer, body)
    assert travelled.record == record


@given(st.binary(min_size=1, max_size=100), st.sampled_from(SIGNED_FIELDS), st.integers(0))
def test_a_flipped_bit_is_refused(body: bytes, field: str, bit: int) -> None:
    envelope = seal(ADA, RUN, body)
    setattr(envelope, field, flipped(getattr(envelope, field), bit))
    reason = refused(envelope)
    if field == "run_id":
        assert reason == "the envelope is for another run"
    else:
        assert reason == "the signature does not match the envelope"


@given(st.integers(0, (1 << 32) - 1).filter(lambda version: version != VERSION))
def test_another_version_is_named(version: int) -> None:
    envelope = seal(ADA, RUN, b"body")
    envelope.version = version
    reason = refused(envelope)
    assert f"version {VERSION}" in reason
    assert str(version) in reason


def test_the_version_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version's envelope is no envelope of this one with the number changed back."""
    monkeypatch.setattr(envelopes, "VERSION", VERSION + 1)
    later = seal(ADA, RUN, b"body")
    monkeypatch.undo()
    later.version = VERSION
    assert refused(later) == "the signature does not match the envelope"


def test_every_other_fault_has_its_reason() -> None:
    def changed(**fields: object) -> wire.Envelope:
        envelope = seal(ADA, RUN, b"body")
        for name, value in fields.items():
            setattr(envelope, name, value)
        return envelope

    assert refused(changed(signature=b"")) == "the envelope is not signed"
    assert refused(changed(public_key=b"")) == "the envelope names no Ed25519 key"
    assert refused(changed(public_key=bytes(33))) == "the envelope names no Ed25519 key"
    assert refused(changed(run_id=b"")) == "the envelope is for another run"
    assert refused(seal(ADA, digest("another run"), b"body")) == "the envelope is for another run"
    assert refused(changed(signature=bytes(64))) == "the signature does not match the envelope"
    assert refused(changed(public_key=key("ben").public)) == "the signature does not match the envelope"


def test_an_oversized_body_is_refused_though_signed() -> None:
    open_envelope(seal(ADA, RUN, bytes(ENVELOPE_BYTES_MAX)), RUN)
    assert str(ENVELOPE_BYTES_MAX + 1) in refused(seal(ADA, RUN, bytes(ENVELOPE_BYTES_MAX + 1)))


def test_the_boundary_between_run_and_body_cannot_be_moved() -> None:
    envelope = seal(ADA, RUN, b"x" * 40)
    envelope.run_id, envelope.body = envelope.run_id + b"x", b"x" * 39
    assert refused(envelope) == "the envelope is for another run"


@given(st.binary(max_size=400))
def test_any_bytes_open_or_are_refused(raw: bytes) -> None:
    try:
        envelope = wire.Envelope.FromString(raw)
    except DecodeError:  # the transport's own concern
        return
    assert refused(envelope)


# ---- records ------------------------------------------------------------------------------------

hosts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
records = st.builds(
    Record,
    run_id=st.just(RUN),
    peer=st.just(ADA.peer),
    sequence=st.integers(0, (1 << 64) - 1),
    direct=st.lists(hosts, max_size=ADDRESSES_MAX).map(tuple),
    certificate=st.none() | st.just(digest("certificate")),
    multiaddrs=st.lists(hosts, max_size=ADDRESSES_MAX).map(tuple),
    role=st.sampled_from(["worker", "witness"]),
    agent=hosts,
)
RECORD = Record(RUN, ADA.peer, 7, ("127.0.0.1:1",), digest("certificate"), ("/ip4/127.0.0.1",), agent="atoll")


def record_refused(raw: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        open_record(raw, RUN)
    return str(caught.value)


@given(records)
def test_a_record_comes_back(record: Record) -> None:
    assert open_record(seal_record(ADA, record), RUN) == record


@given(st.integers(0))
def test_a_flipped_bit_of_a_record_is_refused(bit: int) -> None:
    raw = seal_record(ADA, RECORD)
    signed = wire.SignedRecord.FromString(raw)
    for field in ("record", "signature"):
        damaged = wire.SignedRecord(record=signed.record, signature=signed.signature)
        setattr(damaged, field, flipped(getattr(signed, field), bit))
        assert "peer record" in record_refused(damaged.SerializeToString())
    assert read(open_record, flipped(raw, bit), RUN) is None


def test_every_fault_of_a_record_has_its_reason() -> None:
    ben = key("ben")
    assert "another run" in record_refused(
        seal_record(ADA, dataclasses.replace(RECORD, run_id=digest("another run")))
    )
    crowd = tuple(str(number) for number in range(ADDRESSES_MAX + 1))
    assert "addresses" in record_refused(seal_record(ADA, dataclasses.replace(RECORD, direct=crowd)))
    assert "addresses" in record_refused(seal_record(ADA, dataclasses.replace(RECORD, multiaddrs=crowd)))
    big = dataclasses.replace(RECORD, agent="x" * RECORD_BYTES_MAX)
    assert str(RECORD_BYTES_MAX) in record_refused(seal_record(ADA, big))
    taken = wire.SignedRecord.FromString(seal_record(ADA, RECORD))
    own = wire.SignedRecord.FromString(seal_record(ben, dataclasses.replace(RECORD, peer=ben.peer)))
    stolen = wire.SignedRecord(record=taken.record, signature=own.signature)
    assert "signature" in record_refused(stolen.SerializeToString())
    keyless = wire.SignedRecord(record=b"", signature=b"x" * 64)
    assert "signature" in record_refused(keyless.SerializeToString())


@given(st.binary(max_size=300))
def test_any_bytes_are_no_record(raw: bytes) -> None:
    assert record_refused(raw)


# ---- domains ------------------------------------------------------------------------------------


def test_a_proof_is_bound_to_certificate_nonce_and_run() -> None:
    certificate, nonce = digest("certificate"), b"n" * 16
    proof = proof_message(certificate, nonce, RUN)
    others = {
        proof_message(digest("another"), nonce, RUN),
        proof_message(certificate, b"m" * 16, RUN),
        proof_message(certificate, nonce, digest("another run")),
        proof_message(RUN, nonce, certificate),
        proof_message(certificate, nonce + b"n", RUN),
    }
    assert len(others) == 5
    signature = ADA.sign(proof)
    assert verify(ADA.public, proof, signature)
    assert not any(verify(ADA.public, other, signature) for other in others)


@given(st.binary(max_size=200))
def test_no_kind_of_signature_passes_for_another(body: bytes) -> None:
    """A server chooses the nonce that its caller signs: none makes it an envelope, a record or a vote."""
    proof = proof_message(RUN, body, RUN)
    envelope = seal(ADA, RUN, body)
    envelope.signature = ADA.sign(proof)
    assert refused(envelope) == "the signature does not match the envelope"
    forged = wire.SignedRecord(record=proof, signature=ADA.sign(proof))
    assert "peer record" in record_refused(forged.SerializeToString())
    assert not proof.startswith(vote_message(Place(RUN, 0, 1), 0, RUN)[:12])
