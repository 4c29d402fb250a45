"""Flat fp32 vectors that the daemon and its trainer both map into memory.

The memory has no name: it is an anonymous file, handed to the child by descriptor. Whatever kills the two
processes, the kernel frees it; nothing is left in /dev/shm.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile

import torch

ELEMENT_BYTES = 4


def anonymous_file(name: str) -> int:
    """Open an empty file that no path names. `name` shows in /proc only."""
    if sys.platform == "linux":
        return os.memfd_create(f"atoll {name}")
    with tempfile.TemporaryFile(prefix="atoll-") as file:
        return os.dup(file.fileno())


def grow(descriptor: int, numel: int) -> None:
    """Give the file room for `numel` elements now. Raises OSError: a later lack would kill with SIGBUS."""
    os.ftruncate(descriptor, numel * ELEMENT_BYTES)
    if sys.platform == "linux":
        os.posix_fallocate(descriptor, 0, numel * ELEMENT_BYTES)


def tensor(descriptor: int, numel: int) -> torch.Tensor:
    """Map the file as an fp32 tensor [numel]. The memory lives as long as the tensor, in each process."""
    assert os.fstat(descriptor).st_size == numel * ELEMENT_BYTES > 0
    return torch.frombuffer(mmap.mmap(descriptor, numel * ELEMENT_BYTES), dtype=torch.float32)
