"""AdamW's moments on disk: safetensors with a digest, replaced in one rename.

A peer that restarts goes on with its own moments. The file never holds code (no pickle), is never half
written, and a damaged one is told apart from a good one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import nn

from atoll.protocol.errors import ConfigError

FORMAT = "atoll inner state 1"
MOMENTS = ("exp_avg", "exp_avg_sq")
START_OVER = "delete it: the moments then start from zero"


def save(optimizer: torch.optim.Optimizer, model: nn.Module, path: Path) -> None:
    """Write the moments of every parameter that has some. Raises OSError (disk full, not writable)."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        for key in ("step", *MOMENTS):
            if key in state:
                tensors[f"{key}:{name}"] = state[key].detach().cpu().contiguous()
    metadata = {"format": FORMAT, "digest": _digest(tensors)}
    replace(path, to_bytes(tensors, metadata))


def load(optimizer: torch.optim.Optimizer, model: nn.Module, path: Path) -> None:
    """Put the saved moments in place of the optimiser's. Raises ConfigError and then changes nothing."""
    tensors = _read(path)
    states: dict[nn.Parameter, dict[str, torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if f"step:{name}" in tensors:
            states[parameter] = _state(tensors, name, parameter, path)
    if tensors:
        raise ConfigError("this inner state is another model's", str(path), START_OVER)
    optimizer.state.clear()
    optimizer.state.update(states)


def _state(
    tensors: dict[str, torch.Tensor], name: str, parameter: nn.Parameter, path: Path
) -> dict[str, torch.Tensor]:
    """Take one parameter's state out of `tensors`. AdamW keeps the step count on the CPU."""
    state = {key: tensors.pop(f"{key}:{name}", None) for key in ("step", *MOMENTS)}
    found = {key: value for key, value in state.items() if value is not None}
    shapes = {key: tuple(value.shape) for key, value in found.items()}
    if shapes != {"step": (), **dict.fromkeys(MOMENTS, tuple(parameter.shape))}:
        raise ConfigError("this inner state is another model's", str(path), START_OVER)
    return {key: value if key == "step" else value.to(parameter.device) for key, value in found.items()}


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Copy the tensors out: safetensors maps the file, and a mapping of a file that shrinks is a SIGBUS."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise ConfigError("no such file", str(path)) from error
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"this inner state is damaged: {error}", str(path), START_OVER) from error
    if metadata.get("format") != FORMAT or metadata.get("digest") != _digest(tensors):
        raise ConfigError("this inner state is damaged: its digest is wrong", str(path), START_OVER)
    return tensors


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}\n".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def replace(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to the disk, and rename it into place."""
    beside = path.with_name(path.name + ".new")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
