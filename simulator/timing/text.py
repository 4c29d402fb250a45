"""The text: the standard library's source, in shards that are alike, or that have topics of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atoll.simulator.lab.shards import by_topics
from atoll.workload import tokens
from atoll.workload.config import BYTES, DataConfig
from atoll.workload.data import Corpus

Symbols = npt.NDArray[np.int64]

WINDOW, WINDOWS_MAX = 128, 400
FIRST, LAST = 32, 126
VOCABULARY = LAST - FIRST + 3
"""Printable ASCII, the end of a line, and one symbol for all the rest."""

KINDS = {"iid": 1000.0, "non-iid": 0.02}
"""How evenly the topics are dealt to the shards: the concentration of a Dirichlet distribution."""


@dataclass(frozen=True)
class Text:
    """`training` and `heldout` are the windows of each shard, [windows, WINDOW + 1]."""

    kind: str
    training: tuple[Symbols, ...]
    heldout: tuple[Symbols, ...]


def load(kind: str, shards: int, seed: int, bytes_max: int = 600_000) -> Text:
    """The shards of `kind`, "iid" or "non-iid", as a seed deals them; of each a tenth is held out.

    So the mean over shards counts every shard alike, and a shard that no round ever hears of is missed there.
    """
    data = DataConfig(sequence_tokens=WINDOW, bytes_max=bytes_max)
    corpus = Corpus.load(data, tokens.load(BYTES))
    dealt = by_topics(corpus, shards, topics=shards, concentration=KINDS[kind], seed=seed)
    windows = [symbols(shard.batch(range(min(shard.windows, WINDOWS_MAX)))) for shard in dealt]
    return Text(kind, tuple(w[len(w) // 10 :] for w in windows), tuple(w[: len(w) // 10] for w in windows))


def symbols(ids: Symbols) -> Symbols:
    """Bytes as symbols: the source's vocabulary of 97 instead of 257 makes the learner so much faster."""
    found = np.full(ids.shape, VOCABULARY - 1, np.int64)
    printable = (ids >= FIRST) & (ids <= LAST)
    found[printable] = ids[printable] - FIRST
    found[ids == ord("\n")] = VOCABULARY - 2
    return found
