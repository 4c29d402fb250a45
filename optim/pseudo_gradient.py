"""What a round of inner steps found: anchor minus local parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.optim.flat import NonFinite, all_finite, floats


def pseudo_gradient(anchor: Tensor, local: Tensor, out: Tensor | None = None) -> Tensor:
    """anchor - local, fp32 [n], in `out` if given. Stepping against it moves the anchor to local.

    `out` may be `local` itself. Raises NonFinite if an element of the result is NaN or infinite (a
    diverged worker sits the round out; its values must never reach a mean) and ValueError if an
    argument is not a flat fp32 vector of the anchor's size. (DiLoCo, Douillard et al. 2023)
    """
    numel = floats("anchor", anchor).size
    floats("local", local, numel)
    delta = torch.empty_like(anchor) if out is None else out
    found = floats("out", delta, numel)
    with torch.no_grad():
        torch.sub(anchor, local, out=delta)
    if not all_finite(found):
        raise NonFinite("the pseudo-gradient holds NaN or infinity: training diverged")
    return delta
