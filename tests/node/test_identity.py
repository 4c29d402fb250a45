"""A peer's key and certificate: made once, private, and never replaced silently."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from atoll.node import identity
from atoll.node.identity import CERTIFICATE_FILE, KEY_FILE, P2P_FILE, load_or_create
from atoll.protocol.errors import ConfigError
from atoll.protocol.keys import Key


def test_is_made_once_and_then_loaded(tmp_path: Path) -> None:
    first, second = load_or_create(tmp_path / "new" / "state"), load_or_create(tmp_path / "new" / "state")
    assert first.peer == second.peer
    assert first.peer.startswith("12D3Koo")
    assert (first.certificate, first.certificate_pem) == (second.certificate, second.certificate_pem)
    assert load_or_create(tmp_path / "other").peer != first.peer


def test_files_are_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        made = load_or_create(tmp_path / "state")
    finally:
        os.umask(old)
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.folder.iterdir()}
    assert files == {KEY_FILE: 0o600, CERTIFICATE_FILE: 0o600, P2P_FILE: 0o600}
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    assert (made.folder / KEY_FILE).read_bytes() == made.key.seed


def test_the_p2p_file_holds_the_same_key(tmp_path: Path) -> None:
    made = load_or_create(tmp_path)
    assert made.p2p_file.read_bytes() == bytes.fromhex("08011240") + made.key.seed + made.key.public


def test_the_certificate_is_p256_and_its_digest_is_of_the_der_bytes(tmp_path: Path) -> None:
    made = load_or_create(tmp_path)
    certificate = x509.load_pem_x509_certificate(made.certificate_pem)
    assert certificate.public_key().curve.name == "secp256r1"  # type: ignore[union-attr]
    assert made.certificate == hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def test_the_secrets_are_not_in_its_representation(tmp_path: Path) -> None:
    made = load_or_create(tmp_path)
    assert b"PRIVATE" in made.certificate_key_pem
    assert "PRIVATE" not in repr(made)


@pytest.mark.parametrize("damage", [b"", b"short", bytes(32), bytes(33)])
def test_a_damaged_key_is_an_error_and_stays(tmp_path: Path, damage: bytes) -> None:
    load_or_create(tmp_path)
    (tmp_path / KEY_FILE).write_bytes(damage)
    with pytest.raises(ConfigError, match="not a key"):
        load_or_create(tmp_path)
    assert (tmp_path / KEY_FILE).read_bytes() == damage


def test_a_key_that_others_may_read_is_an_error(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(ConfigError, match=r"others may read this key \(mode 0644\) \(chmod 600\)"):
        load_or_create(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 700])
def test_a_damaged_certificate_is_an_error(tmp_path: Path, keep: int) -> None:
    load_or_create(tmp_path)
    path = tmp_path / CERTIFICATE_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigError, match="not a certificate with its key"):
        load_or_create(tmp_path)


def test_a_certificate_with_another_key_is_an_error(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    (tmp_path / CERTIFICATE_FILE).write_bytes(identity.make_certificate()[0] + identity.make_certificate()[1])
    with pytest.raises(ConfigError, match="do not belong together"):
        load_or_create(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="Not a directory"):
        load_or_create(tmp_path / "file" / "state")


def test_a_key_is_not_overwritten(tmp_path: Path) -> None:
    identity.save_key(tmp_path / "key", Key(b"k" * 32))
    with pytest.raises(FileExistsError):
        identity.save_key(tmp_path / "key", Key(b"l" * 32))
    assert identity.load_key(tmp_path / "key").seed == b"k" * 32
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    identity.write_private(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(identity.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        identity.write_private(path, b"new")
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (b"old", 1)
