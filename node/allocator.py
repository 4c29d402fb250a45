"""What the C library's allocator keeps of memory that was freed."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Return freed memory to the system, where the C library is glibc; else it is the library's to decide.

    Once a buffer of some megabytes was freed, glibc keeps such room for the next one, up to twice as much in
    each thread: between two rounds that is bytes for each parameter. (malloc_trim(3), mallopt(3))
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
