"""`atoll export`: the newest saved anchor as a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli import places
from atoll.cli.options import StateOption
from atoll.protocol.errors import ConfigError, RemoteProtocolError

if TYPE_CHECKING:
    import torch

    from atoll.protocol.manifest import Manifest

ATTEMPTS = 5
"""A running daemon removes old states: one that was listed may be gone when it is read."""


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.", show_default=False)],
    state: StateOption = None,
) -> None:
    """Write the model of the newest saved round as a transformers checkpoint.

    Works while the daemon runs and after it. The folder then loads with
    AutoModelForCausalLM.from_pretrained and AutoTokenizer.from_pretrained.
    """
    state_dir = places.chosen(state)
    if state_dir is None:
        raise ConfigError("there is nothing to export", str(places.root()), "--state with a daemon's folder")
    round_ = export_newest(state_dir, folder)
    typer.echo(f"{folder}: the model after round {round_}")


def export_newest(state_dir: Path, folder: Path) -> int:
    """Export the newest state in `state_dir`; its round. Raises ConfigError."""
    from atoll.node.arrangement import arranged
    from atoll.workload.config import ModelConfig
    from atoll.workload.export import export as write

    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError("this folder is not empty", str(folder), "the name of a new folder")
    manifest = read_manifest(state_dir)
    round_, anchor = _newest(state_dir, manifest)
    model = ModelConfig.from_mapping(manifest.model, f"{state_dir}: manifest: model")
    rules = manifest.rounds
    write(anchor, model, folder, lambda named: arranged(named, rules.fragments, rules.partition)[0])
    return round_


def read_manifest(state_dir: Path) -> Manifest:
    """The manifest of the run in a state folder. Raises ConfigError."""
    from atoll.protocol.ids import digest_of
    from atoll.protocol.manifest import open_manifest

    path = state_dir / "manifest.bin"
    try:
        raw = path.read_bytes()
        return open_manifest(raw, digest_of(raw)).manifest
    except OSError as error:
        raise ConfigError(
            f"no run here: {error.strerror}", str(path), "--state with a daemon's folder"
        ) from None
    except RemoteProtocolError as error:
        raise ConfigError(str(error), str(path), "the file as it was written") from None


def _newest(state_dir: Path, manifest: Manifest) -> tuple[int, torch.Tensor]:
    """Round and anchor of the newest state that can be read and belongs to this run."""
    from atoll.node.disk import load_state

    reason = "there is no saved state"
    for _ in range(ATTEMPTS):
        for round_, path in places.states(state_dir):
            try:
                anchor, _ = load_state(path)
            except ConfigError as error:
                reason = str(error)
                continue
            if anchor.numel() == manifest.numel:
                return round_, anchor
            reason = f"{path.name} has {anchor.numel()} parameters, the run has {manifest.numel}"
    raise ConfigError(reason, str(state_dir), "a daemon saves a state after every round")
