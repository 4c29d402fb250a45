"""The trainer's model, and two vectors shared with the daemon: what a round starts from and hands over.

With one fragment every round starts from the anchor. With more the model trains on, round after round: each
round hands over its fragment's pseudo-gradient, and where an update has moved a fragment's anchor, the model
takes it in between two inner steps. (Streaming DiLoCo, Douillard et al. 2025)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import nn

from atoll.workload import vector


class LocalModel:
    """`anchor` is the daemon's to write, `delta` ours; both fp32 [numel], fragment by fragment.

    `merges` are the fragments whose anchor has moved, as the daemon reports them from another thread;
    `mixing` is the share of the local parameters that stays where one has.
    """

    def __init__(
        self,
        model: nn.Module,
        vectors: tuple[torch.Tensor, torch.Tensor],
        order: Sequence[str],
        pieces: Sequence[slice],
        mixing: float,
        merges: deque[int],
    ) -> None:
        self._model, self._order, self._pieces = model, order, pieces
        self.anchor, self.delta = vectors
        self._mixing, self._merges = mixing, merges
        self._trains = False

    @property
    def waits(self) -> bool:
        """Whether an anchor has moved that the model did not take in yet."""
        return bool(self._merges)

    def load(self) -> None:
        """Become the anchor; nothing is left of what was trained."""
        self._trains = False
        vector.load(self._model, self.anchor, self._order)

    def begin(self, fresh: bool) -> None:
        """Start a round: from the anchor if `fresh`, else from where the last round ended.

        With one fragment `delta` takes a copy of the anchor, which may then be written again meanwhile.
        """
        if len(self._pieces) == 1:
            self.delta.copy_(self.anchor)
            vector.load(self._model, self.delta, self._order)
        elif fresh or not self._trains:
            self._merges.clear()
            self.load()
        else:
            self.merge()
        self._trains = True

    def merge(self) -> None:
        """Take in the fragments whose anchor has moved."""
        while self._merges:
            piece = self._pieces[self._merges.popleft()]
            vector.mix(self._model, self.anchor, self._mixing, self._order, piece)

    def hand_over(self, fragment: int) -> bool:
        """Leave the fragment's anchor - local in `delta`; whether all of it is finite."""
        piece = self._pieces[fragment]
        if len(self._pieces) > 1:
            self.merge()
            self.delta[piece].copy_(self.anchor[piece])
        vector.subtract(self._model, self.delta, self._order, piece)
        return vector.finite(self.delta[piece])
