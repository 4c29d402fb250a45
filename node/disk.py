"""A node's state directory: what must survive `kill -9`, each file written so that a torn write is seen.

lock                       held while a node runs here
manifest.bin               the signed manifest
ledger.log                 certified commits, appended: length, SHA-256, bytes
snapshot.bin               what the log follows, signed by the authority, once older commits are pruned
round.json                 promised, accepted and proposed in the round in progress; evidence of any
results/<round>-<digest>   parts of updates, on disk before they are voted for
state-<round>.safetensors  anchor and momentum after a round; the newest two
incoming/<digest>          what came of a state that is being fetched
local.safetensors          this peer's residual, of one round
inner.safetensors          the trainer's inner optimiser
paused                     there while the volunteer wants the machine for itself
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from atoll.node import saved_rounds
from atoll.node.state_files import Draft, draft, keep
from atoll.protocol import actions as a
from atoll.protocol.commits import (
    Body,
    Commit,
    UnknownParent,
    body_from_bytes,
    commit_from_bytes,
    commit_to_wire,
    round_of,
    snapshot_from_bytes,
    snapshot_to_wire,
)
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, digest_of
from atoll.protocol.keys import Signer
from atoll.protocol.ledger import Ledger
from atoll.protocol.manifest import SignedManifest, open_manifest
from atoll.protocol.peer import Saved

STATES_KEPT = 2
STATES_AUDITED = 4
"""What auditors measure from is the state before a round, two rounds later."""
_RECORD = struct.Struct("<I32s")


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """The whole file or the old one: temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class StateFile:
    """Where the two blobs of a state lie in its safetensors file."""

    path: Path
    round: int
    offsets: tuple[int, ...]


