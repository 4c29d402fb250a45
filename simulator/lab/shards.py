"""Which text each replica reads: all of it, or a shard that is mostly of its own topics.

Both the replicas and the synchronous baseline look windows up by the same positions (`workload.shards`), so a
step of the baseline is on exactly the windows that the replicas read in that step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from atoll.workload.data import Corpus
from atoll.workload.tokens import Ids

Indices = npt.NDArray[np.int64]

BINS = 256
PASSES = 8


class Shard:
    """One replica's windows of a corpus, with the corpus's own face."""

    def __init__(self, corpus: Corpus, own: Indices) -> None:
        self._corpus, self._own = corpus, own
        self.sequence_tokens, self.windows = corpus.sequence_tokens, len(own)

    def batch(self, windows: Iterable[int]) -> Ids:
        return self._corpus.batch(self._own[list(windows)])


class Union:
    """What all replicas read in one step, side by side: the synchronous baseline's batch.

    `present` says whose windows are left out: a replica that is away adds nothing to the gradient.
    """

    def __init__(self, shards: Sequence[Shard | Corpus]) -> None:
        self._shards = shards
        self.sequence_tokens, self.windows = shards[0].sequence_tokens, shards[0].windows
        self.present: Sequence[bool] = [True] * len(shards)

    def batch(self, windows: Iterable[int]) -> Ids:
        rows = np.array_split(np.array(list(windows)), len(self._shards))
        chosen = zip(self._shards, rows, self.present, strict=True)
        return np.concatenate([shard.batch(own) for shard, own, there in chosen if there])


def by_topics(corpus: Corpus, replicas: int, topics: int, concentration: float, seed: int) -> list[Shard]:
    """Deal all windows, equally many to each replica, topic by topic in proportions drawn for each replica.

    The proportions come from a symmetric Dirichlet distribution. (Hsu et al. 2019)
    """
    random = np.random.default_rng(seed)
    label = cluster(_histograms(corpus), topics, random)
    left = [random.permutation(np.flatnonzero(label == topic)).tolist() for topic in range(topics)]
    wanted = random.dirichlet([concentration] * topics, replicas)
    own: list[list[int]] = [[] for _ in range(replicas)]
    for place in range(corpus.windows // replicas * replicas):
        replica = place % replicas
        own[replica].append(left[_topic(wanted[replica], left, random)].pop())
    return [Shard(corpus, np.array(windows, np.int64)) for windows in own]


def cluster(points: npt.NDArray[np.float32], topics: int, random: np.random.Generator) -> Indices:
    """The topic of each point: k-means, a fixed number of passes. (Lloyd 1982)"""
    centres = points[random.choice(len(points), topics, replace=len(points) < topics)]
    for _ in range(PASSES):
        distance = (centres**2).sum(1) - 2 * points @ centres.T
        label = distance.argmin(1)
        for topic in range(topics):
            if (label == topic).any():
                centres[topic] = points[label == topic].mean(0)
    return label.astype(np.int64)


def _histograms(corpus: Corpus) -> npt.NDArray[np.float32]:
    """How often each id (modulo 256) occurs in each window."""
    found = np.empty((corpus.windows, BINS), np.float32)
    for window in range(corpus.windows):
        found[window] = np.bincount(corpus.batch([window])[0] % BINS, minlength=BINS)
    return found


def _topic(wanted: npt.NDArray[np.float64], left: list[list[int]], random: np.random.Generator) -> int:
    """A topic that still has windows, as the replica wants them if it can be."""
    chances = np.array([share if windows else 0.0 for share, windows in zip(wanted, left, strict=True)])
    if not chances.sum() > 0:
        chances = np.array([float(len(windows)) for windows in left])
    return int(random.choice(len(left), p=chances / chances.sum()))
