"""An inner optimizer's state on disk: safetensors with a digest, replaced in one rename.

A peer that restarts goes on with its own moments. The file never holds code (no pickle), is never half
written, and a damaged one is told apart from a good one.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from atoll.protocol.errors import ConfigError
from atoll.workload.optimizers import InnerOptimizer

FORMAT = "atoll inner state 2"
ANOTHER = "this inner state is another model's"
START_OVER = "delete it: the moments then start from zero"

KEYS = {
    "AdamW": ("step", "exp_avg", "exp_avg_sq"),
    "Muon": ("momentum_buffer",),
    "AdamWScheduleFree": ("z", "exp_avg_sq"),
}
"""What each torch optimizer keeps of a parameter, by its class. Schedule-Free's z is z - x between rounds."""

GROUP_KEYS = ("k", "weight_sum", "lr_max")
"""What Schedule-Free keeps of a group: fp64, so that counts and sums are exact."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Copied:
    """An optimizer's state in memory of its own, on the CPU, by the names that the file gives it."""

    optimizer: str
    tensors: Tensors


def copied(optimizer: InnerOptimizer, model: nn.Module) -> Copied:
    """Copy the state of every parameter that has some: training may go on while the copy is written."""
    tensors: Tensors = {}
    for name, parameter, part in _owned(optimizer, model):
        state = part.state.get(parameter, {})
        for key in KEYS[type(part).__name__]:
            if key in state:
                tensors[f"{key}:{name}"] = state[key].detach().to("cpu", copy=True).contiguous()
    for place, part in enumerate(optimizer.parts):
        if rows := _sums(part):
            tensors[f"groups:{place}"] = torch.tensor(rows, dtype=torch.float64)
    return Copied(optimizer.name, tensors)


def write(state: Copied, path: Path) -> None:
    """Replace the file by this state. Raises OSError (disk full, not writable)."""
    metadata = {"format": FORMAT, "optimizer": state.optimizer, "digest": _digest(state.tensors)}
    _replace(path, lambda beside: save_file(state.tensors, beside, metadata))


def load(optimizer: InnerOptimizer, model: nn.Module, path: Path) -> None:
    """Put the saved state in place of the optimizer's. Raises ConfigError and then changes nothing."""
    tensors, saved_by = _read(path)
    if saved_by != optimizer.name:
        what = f"this inner state is of {saved_by!r}, the run's optimizer is {optimizer.name!r}"
        raise ConfigError(what, str(path), START_OVER)
    states: dict[Optimizer, dict[nn.Parameter, Tensors]] = {part: {} for part in optimizer.parts}
    for name, parameter, part in _owned(optimizer, model):
        if state := _state(tensors, name, parameter, KEYS[type(part).__name__], path):
            states[part][parameter] = state
    sums = {part: _taken_sums(tensors, place, part, path) for place, part in enumerate(optimizer.parts)}
    if tensors:
        raise ConfigError(ANOTHER, str(path), START_OVER)
    for part in optimizer.parts:
        part.state.clear()
        part.state.update(states[part])
        for group, (k, weight_sum, lr_max) in zip(part.param_groups, sums[part], strict=False):
            group.update(k=int(k), weight_sum=weight_sum, lr_max=lr_max)


def _owned(optimizer: InnerOptimizer, model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Optimizer]]:
    """Each trained parameter with its name and the one optimizer that trains it."""
    owner = {p: part for part in optimizer.parts for group in part.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter in owner:
            yield name, parameter, owner[parameter]


def _sums(part: Optimizer) -> list[list[float]]:
    """What a Schedule-Free optimizer has summed up, one row for each group; no row for any other."""
    summing = "weight_sum" in part.defaults
    return [[float(group[key]) for key in GROUP_KEYS] for group in part.param_groups if summing]


def _taken_sums(tensors: Tensors, place: int, part: Optimizer, path: Path) -> list[list[float]]:
    saved = tensors.pop(f"groups:{place}", None)
    rows: list[list[float]] = [] if saved is None else saved.tolist()
    if [len(row) for row in rows] != [len(row) for row in _sums(part)]:
        raise ConfigError(ANOTHER, str(path), START_OVER)
    return rows


def _state(
    tensors: Tensors, name: str, parameter: nn.Parameter, keys: tuple[str, ...], path: Path
) -> Tensors:
    """Take one parameter's state out of `tensors`; none, if it had none. AdamW counts steps on the CPU."""
    state = {key: tensors.pop(f"{key}:{name}", None) for key in keys}
    found = {key: value for key, value in state.items() if value is not None}
    shapes = {key: tuple(value.shape) for key, value in found.items()}
    if found and shapes != {key: () if key == "step" else tuple(parameter.shape) for key in keys}:
        raise ConfigError(ANOTHER, str(path), START_OVER)
    return {key: value if key == "step" else value.to(parameter.device) for key, value in found.items()}


def _read(path: Path) -> tuple[Tensors, str]:
    """The tensors, and the name of the optimizer that they are of.

    They are copied out: safetensors maps the file, and a mapping of a file that shrinks is a SIGBUS.
    """
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
    return tensors, metadata.get("optimizer", "")


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}\n".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def replace(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to the disk, and rename it into place."""
    _replace(path, lambda beside: beside.write_bytes(content))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    beside = path.with_name(path.name + ".new")
    try:
        beside.touch()  # safetensors does not say with a number why a file cannot be made
        write(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except SafetensorError as error:
        beside.unlink(missing_ok=True)
        raise OSError(errno.EIO, str(error), str(path)) from error
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