class Disk:
    """The state directory of one node in one run. One process at a time: ConfigError for a second."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.states_kept = folder, STATES_KEPT
        try:
            (folder / "results").mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("a")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("another atoll process runs here", str(folder), "a folder of its own") from None
        except OSError as error:
            right = "a folder that this user can write"
            raise ConfigError(error.strerror or str(error), str(folder), right) from None
        self._log: Any = None
        for unfinished in folder.glob("*.safetensors.*.tmp"):
            unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the directory."""
        if self._log is not None:
            self._log.close()
        self._lock.close()

    # ---- manifest -------------------------------------------------------------------------------

    def save_manifest(self, signed: SignedManifest) -> None:
        write_atomic(self.folder / "manifest.bin", signed.raw)

    def load_manifest(self) -> SignedManifest | None:
        """The manifest of the run whose state lies here, if there is one."""
        path = self.folder / "manifest.bin"
        try:
            raw = path.read_bytes()
            return open_manifest(raw, digest_of(raw))
        except FileNotFoundError:
            return None
        except (OSError, RemoteProtocolError, ConfigError) as error:
            raise ConfigError(str(error), str(path), "the file as it was written") from None

    # ---- who was here ---------------------------------------------------------------------------

    def save_known(self, addresses: tuple[str, ...]) -> None:
        write_atomic(self.folder / "known", "\n".join(addresses).encode())

    def load_known(self) -> tuple[str, ...]:
        path = self.folder / "known"
        return tuple(path.read_text().split()) if path.exists() else ()

    # ---- the volunteer's pause ------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        return (self.folder / "paused").exists()

    def save_paused(self, on: bool) -> None:
        """Remember, over restarts too, whether this peer is to rest."""
        if on:
            write_atomic(self.folder / "paused", b"")
        else:
            (self.folder / "paused").unlink(missing_ok=True)
            flush_folder(self.folder)

    # ---- ledger and promises --------------------------------------------------------------------

    def load_ledger(self, signed: SignedManifest, signer: Signer) -> Ledger:
        """Read and verify the ledger; what a crash tore off at the end is cut away."""
        path = self.folder / "ledger.log"
        try:
            ledger, good = _ledger(self.folder, signed, signer)
        except RemoteProtocolError as error:
            raise ConfigError(str(error), str(path), "the ledger of this run") from None
        self._log = path.open("ab")
        self._log.truncate(good)
        os.fsync(self._log.fileno())
        return ledger

    def load_saved(self, ledger: Ledger) -> Saved:
        """What was promised, accepted and proposed in the round after the ledger; nothing if the file is of
        another round."""
        path, round_ = self.folder / "round.json", ledger.height + 1
        if not path.exists():
            return Saved()
        try:
            kept = json.loads(path.read_bytes())
            evidence = saved_rounds.evidence(kept)
            if kept["round"] != round_:
                return Saved(evidence=evidence)
            return Saved(
                (round_, kept["promised"]),
                _voted(ledger, kept["accepted"]),
                _voted(ledger, kept["proposed"]),
                saved_rounds.certificate(kept),
                saved_rounds.prepared(kept),
                evidence,
            )
        except (ValueError, KeyError, TypeError, RemoteProtocolError) as error:
            raise ConfigError(f"damaged: {error}", str(path), "the file as it was written") from None

    def persist(self, record: a.Record, saved: Saved) -> None:
        """Bring one record to disk; `saved` is all that the peer has saved of its round."""
        match record:
            case a.Committed():
                self._append(record.commit)
            case a.Rewound():
                self._rewind(record.round)
            case a.Rebased():
                raw = snapshot_to_wire(record.snapshot).SerializeToString()
                write_atomic(self.folder / "snapshot.bin", raw)
                self._rewrite(record.kept)
            case _:
                self._save_round(record.round, saved)

    def _save_round(self, round_: int, saved: Saved) -> None:
        kept: dict[str, Any] = {
            "round": round_,
            "promised": saved.promised[1] if saved.promised[0] == round_ else 0,
        }
        for name, voted in (("accepted", saved.accepted), ("proposed", saved.proposed)):
            here = voted if voted is not None and voted[0] == round_ else None
            kept[name] = here and {"view": here[1], "body": here[2].encoded.hex()}
        kept |= saved_rounds.proofs(round_, saved)
        write_atomic(self.folder / "round.json", json.dumps(kept).encode())

    def _append(self, commit: Commit) -> None:
        self._log.write(_record(commit_to_wire(commit).SerializeToString()))
        self._log.flush()
        os.fsync(self._log.fileno())

    def _rewind(self, round_: int) -> None:
        """Cut the log before a round, after the states that followed from it: whoever starts has no other."""
        for state in self.states():
            if state.round >= round_:
                state.path.unlink(missing_ok=True)
        kept = 0
        for end, record in _records((self.folder / "ledger.log").read_bytes()):
            if round_of(record) >= round_:
                break
            kept = end
        self._log.truncate(kept)
        os.fsync(self._log.fileno())

    def _rewrite(self, commits: tuple[Commit, ...]) -> None:
        """The log anew, with these commits only."""
        path = self.folder / "ledger.log"
        write_atomic(path, b"".join(_record(commit_to_wire(c).SerializeToString()) for c in commits))
        self._log.close()
        self._log = path.open("ab")

    # ---- results --------------------------------------------------------------------------------

    def save_result(self, round_: int, ref: BlobRef, data: bytes | memoryview) -> None:
        path = self.folder / "results" / f"{round_}-{ref.digest}"
        if not path.exists():
            write_atomic(path, data)

    def results(self) -> Iterator[tuple[int, BlobRef, Path]]:
        """Every result on disk. Their digests are checked by whoever reads them."""
        for path in sorted((self.folder / "results").iterdir()):
            round_, _, digest = path.name.partition("-")
            if path.suffix == ".tmp" or not round_.isdigit():
                path.unlink()
            else:
                yield int(round_), BlobRef(Digest(digest), path.stat().st_size), path

    def forget_results(self, before_round: int) -> None:
        for round_, _, path in list(self.results()):
            if round_ < before_round:
                path.unlink(missing_ok=True)

    def aside(self, data: memoryview) -> memoryview:
        """The same bytes in a file without a name, mapped: the system may take their memory back.

        They live as long as the view, and not beyond this process.
        """
        with tempfile.TemporaryFile(dir=self.folder) as file:
            file.write(data)
            file.flush()
            pages = mmap.mmap(file.fileno(), len(data), access=mmap.ACCESS_READ)
        return memoryview(pages)

    # ---- states ---------------------------------------------------------------------------------

    def save_state(self, round_: int, run_id: str, anchor: torch.Tensor, momentum: torch.Tensor) -> None:
        """Keep a whole state, and of the older ones the newest."""
        self.keep_state(self.draft_state(round_, run_id, anchor, momentum))

    def draft_state(self, round_: int, run_id: str, anchor: torch.Tensor, momentum: torch.Tensor) -> Draft:
        """Write a whole state: at once, from tensors that stay in use."""
        about = {"run": run_id, "round": str(round_)}
        tensors = {"anchor": [anchor], "momentum": [momentum]}
        return draft(self.folder / f"state-{round_}.safetensors", "new", tensors, about)

    def keep_state(self, state: Draft) -> None:
        """Bring it to disk, and drop the older ones but the newest."""
        keep(state)
        flush_folder(self.folder)
        for old in self.states()[self.states_kept :]:
            old.path.unlink(missing_ok=True)

    def states(self) -> list[StateFile]:
        """The states on disk, newest first; files that cannot be read are passed over."""
        found = []
        for path in self.folder.glob("state-*.safetensors"):
            with contextlib.suppress(ValueError, OSError, KeyError):
                found.append(StateFile(path, int(path.stem.partition("-")[2]), _offsets(path)))
        return sorted(found, key=lambda state: -state.round)

    def draft_local(self, round_: int, residuals: Sequence[torch.Tensor]) -> Draft:
        """Write the residual, as the vectors that it consists of."""
        path = self.folder / "local.safetensors"
        return draft(path, str(round_), {"residual": residuals}, {"round": str(round_)})

    def keep_local(self, residual: Draft) -> None:
        keep(residual)
        flush_folder(self.folder)

    def load_local(self, round_: int) -> torch.Tensor | None:
        """The residual as it was after `round_`, or None if another or none is kept."""
        path = self.folder / "local.safetensors"
        try:
            with safetensors.safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
                return file.get_tensor("residual") if file.metadata()["round"] == str(round_) else None
        except (OSError, KeyError, safetensors.SafetensorError):
            return None


