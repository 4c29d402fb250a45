"""Large libraries imported while the collector of cycles rests: a node is up in two thirds of the time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import within this. Modules make a million objects that stay, and the collector would go through them
    again and again, in vain: so it rests meanwhile, and afterwards leaves them out for good.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
