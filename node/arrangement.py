"""The order of the parameters in a run's vectors: fragment by fragment, so that each is one piece of them.

Every peer derives the same order from the names and shapes of the model and two rules of the manifest. With
one fragment it is the model's own order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from atoll.optim.fragments import PARTITIONS, balanced
from atoll.optim.layout import Layout
from atoll.protocol.errors import ConfigError


def arranged(
    named: Iterable[tuple[str, Sequence[int]]], fragments: int, partition: str, where: str = "[rounds]"
) -> tuple[tuple[str, ...], tuple[slice, ...]]:
    """The names in order, and where each fragment lies in the vectors. `named` are names and shapes.

    ConfigError if the model has too few pieces for so many fragments.
    """
    layout = Layout.of(named)
    try:
        by = PARTITIONS[partition]
        cut = by(layout, fragments) if by is balanced else by(layout, fragments, "balanced")
    except ValueError as error:
        raise ConfigError(f"fragments = {fragments}: {error}", where, "fewer") from None
    order = [slot.name for fragment in range(fragments) for slot in layout.slots if cut.holds(fragment, slot)]
    pieces, start = [], 0
    for fragment in range(fragments):
        stop = start + cut.numel_of(fragment)
        pieces.append(slice(start, stop))
        start = stop
    return tuple(order), tuple(pieces)