def load_state(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Anchor and momentum, fp32, of a state file; ConfigError if it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            return file.get_tensor("anchor"), file.get_tensor("momentum")
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(str(error), str(path), "a state as atoll wrote it") from None


def read_ledger(folder: Path, signer: Signer) -> Ledger:
    """The ledger in a state directory, verified, also while a node runs in it.

    Raises OSError where no manifest lies, RemoteProtocolError for what is not its run's.
    """
    raw = (folder / "manifest.bin").read_bytes()
    return _ledger(folder, open_manifest(raw, digest_of(raw)), signer)[0]


def _ledger(folder: Path, signed: SignedManifest, signer: Signer) -> tuple[Ledger, int]:
    """The ledger as far as it is whole, and where its log ends."""
    log, base = folder / "ledger.log", folder / "snapshot.bin"
    ledger, good = Ledger(signed.genesis), 0
    if base.exists():
        snapshot = snapshot_from_bytes(base.read_bytes())
        ledger.check_snapshot(snapshot, signer)
        ledger.rebase(snapshot)
    for end, record in _records(log.read_bytes() if log.exists() else b""):
        with contextlib.suppress(UnknownParent):  # from before the snapshot
            commit = commit_from_bytes(record, ledger.members_after)
            if commit.body.round > ledger.height:
                ledger.append(commit, signer)
        good = end
    return ledger, good


def _records(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole records at the beginning of a log, each with where it ends."""
    at = 0
    while at + _RECORD.size <= len(raw):
        size, digest = _RECORD.unpack_from(raw, at)
        record = raw[at + _RECORD.size : at + _RECORD.size + size]
        if len(record) < size or hashlib.sha256(record).digest() != digest:
            return
        at += _RECORD.size + size
        yield at, record


def _record(raw: bytes) -> bytes:
    return _RECORD.pack(len(raw), hashlib.sha256(raw).digest()) + raw


def _voted(ledger: Ledger, kept: dict[str, Any] | None) -> tuple[int, int, Body] | None:
    """A body that was accepted or proposed; None if it follows a history that is no more."""
    if kept is None:
        return None
    with contextlib.suppress(UnknownParent):
        body = body_from_bytes(bytes.fromhex(kept["body"]), ledger.members_after)
        return (ledger.height + 1, int(kept["view"]), body)
    return None


def _offsets(path: Path) -> tuple[int, ...]:
    """Where anchor and momentum begin in a safetensors file. (safetensors format)"""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > 1 << 20:
            raise ValueError("not a state file")
        header = json.loads(file.read(size))
    return tuple(8 + size + int(header[name]["data_offsets"][0]) for name in ("anchor", "momentum"))
