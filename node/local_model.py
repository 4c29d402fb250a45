"""The trainer's model, and the vectors shared with the daemon: what a round starts from and hands over.

With one fragment every round starts from the anchor. With more the model trains on, round after round: each
round hands over its fragment's pseudo-gradient, and where an update has moved a fragment's anchor, the model
takes it in between two inner steps. (Streaming DiLoCo, Douillard et al. 2025)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from atoll.node.shared_round import SharedRound
from atoll.workload import vector


class LocalModel:
    """The vectors list the parameters in `order`, fragment by fragment, as `pieces` cut them.

    `mixing` is the share of the local parameters that stays where a fragment's anchor has moved.
    """

    def __init__(
        self,
        model: nn.Module,
        shared: SharedRound,
        order: Sequence[str],
        pieces: Sequence[slice],
        mixing: float,
    ) -> None:
        self._model, self._order, self._pieces = model, order, pieces
        self.shared, self._mixing = shared, mixing
        self._seen = shared.moves()
        self._trains = False

    @property
    def waits(self) -> bool:
        """Whether an anchor has moved that the model did not take in yet: with one fragment it never does."""
        return len(self._pieces) > 1 and not torch.equal(self._seen, self.shared.moves())

    def load(self) -> None:
        """Become the anchor; nothing is left of what was trained."""
        self._trains = False
        with self.shared.locked():
            self._load()

    def _load(self) -> None:
        self._seen = self.shared.moves()
        vector.load(self._model, self.shared.anchor, self._order)

    def begin(self, fresh: bool) -> None:
        """Start a round: from the anchor if `fresh`, else from where the last round ended."""
        with self.shared.locked():
            if len(self._pieces) == 1 or fresh or not self._trains:
                self._load()
            else:
                self._merge()
            self.shared.begin()
        self._trains = True

    def merge(self) -> None:
        """Take in the fragments whose anchor has moved."""
        with self.shared.locked():
            self._merge()

    def _merge(self) -> None:
        if len(self._pieces) == 1:
            return
        moves = self.shared.moves()
        for fragment in torch.nonzero(moves != self._seen).flatten().tolist():
            piece = self._pieces[fragment]
            vector.mix(self._model, self.shared.anchor, self._mixing, self._order, piece)
        self._seen = moves

    def hand_over(self, fragment: int) -> bool:
        """Leave the fragment's anchor - local in `delta`; whether it can be had and all of it is finite."""
        piece, delta = self._pieces[fragment], self.shared.delta
        with self.shared.locked():
            self._merge()
            base = self.shared.base(piece)
            if base is None:
                return False
            vector.subtract(self._model, base, delta, self._order, piece)
        return vector.finite(delta[piece])
