"""The text: the standard library's source, in shards that are alike, or that have topics of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atoll.simulator.lab.shards import cluster
from atoll.workload import tokens
from atoll.workload.config import BYTES, DataConfig
from atoll.workload.data import Corpus

Symbols = npt.NDArray[np.int64]

WINDOW, WINDOWS_MAX = 128, 400
FIRST, LAST = 32, 126
VOCABULARY = LAST - FIRST + 3
"""Printable ASCII, the end of a line, and one symbol for all the rest."""

KINDS = ("iid", "non-iid")
BYTES_MAX = 2_000_000


@dataclass(frozen=True)
class Text:
    """`training` and `heldout` are the windows of each shard, [windows, WINDOW + 1]."""

    kind: str
    training: tuple[Symbols, ...]
    heldout: tuple[Symbols, ...]


def load(kind: str, shards: int, seed: int, bytes_max: int = BYTES_MAX) -> Text:
    """The shards of `kind`, as a seed deals them; of each a tenth is held out.

    "iid" deals windows from everywhere to each, and "non-iid" gives each a topic of its own, by which
    characters a window has: tables, prose, code of several styles. A loss that is the mean over shards counts
    every shard alike, so there a shard that no round ever hears of is missed.
    """
    corpus = Corpus.load(DataConfig(sequence_tokens=WINDOW, bytes_max=bytes_max), tokens.load(BYTES))
    found, random = symbols(corpus.batch(range(corpus.windows))), np.random.default_rng(seed)
    order = random.permutation(len(found))
    if kind == "iid":
        dealt = [order[shard::shards] for shard in range(shards)]
    else:
        label = cluster(_histograms(found), shards, random)
        dealt = [order[label[order] == shard] for shard in range(shards)]
    windows = [found[mine[:WINDOWS_MAX]] for mine in dealt]
    tenth = [max(1, len(mine) // 10) for mine in windows]
    return Text(
        kind,
        tuple(mine[count:] for mine, count in zip(windows, tenth, strict=True)),
        tuple(mine[:count] for mine, count in zip(windows, tenth, strict=True)),
    )


def _histograms(windows: Symbols) -> npt.NDArray[np.float32]:
    """How often each symbol occurs in each window."""
    places = np.arange(len(windows))[:, None] * VOCABULARY + windows
    counts = np.bincount(places.ravel(), minlength=len(windows) * VOCABULARY)
    return counts.reshape(len(windows), VOCABULARY).astype(np.float32)


def symbols(ids: Symbols) -> Symbols:
    """Bytes as symbols: the source's vocabulary of 97 instead of 257 makes the learner so much faster."""
    found = np.full(ids.shape, VOCABULARY - 1, np.int64)
    printable = (ids >= FIRST) & (ids <= LAST)
    found[printable] = ids[printable] - FIRST
    found[ids == ord("\n")] = VOCABULARY - 2
    return found
