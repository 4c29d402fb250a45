"""Files of tensors in the safetensors format, written from tensors in use, and kept in one rename.

`draft` writes at memory's speed (the system's cache takes the bytes) while nothing changes the tensors, and
needs no copy of them. `keep` then waits for the disk, whatever the tensors have become.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ALIGNED_BYTES = 8


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that is written but has neither its name yet nor reached the disk."""

    written: Path
    path: Path


def draft(
    path: Path, name: str, tensors: Mapping[str, Sequence[torch.Tensor]], about: dict[str, str]
) -> Draft:
    """Write flat fp32 tensors, each given as the vectors that it consists of. `name` tells drafts of one file
    apart. Raises OSError."""
    made = Draft(path.with_name(f"{path.name}.{name}.tmp"), path)
    try:
        with made.written.open("wb") as file:
            file.write(_header(tensors, about))
            for vectors in tensors.values():
                for vector in vectors:
                    file.write(vector.numpy().astype("<f4", copy=False).data)
    except BaseException:
        made.written.unlink(missing_ok=True)
        raise
    return made


def keep(made: Draft) -> None:
    """Bring a draft to disk under its name. Raises OSError."""
    try:
        with made.written.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(made.written, made.path)
    finally:
        made.written.unlink(missing_ok=True)


def _header(tensors: Mapping[str, Sequence[torch.Tensor]], about: dict[str, str]) -> bytes:
    """The format's own: the length of a JSON object, padded with spaces, that says where each tensor lies."""
    told: dict[str, object] = {"__metadata__": about}
    end = 0
    for name, vectors in tensors.items():
        numel = sum(vector.numel() for vector in vectors)
        told[name] = {"dtype": "F32", "shape": [numel], "data_offsets": [end, end + 4 * numel]}
        end += 4 * numel
    raw = json.dumps(told, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % ALIGNED_BYTES)
    return len(raw).to_bytes(8, "little") + raw
