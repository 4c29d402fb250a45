"""Loops over elements as machine code: one decorator, so that every kernel is compiled under the same rules.

A compiled loop reads a vector once where a chain of numpy operations reads it once for each. The rules:
no fast-math, so that LLVM keeps the order of operations and fuses none (`a * b + c` rounds twice, as in
numpy, and bits are equal everywhere); the lock of the interpreter is let go, so that several parts can be
worked on at once; division is numpy's (by zero gives infinity or NaN, no exception); machine code is kept
on disk where a folder for it can be written. No bounds are checked: a kernel that reads a peer's bytes
must validate an index before it uses it. (numba, Lam et al. 2015)

numba is imported when a kernel is first called. It costs half a second and 60 MB, which who only looks at a
run never pays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Kernel(Generic[P, R]):
    """A function that is compiled when it is first called. `plain` is the function as it was written."""

    def __init__(self, plain: Callable[P, R]) -> None:
        update_wrapper(self, plain)
        self.plain = plain

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self._fast(*args, **kwargs)
        return result

    @cached_property
    def _fast(self) -> Any:
        import numba

        compile_ = numba.njit(nogil=True, error_model="numpy")
        try:
            fast = compile_(self.plain)
            fast.enable_caching()
        except RuntimeError:  # numba's way to say that neither source folder nor home can be written
            fast = compile_(self.plain)
        return fast

    @property
    def _numba_type_(self) -> Any:
        """What numba asks an object that a compiled function names: so kernels can call kernels."""
        return self._fast._numba_type_


def compiled(function: Callable[P, R]) -> Kernel[P, R]:
    """Compile `function` when it is first called. Its arguments are numbers and numpy arrays.

    A kernel may call kernels. Machine code on disk is renewed when the kernel's own file changes: after an
    edit to a constant or a kernel that other modules use, delete `__pycache__`.
    """
    return Kernel(function)
