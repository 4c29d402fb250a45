"""What an outer step must know of Schedule-Free inner optimizers, told by their `train` and `eval` methods.

While they train the parameters hold y, where gradients are taken; what is evaluated, averaged and synced is
x, and a third point z is in the state. (Schedule-Free, Defazio et al. 2024; package `schedulefree`)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def averages(optimizer: Optimizer) -> bool:
    """Whether it keeps such an average."""
    return callable(getattr(optimizer, "eval", None)) and callable(getattr(optimizer, "train", None))


@contextmanager
def averages_in_place(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """x in the parameters meanwhile, y again after it; nothing for any other optimizer."""
    turned: list[Any] = [
        each for each in optimizers if averages(each) and each.param_groups[0].get("train_mode")
    ]
    for each in turned:
        each.eval()
    try:
        yield
    finally:
        for each in turned:
            each.train()


def move_z(averaging: Sequence[Optimizer], parameter: Tensor, moved: Tensor) -> None:
    """Move z as far as a sync moved x, so that what the average is made of goes on."""
    for each in averaging:
        if parameter in each.state and "z" in each.state[parameter]:
            each.state[parameter]["z"].add_(moved)
