"""Who this peer is: one Ed25519 key, and a P-256 certificate that only its signed record vouches for.

The key is the libp2p identity and signs every message. gRPC's TLS refuses Ed25519 certificates, so the
direct server shows a self-signed P-256 certificate instead; its digest stands in the peer's signed record
and callers pin it. Both are made once, kept in the state folder with mode 0600, and never replaced
silently.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.keys import Key

KEY_FILE = "identity.key"
CERTIFICATE_FILE = "certificate.pem"
P2P_FILE = "p2p-identity.bin"
CERTIFICATE_NAME = "peer.atoll"
"""The one name in every peer's certificate: what it proves is its digest, not a host."""

_NOT_BEFORE, _NOT_AFTER = datetime.datetime(2020, 1, 1), datetime.datetime(2120, 1, 1)


@dataclass(frozen=True, slots=True)
class Identity:
    """A peer's key and certificate as they lie in its state folder."""

    folder: Path
    key: Key
    certificate_pem: bytes
    certificate_key_pem: bytes = field(repr=False)
    certificate: Digest

    @property
    def peer(self) -> PeerId:
        return self.key.peer

    @property
    def p2p_file(self) -> Path:
        """The private key as libp2p's daemon reads it."""
        return self.folder / P2P_FILE


def load_or_create(folder: Path) -> Identity:
    """The identity in `folder`, made on first use; ConfigError if what lies there is damaged."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = _load_or_create_key(folder / KEY_FILE)
        certificate, certificate_key = _load_or_create_certificate(folder / CERTIFICATE_FILE)
        write_private(folder / P2P_FILE, p2p_identity(key))
    except OSError as error:
        raise ConfigError(
            error.strerror or str(error), str(folder), "a folder that this user can write"
        ) from None
    return Identity(folder, key, certificate, certificate_key, certificate_digest(certificate))


def load_key(path: Path) -> Key:
    """The Ed25519 key whose 32 secret bytes are in `path`; ConfigError if they are not."""
    try:
        mode, seed = stat.S_IMODE(path.stat().st_mode), path.read_bytes()
    except OSError as error:
        raise ConfigError(error.strerror or str(error), str(path), "a readable key file") from None
    if mode & 0o077:
        raise ConfigError(f"others may read this key (mode {mode:04o})", str(path), "chmod 600")
    if len(seed) != 32 or not any(seed):
        raise ConfigError(
            f"not a key: {len(seed)} bytes", str(path), "the 32 secret bytes of an Ed25519 key, or no file"
        )
    return Key(seed)


def save_key(path: Path, key: Key) -> None:
    """Write a new key file; FileExistsError if there is one."""
    write_private(path, key.seed, replace=False)


def _load_or_create_key(path: Path) -> Key:
    with contextlib.suppress(FileExistsError):
        if not path.exists():
            save_key(path, Key.generate())
    return load_key(path)


def p2p_identity(key: Key) -> bytes:
    """libp2p's private-key message: {type: Ed25519 = 1, data: seed ‖ public}. (libp2p specs, peer-ids)"""
    return b"\x08\x01\x12\x40" + key.seed + key.public


def _load_or_create_certificate(path: Path) -> tuple[bytes, bytes]:
    """The certificate and its private key, both PEM, from one file: neither is of use without the other."""
    with contextlib.suppress(FileExistsError):
        if not path.exists():
            write_private(path, b"".join(make_certificate()), replace=False)
    certificate, mark, key = path.read_bytes().partition(b"-----BEGIN PRIVATE KEY-----")
    try:
        shown = x509.load_pem_x509_certificate(certificate).public_key()
        held = serialization.load_pem_private_key(mark + key, password=None).public_key()
        if shown != held:
            raise ValueError("certificate and key do not belong together")
    except ValueError as error:
        right = "remove it: a new one is made and published"
        raise ConfigError(f"not a certificate with its key: {error}", str(path), right) from None
    return certificate, mark + key


def make_certificate() -> tuple[bytes, bytes]:
    """A self-signed P-256 certificate and its private key, both PEM.

    It is valid for a century: what a caller checks is its digest, and a peer with a wrong clock must still
    be able to join.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CERTIFICATE_NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(CERTIFICATE_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return certificate.public_bytes(encoding), key.private_bytes(encoding, form, serialization.NoEncryption())


def certificate_digest(pem: bytes) -> Digest:
    """SHA-256 of the DER bytes: what stands in a peer's record and what its callers sign."""
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    return Digest(hashlib.sha256(der).hexdigest())


def write_private(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write `path` whole or not at all, mode 0600, on disk before this returns."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(draft, path)
        else:
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
