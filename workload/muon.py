"""Muon that is as fast on a processor as it can be: torch's own, with the iteration in fp32 there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """torch's Muon, step for step; on the CPU the orthogonalisation runs in fp32 instead of bf16.

    A processor without bf16 units multiplies bf16 matrices one scalar at a time: measured 33 times slower (38
    ms against 1.2 ms for one 128 x 128 matrix). State and groups are torch's. Its steps have AdamW's
    size: orthogonal, times 0.2 sqrt(max(rows, columns)).
    (Muon, Jordan et al. 2024; the scale is Moonlight's, Liu et al. 2025)
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float, weight_decay: float, momentum: float):
        super().__init__(
            params, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(parameter.device.type != "cpu" for parameter in parameters):
            return super().step(closure)
        assert closure is None, "the inner loop gives none"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return None

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, momentum, lr = self.state[parameter], group["momentum"], group["lr"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        direction = orthogonal(gradient.lerp(average, momentum), group)
        parameter.mul_(1 - lr * group["weight_decay"])
        parameter.add_(direction, alpha=-lr * 0.2 * math.sqrt(max(parameter.shape)))


def orthogonal(matrix: Tensor, group: dict[str, Any]) -> Tensor:
    """U V^T of the matrix U S V^T, its singular values only near 1: the quintic Newton-Schulz iteration."""
    a, b, c = group["ns_coefficients"]
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
