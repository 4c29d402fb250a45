"""Ways to import large libraries that a node starts with in two thirds of the time."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import within this. Modules make a million objects that stay, and the collector of cycles would go
    through them again and again, in vain: so it rests meanwhile, and afterwards leaves them out for good.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def parts_only(package: str) -> Iterator[None]:
    """Import modules of a package within this, without what the package's `__init__` imports besides.

    hivemind's brings its averager, optimizer and experts, and scipy with them, of which a node uses nothing.
    """
    if package not in sys.modules and (spec := importlib.util.find_spec(package)) is not None:
        sys.modules[package] = importlib.util.module_from_spec(spec)
    yield
