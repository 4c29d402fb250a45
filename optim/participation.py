"""The update of weights that must not be divided by their own sum.

FedAU's weights count a rare peer more in the rounds in which it is here, and nobody for it in the others.
Over many rounds each then counts alike, if a round's sum is divided by all who are registered. The weighted
mean divides by who is present, which takes the correction back; `share_` puts it in again. (FedAU, Wang and
Ji 2024)
"""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.optim.flat import VALUE_MAX, floats, pieces
from atoll.optim.mean import TOTAL_WEIGHT_MAX


def share_(mean: Tensor, present: int, registered: int) -> Tensor:
    """mean * present / registered, in place on an fp32 vector [n]: two roundings for each element.

    `present` is the total of the weights that the mean was made with, `registered` what all who are
    registered would weigh if all came at factor 1 (their assigned tokens). The update may be longer than the
    mean: rare peers count for the rounds in which they were away. Clamped to VALUE_MAX. Raises ValueError
    unless 0 <= present and 0 < registered, both at most 2^53.
    """
    if not (0 <= present <= TOTAL_WEIGHT_MAX and 0 < registered <= TOTAL_WEIGHT_MAX):
        raise ValueError(f"{present} of {registered} is no share of weights")
    floats("mean", mean)
    with torch.no_grad():
        for piece in pieces(mean.numel()):
            mean[piece].mul_(present / registered).clamp_(-VALUE_MAX, VALUE_MAX)
    return mean
