"""A corpus: texts as one array of ids, a held-out part, and windows of equal length.

Machines with the same files hold the same corpus: same windows, same held-out part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from atoll.protocol.errors import ConfigError
from atoll.workload import documents
from atoll.workload.config import DataConfig
from atoll.workload.documents import Document
from atoll.workload.tokens import Ids, Tokens

Stored = npt.NDArray[np.unsignedinteger[Any]]


class Corpus:
    """Windows of `sequence_tokens` inputs and as many targets, each the input one token later.

    Window i starts at token i * sequence_tokens and holds one token more than that; its last target is the
    next window's first input. `digest` tells two machines whether they train on the same tokens.
    """

    def __init__(self, training: Stored, heldout: Stored, sequence_tokens: int) -> None:
        self._training, self._heldout = training, heldout
        self.sequence_tokens = sequence_tokens
        self.windows = _windows(training, sequence_tokens)
        self.heldout_windows = _windows(heldout, sequence_tokens)
        self.digest = hashlib.sha256(training.tobytes()).hexdigest()

    @classmethod
    def load(cls, data: DataConfig, tokens: Tokens, where: str = "[data]") -> Corpus:
        """Read, tokenize and split the texts. Raises ConfigError if they fill no window."""
        training, heldout = split(documents.load(data, where), data.heldout_share)
        corpus = cls(_ids(training, tokens), _ids(heldout, tokens), data.sequence_tokens)
        for part, windows in (("training", corpus.windows), ("held-out", corpus.heldout_windows)):
            if not windows:
                what = f"the {part} part of `{data.source}` is shorter than one window"
                raise ConfigError(what, where, f"more text, or sequence_tokens below {data.sequence_tokens}")
        return corpus

    def batch(self, windows: Iterable[int]) -> Ids:
        """Give training windows as int64 [windows, sequence_tokens + 1]."""
        return self._take(self._training, windows)

    def heldout(self, count: int) -> Ids:
        """Give `count` held-out windows (all, if fewer), spread evenly over the held-out part."""
        count = min(count, self.heldout_windows)
        return self._take(self._heldout, [i * self.heldout_windows // count for i in range(count)])

    def _take(self, stored: Stored, windows: Iterable[int]) -> Ids:
        length = self.sequence_tokens
        return np.stack([stored[i * length : (i + 1) * length + 1] for i in windows]).astype(np.int64)


def split(texts: list[Document], heldout_share: float) -> tuple[list[Document], list[Document]]:
    """Split whole documents by their content's digest, so equal texts always fall on the same side.

    A text that one machine lacks moves no other text across. At least the document with the lowest digest
    is held out.
    """
    bound = int(heldout_share * 2**32)
    lowest = min((_rank(text) for text in texts), default=0)
    bound = max(bound, lowest + 1)
    return [t for t in texts if _rank(t) >= bound], [t for t in texts if _rank(t) < bound]


def _rank(text: Document) -> int:
    return int.from_bytes(text.digest[:4], "big")


def _ids(texts: list[Document], tokens: Tokens) -> Stored:
    kind = np.dtype(np.uint16 if tokens.vocabulary <= 1 << 16 else np.uint32)
    end = np.array([tokens.end], kind)
    parts: list[Stored] = []
    for text in texts:
        parts.append(tokens.encode(text.content.decode("utf-8")).astype(kind))
        if text.last:
            parts.append(end)
    return np.concatenate(parts) if parts else np.empty(0, kind)


def _windows(stored: Stored, sequence_tokens: int) -> int:
    return max(0, (len(stored) - 1) // sequence_tokens)
