"""Where each parameter of a model lies in one flat fp32 vector.

Everything outside the worker (anchor, pseudo-gradient, residual, parts, payloads) is that vector. Peers
agree on it because the order is the model's own order of parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from atoll.optim.flat import floats


@dataclass(frozen=True, slots=True)
class Slot:
    """One parameter: elements [offset, offset + numel) of the vector, row-major in `shape`."""

    name: str
    shape: tuple[int, ...]
    offset: int
    numel: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The ordered slots of a model, without gaps.

    Tied weights must come once: that is the caller's duty. `model.named_parameters()` does it; a state
    dict does not, and a tied weight that came twice would be averaged and moved twice.
    """

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, named: Iterable[tuple[str, Sequence[int]]]) -> Layout:
        """Slots in the order given. Raises ValueError on a name given twice or a negative size."""
        slots: list[Slot] = []
        seen: set[str] = set()
        offset = 0
        for name, sizes in named:
            shape = tuple(int(size) for size in sizes)
            if name in seen:
                raise ValueError(f"parameter {name!r} is given twice")
            if min(shape, default=0) < 0:
                raise ValueError(f"parameter {name!r} has a negative size: {list(shape)}")
            seen.add(name)
            slots.append(Slot(name, shape, offset, prod(shape)))
            offset += slots[-1].numel
        return cls(tuple(slots))

    @property
    def numel(self) -> int:
        """Elements of the whole vector."""
        return self.slots[-1].offset + self.slots[-1].numel if self.slots else 0

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parameters as views into `flat` (fp32 [numel], CPU). Raises ValueError if it is not that."""
        floats("flat", flat, self.numel)
        return {slot.name: _view(flat, slot) for slot in self.slots}

    def gather(self, named: Iterable[tuple[str, Tensor]], out: Tensor | None = None) -> Tensor:
        """Copy a model's parameters (any dtype and device) into `out`, fp32 [numel], and return it.

        Raises ValueError if names, order or shapes are not the layout's, or `out` is not fp32 [numel].
        """
        flat = torch.empty(self.numel) if out is None else out
        floats("out", flat, self.numel)
        with torch.no_grad():
            for slot, tensor in self._matched(named):
                _view(flat, slot).copy_(tensor)
        return flat

    def scatter(self, flat: Tensor, named: Iterable[tuple[str, Tensor]]) -> None:
        """Copy `flat` (fp32 [numel], CPU) into a model's parameters, rounding to their dtype.

        Raises ValueError if names, order or shapes are not the layout's, or `flat` is not fp32 [numel].
        """
        floats("flat", flat, self.numel)
        with torch.no_grad():
            for slot, tensor in self._matched(named):
                tensor.copy_(_view(flat, slot))

    def _matched(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[Slot, Tensor]]:
        """Pair slots and tensors; every pair is checked before the first is used."""
        tensors = list(named)
        given = [(name, tuple(tensor.shape)) for name, tensor in tensors]
        for slot, (name, shape) in zip(self.slots, given, strict=False):
            if (slot.name, slot.shape) != (name, shape):
                expected = f"{slot.name!r} {list(slot.shape)}"
                raise ValueError(f"the layout has {expected} where the model has {name!r} {list(shape)}")
        if len(given) != len(self.slots):
            raise ValueError(f"the layout has {len(self.slots)} parameters, the model {len(given)}")
        return ((slot, tensor) for slot, (_, tensor) in zip(self.slots, tensors, strict=True))


def _view(flat: Tensor, slot: Slot) -> Tensor:
    return flat[slot.offset : slot.offset + slot.numel].view(slot.shape)
