"""A trained vector as a folder that `transformers` loads, put in place in one rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from atoll.protocol.errors import ConfigError
from atoll.workload import model as models
from atoll.workload import tokens as token_sets
from atoll.workload import vector
from atoll.workload.config import ModelConfig
from atoll.workload.inner_state import flush_folder

Order = Callable[[Sequence[tuple[str, tuple[int, ...]]]], Sequence[str]]


def export(
    flat_vector: torch.Tensor, model_config: ModelConfig, folder: Path, order: Order = lambda named: ()
) -> None:
    """Write config.json, model.safetensors and the tokenizer; the weights are the vector's, bit for bit.

    `flat_vector` is fp32, 1-D, in the order of vector.py; `order` tells another for these names and shapes.
    Raises ConfigError if `folder` holds something or cannot be written; then nothing is left behind.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError("this folder is not empty", str(folder), "the name of a new folder")
    model = models.build(model_config)
    named = [(slot.name, slot.shape) for slot in vector.slots(model)]
    vector.load(model, flat_vector, order(named))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            model.save_pretrained(str(beside))
            token_sets.load(model_config.tokenizer, model_config.tokenizer_sha256).save_pretrained(beside)
            _settle(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write: {error.strerror or error}", str(folder), "a writable place"
        ) from error


def _settle(beside: Path, folder: Path) -> None:
    """Flush every file, give the folder its usual mode, and rename it into place."""
    for path in beside.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    beside.chmod(0o755)
    os.replace(beside, folder)
    flush_folder(folder.parent)
