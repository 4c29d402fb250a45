"""Memory that the daemon and its trainer both map.

The memory has no name: it is an anonymous file, handed to the child by descriptor. Whatever kills the two
processes, the kernel frees it; nothing is left in /dev/shm.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import weakref

import torch

ELEMENT_BYTES, WORD_BYTES = 4, 8


def anonymous_file(name: str) -> int:
    """Open an empty file that no path names. `name` shows in /proc only."""
    if sys.platform == "linux":
        return os.memfd_create(f"atoll {name}")
    with tempfile.TemporaryFile(prefix="atoll-") as file:
        return os.dup(file.fileno())


class Memory:
    """An anonymous file as an fp32 vector [numel] and behind it some int64 words, zeros at first.

    It lives as long as a tensor that views it, in each process.
    """

    def __init__(self, descriptor: int, numel: int, words: int = 0) -> None:
        self.descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self.descriptor)
        behind = -(-numel * ELEMENT_BYTES // WORD_BYTES) * WORD_BYTES
        self._bytes = behind + words * WORD_BYTES
        if os.fstat(self.descriptor).st_size < self._bytes:
            os.ftruncate(self.descriptor, self._bytes)
        self._pages = mmap.mmap(self.descriptor, self._bytes)
        self.vector = torch.frombuffer(self._pages, dtype=torch.float32, count=numel)
        no_words = torch.zeros(0, dtype=torch.int64)
        self.words = (
            torch.frombuffer(self._pages, dtype=torch.int64, offset=behind, count=words)
            if words
            else no_words
        )

    def reserve(self, piece: slice = slice(None)) -> None:
        """Have room for this piece of the vector now. Raises OSError: a later lack would kill with SIGBUS."""
        start, stop, _ = piece.indices(self.vector.numel())
        if sys.platform == "linux" and stop > start:
            os.posix_fallocate(self.descriptor, start * ELEMENT_BYTES, (stop - start) * ELEMENT_BYTES)

    def release(self, piece: slice) -> None:
        """Give the memory of this piece back, all but pages that it shares. It may read as zeros then."""
        start, stop, _ = piece.indices(self.vector.numel())
        first = -(-start * ELEMENT_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE
        last = stop * ELEMENT_BYTES // mmap.PAGESIZE * mmap.PAGESIZE
        if sys.platform == "linux" and last > first:
            self._pages.madvise(mmap.MADV_REMOVE, first, last - first)
