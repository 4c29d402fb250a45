"""Replicas as lie detector: workers that computed the same units must have sent the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from atoll.optim.coding.codes import Code


@dataclass(frozen=True, slots=True)
class Dispute:
    """A group whose workers sent different payloads: `answers` are (digest, workers), most workers first.

    Of equally many the lowest worker's is first. One of two says only that somebody lies or computes
    otherwise: who it was, computing a unit again tells.
    """

    group: int
    answers: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def suspects(self) -> tuple[int, ...]:
        """Workers outside the answer that more than half of the group's answers agree on; all, if none is."""
        workers = [place for _, places in self.answers for place in places]
        agreeing = self.answers[0][1]
        accused = set(workers) if 2 * len(agreeing) <= len(workers) else set(workers).difference(agreeing)
        return tuple(sorted(accused))


def disputes(code: Code, digests: Mapping[int, str]) -> tuple[Dispute, ...]:
    """The groups that do not agree, by the digest of each payload that arrived, by worker.

    Compares what was sent, so it needs a codec without error feedback, whose residual is each worker's own,
    and processors that train to equal bits. Raises ValueError for a code without replicas, where nothing
    can be compared, and for a worker that is none of the code's.
    """
    if not code.groups:
        raise ValueError(f"the {code.name} code has no replicas to compare")
    strangers = [place for place in digests if not 0 <= place < code.workers]
    if strangers:
        raise ValueError(f"{strangers[0]} is not one of {code.workers} workers")
    found = []
    for number, group in enumerate(code.groups):
        answers: dict[str, list[int]] = {}
        for place in group:
            if place in digests:
                answers.setdefault(digests[place], []).append(place)
        if len(answers) > 1:
            ranked = sorted(answers.items(), key=lambda item: (-len(item[1]), item[1][0]))
            found.append(Dispute(number, tuple((digest, tuple(places)) for digest, places in ranked)))
    return tuple(found)
