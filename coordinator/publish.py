"""Make a run out of a RUN.toml, once: keys, first anchor, signed manifest; and recognise it afterwards.

Everything lies in the coordinator's state directory. The manifest is written last, so a directory with a
manifest has all the rest, and a start that was interrupted before is simply made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.coordinator.first_state import FirstState, first_state, write
from atoll.coordinator.runfile import RunFile
from atoll.node.disk import Disk
from atoll.node.exchange_rules import check_outer_known
from atoll.node.identity import load_key, load_or_create, save_key
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import PeerId, digest_of
from atoll.protocol.invite import Invite, bootstrap_addresses
from atoll.protocol.keys import Key
from atoll.protocol.manifest import (
    Assignment,
    Manifest,
    MembershipRules,
    SignedManifest,
    open_manifest,
    sign,
)
from atoll.workload.config import InnerConfig

AUTHORITY_FILE = "authority.key"
SECRET_FILE = "invite.secret"
MANIFEST_FILE = "manifest.bin"
INVITE_FILE = "invite"

_SECTIONS = {("rounds", "rounds"): "[run] rounds", ("name",): "[run] name"}


@dataclass(frozen=True, slots=True)
class Published:
    """A run as it lies in `state_dir`. `secret` is empty unless the policy asks for one.

    `authority` signs recoveries and snapshots.
    """

    state_dir: Path
    signed: SignedManifest
    resumed: bool
    authority: Key = field(repr=False)
    secret: bytes = field(default=b"", repr=False)


def publish(run: RunFile, state_dir: Path) -> Published:
    """Publish the run, or resume it if `state_dir` already holds it. Raises ConfigError.

    Model and data are tried before anything is written: a run that cannot train leaves no trace.
    """
    check_outer_known(run.outer, f"{run.path}: [outer]")
    if (state_dir / MANIFEST_FILE).exists():
        return _resume(run, state_dir)
    state = first_state(run)
    try:
        witness = load_or_create(state_dir).peer
        authority, secret = _authority(state_dir), _secret(run, state_dir)
        signed = _signed(_manifest(run, state, authority.peer, witness, _public(secret)), authority)
        with contextlib.closing(Disk(state_dir)) as disk:
            write(state, disk, signed.run_id)
            disk.save_manifest(signed)
    except OSError as error:
        right = "a folder that this user can write, with room"
        raise ConfigError(f"cannot write: {error.strerror or error}", str(state_dir), right) from None
    return Published(state_dir, signed, False, authority, secret)


def make_invite(published: Published, multiaddrs: list[str], now_unix: float, expires_hours: float) -> Invite:
    """The invite into this run for whoever can reach one of `multiaddrs`. Raises ConfigError if none fits."""
    bootstrap = bootstrap_addresses(multiaddrs)
    if not bootstrap:
        raise ConfigError(
            f"no address of {multiaddrs} fits in an invite",
            "[coordinator] dht_listen",
            '"/ip4/…/tcp/…" or "/ip6/…/tcp/…"',
        )
    expires = int(now_unix + expires_hours * 3600) if expires_hours else None
    return Invite(published.signed.run_id, bootstrap, len(published.signed.raw), published.secret, expires)


def _signed(manifest: Manifest, authority: Key) -> SignedManifest:
    """Signed, and read back as every peer will read it: tuples are lists by then, and so on."""
    signed = sign(manifest, authority)
    return open_manifest(signed.raw, signed.run_id)


def _manifest(run: RunFile, state: FirstState, authority: PeerId, witness: PeerId, token: str) -> Manifest:
    steps = run.inner.steps
    return Manifest(
        name=run.name,
        authority=authority,
        numel=state.numel,
        anchor_blobs=state.blobs,
        assignment=Assignment(steps, steps * run.inner.batch_sequences * run.data.sequence_tokens),
        rounds=run.rules,
        outer=run.outer,
        membership=MembershipRules(run.membership.policy, (witness,), run.membership.allow, token),
        model=dataclasses.asdict(state.model),
        data=dataclasses.asdict(run.data),
        inner=_inner(run.inner),
        audit=run.audit,
    )


def _inner(inner: InnerConfig) -> dict[str, Any]:
    """All keys but a later one that says nothing new: a run that was signed before it came stays the same."""
    said = dataclasses.asdict(inner)
    if inner.state == InnerConfig().state:
        del said["state"]
    return said


# ---- secrets --------------------------------------------------------------------------------------


def _authority(state_dir: Path) -> Key:
    path = state_dir / AUTHORITY_FILE
    if not path.exists():
        save_key(path, Key.generate())
    return load_key(path)


def _secret(run: RunFile, state_dir: Path) -> bytes:
    path = state_dir / SECRET_FILE
    if run.membership.policy != "token":
        return b""
    if not path.exists():
        save_key(path, Key.generate())
    return load_key(path).seed


def _public(secret: bytes) -> str:
    return Key(secret).public.hex() if secret else ""


# ---- starting again -------------------------------------------------------------------------------


def _resume(run: RunFile, state_dir: Path) -> Published:
    signed = _stored(state_dir)
    exists = (state_dir / AUTHORITY_FILE).exists()
    authority = _authority(state_dir) if exists else None
    if authority is None or authority.peer != signed.manifest.authority:
        raise ConfigError("not the key that signed this run", str(state_dir / AUTHORITY_FILE), "restore it")
    witness = load_or_create(state_dir).peer
    secret = _kept_secret(signed.manifest, state_dir)
    state = FirstState.published(run, signed.manifest)
    now = _manifest(
        run,
        state,
        PeerId(signed.manifest.authority),
        witness,
        signed.manifest.membership.token_key,
    )
    changes = list(_changes(signed.manifest, now))
    if changes:
        more = f", and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise ConfigError(
            f"{changes[0]}{more}",
            str(run.path),
            f"a signed run cannot change: undo that, or start a new run with --state and a new folder, "
            f"not {state_dir}",
        )
    return Published(state_dir, signed, True, authority, secret)


def _stored(state_dir: Path) -> SignedManifest:
    path = state_dir / MANIFEST_FILE
    right = "restore it, or start a new run with --state and a new folder"
    try:
        raw = path.read_bytes()
        return open_manifest(raw, digest_of(raw))
    except OSError as error:
        raise ConfigError(f"cannot read it: {error.strerror}", str(path), right) from None
    except (RemoteProtocolError, ConfigError) as error:
        raise ConfigError(str(error), str(path), right) from None


def _kept_secret(manifest: Manifest, state_dir: Path) -> bytes:
    if manifest.membership.policy != "token":
        return b""
    secret = load_key(state_dir / SECRET_FILE).seed
    if _public(secret) != manifest.membership.token_key:
        raise ConfigError("not the secret of this run", str(state_dir / SECRET_FILE), "restore it")
    return secret


def _changes(was: Manifest, now: Manifest) -> Iterator[str]:
    """What differs, in words; what is only derived (the assignment) is left out."""
    before, after = (dict(_leaves(json.loads(manifest.to_json()))) for manifest in (was, now))
    for place in sorted(before.keys() | after.keys()):
        if place[0] == "assignment" or before.get(place) == after.get(place):
            continue
        name = _SECTIONS.get(place) or f"[{'.'.join(place[:-1])}] {place[-1]}"
        yield f"{name} is {_shown(after, place)}, but this run was signed with {_shown(before, place)}"


def _shown(values: Mapping[tuple[str, ...], Any], place: tuple[str, ...]) -> str:
    return repr(values[place])[:80] if place in values else "left out"


def _leaves(value: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, content in value.items():
        if isinstance(content, Mapping):
            yield from _leaves(content, (*place, key))
        else:
            yield (*place, key), content
