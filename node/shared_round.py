"""The two vectors of a round that the daemon and its trainer share, and who may touch which when.

`anchor` is the daemon's own: it takes its outer steps there, and the trainer reads it when a round begins,
when a fragment has moved and when it hands over. A lock keeps the two apart (POSIX, by process: the kernel
takes it from whoever dies). `delta` is the trainer's until it has handed over, and the daemon's until the
round says what became of it; in between there is no memory behind it.

With one fragment an update may come while the trainer still trains from the anchor that it replaces. The
daemon then leaves that anchor in `delta` first, and the trainer subtracts from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence

import torch

from atoll.node.shared_tensors import Memory, anonymous_file

OVER, FROM_ANCHOR, KEPT, LOST = range(4)
"""What the round in training is measured against: nothing is in training, the anchor, the anchor as it was,
which lies in `delta`, or one that is gone."""

FILES = ("anchor", "delta")


class SharedRound:
    """Both vectors, fp32 [numel], mapped by this process from the files of these descriptors.

    Raises OSError where there is no memory for the anchor.
    """

    def __init__(self, files: Sequence[int], numel: int, fragments: int) -> None:
        anchor_file, delta_file = files
        self._memory = Memory(anchor_file, numel, 1 + fragments)
        self._memory.reserve()
        self._lent = Memory(delta_file, numel)
        self.anchor, self.delta = self._memory.vector, self._lent.vector
        self._base, self._moves = self._memory.words[:1], self._memory.words[1:]

    @classmethod
    def alone(cls, numel: int, fragments: int) -> SharedRound:
        """For a process that trains by itself."""
        files = [anonymous_file(name) for name in FILES]
        try:
            return cls(files, numel, fragments)
        finally:
            for descriptor in files:
                os.close(descriptor)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The anchor stays as it is, or is this process's to change."""
        fcntl.lockf(self._memory.descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._memory.descriptor, fcntl.LOCK_UN)

    # ---- the daemon's side ----------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, fragment: int | None = None) -> Iterator[None]:
        """Change one fragment of the anchor, or replace all of it."""
        with self.locked():
            if self._base[0] == FROM_ANCHOR:
                self._save_base(fragment)
            yield
            if fragment is not None:
                self._moves[fragment] += 1

    def _save_base(self, fragment: int | None) -> None:
        if len(self._moves) == 1:
            self._lent.reserve()
            self.delta.copy_(self.anchor)
            self._base[0] = KEPT
        elif fragment is None:
            self._base[0] = LOST

    def release(self, piece: slice) -> None:
        """Nobody needs this piece of `delta` any more."""
        self._lent.release(piece)

    # ---- the trainer's side; all of it while locked ---------------------------------------------

    def moves(self) -> torch.Tensor:
        """How often each fragment's anchor has moved."""
        return self._moves.clone()

    def begin(self) -> None:
        """A round is in training now, measured against the anchor."""
        self._base[0] = FROM_ANCHOR

    def base(self, piece: slice) -> torch.Tensor | None:
        """The vector to measure against, in the memory of `delta` or not; None if it is gone.

        The round is over then, and `delta` has room for the piece. Raises MemoryError if there is none.
        """
        found = int(self._base[0])
        self._base[0] = OVER
        if found == LOST:
            return None
        try:
            self._lent.reserve(piece)
        except OSError as error:
            raise MemoryError(f"no room for a pseudo-gradient: {error}") from None
        return self.delta if found == KEPT else self.anchor
