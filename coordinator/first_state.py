"""The first state of a run: the model's first parameters as the anchor, and a momentum of zeros.

It is published as blobs, never as a seed: one seed draws different numbers on different instruction sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from atoll.coordinator.runfile import RunFile
from atoll.node.arrangement import arranged
from atoll.node.disk import Disk
from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import BlobRef, Digest, digest_of
from atoll.protocol.manifest import Manifest
from atoll.workload import model as models
from atoll.workload import tokens as token_sets
from atoll.workload import vector
from atoll.workload.config import ModelConfig
from atoll.workload.data import Corpus


@dataclass(frozen=True, slots=True)
class FirstState:
    """`model` is what the manifest says about the model: complete without a checkpoint's folder.

    `vectors` are anchor and momentum, fp32 and flat; None once the run is published, when only their
    digests matter.
    """

    model: ModelConfig
    numel: int
    blobs: tuple[BlobRef, ...]
    vectors: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def published(cls, run: RunFile, manifest: Manifest) -> FirstState:
        """That of a run already signed, with the model that RUN.toml describes now."""
        return cls(models.resolve(run.model, f"{run.path}: [model]"), manifest.numel, manifest.anchor_blobs)


def first_state(run: RunFile) -> FirstState:
    """Build the model and look at the data. Raises ConfigError for what no peer could train."""
    where_model, where_data = f"{run.path}: [model]", f"{run.path}: [data]"
    model = models.build(run.model, where_model)
    models.check_sequence(model.config, run.data.sequence_tokens, where_data)
    resolved = models.resolve(run.model, where_model)
    Corpus.load(run.data, token_sets.load(resolved.tokenizer, resolved.tokenizer_sha256), where_data)
    named = [(slot.name, slot.shape) for slot in vector.slots(model)]
    where_rounds = f"{run.path}: [rounds]"
    order, pieces = arranged(named, run.rules.fragments, run.rules.partition, where_rounds)
    anchor = torch.empty(vector.numel(model), dtype=torch.float32)
    vector.write(model, anchor, order)
    momentum = torch.zeros_like(anchor)
    blobs = tuple(_blob(flat[piece]) for piece in pieces for flat in (anchor, momentum))
    return FirstState(resolved, anchor.numel(), blobs, (anchor, momentum))


def write(state: FirstState, disk: Disk, run_id: Digest) -> None:
    """Save it as the state of round 0. Raises ConfigError if there is no room."""
    assert state.vectors is not None
    try:
        disk.save_state(0, run_id, *state.vectors)
    except OSError as error:
        what = f"cannot write: {error.strerror or error}"
        raise ConfigError(what, str(disk.folder), "a folder with room") from None


def _blob(flat: torch.Tensor) -> BlobRef:
    raw = memoryview(flat.numpy().astype("<f4", copy=False)).cast("B")
    return BlobRef(digest_of(raw), len(raw))
