"""Loops compiled to machine code by numba: one pass over memory where numpy would make five.

A kernel is a top-level function over numpy arrays with explicit loops. Its rules, so that equal inputs give
equal bits on every machine:

* No `fastmath`: without it LLVM neither contracts a product and a sum into one fused operation nor reorders a
  sum, whatever the instruction set.
* Constants are fp32 objects (`np.float32(127)`): a bare Python number would make the arithmetic fp64.
* Sums are fp64 in an order that is written down, see `sums`. Largest magnitudes are integer maxima, for
  which no order matters.
* A NaN never becomes an integer or an index: codecs look at `largest` before they convert.

Kernels index without bounds checks; whoever calls one has compared all sizes before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]


class Kernel(Generic[P, R]):
    """A function that numba compiles at its first call, then keeps for later processes.

    The first call and not the definition, since importing numba takes half a second and many commands name
    a codec without running it. Compiled code lies in `__pycache__` beside the source, or in the user's cache
    folder where that cannot be written (`NUMBA_CACHE_DIR` chooses another). Kernels may call kernels. Code is
    compiled anew when the kernel's own file or the processor changes: after an edit to a constant or a
    kernel that other files use, delete it.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self._function = function
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._compiled(*args, **kwargs)

    @cached_property
    def _compiled(self) -> Callable[P, R]:
        try:
            return _compile(self._function, cache=True)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
        return _compile(self._function, cache=False)  # no folder can be written: anew in each process

    @property
    def _numba_type_(self) -> Any:
        """How numba sees a kernel that another one calls."""
        return self._compiled._numba_type_  # type: ignore[attr-defined]


def _compile(function: Callable[P, R], cache: bool) -> Callable[P, R]:
    from numba import njit  # half a second, for those who run a kernel

    compiled: Callable[P, R] = njit(cache=cache, nogil=True, error_model="numpy")(function)
    return compiled


def kernel(function: Callable[P, R]) -> Kernel[P, R]:
    """Compile `function` when it is first called, for good."""
    return Kernel(function)


@kernel
def largest(words: Words) -> int:
    """The largest magnitude among fp32 numbers given as their bits, as bits: 0 of none.

    Magnitudes order like their bits, infinity above all numbers and NaN above infinity.
    """
    most = np.uint32(0)
    for place in range(words.size):
        most = max(most, np.uint32(words[place] & np.uint32(0x7FFFFFFF)))
    return int(most)


@kernel
def contains(codes: Bytes, code: int) -> bool:
    """Whether one of `codes` is `code`."""
    found = np.uint8(0)
    for place in range(codes.size):
        found |= np.uint8(codes[place] == code)
    return bool(found != 0)
