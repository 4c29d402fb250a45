"""The bytes that a swarm moves, counted as the protocol moves them.

A byte is counted once, where it is sent; all that is sent is received, so the total by the number of replicas
is what a replica sends, and receives, on average. Payloads are counted by their length, header included;
control messages are not (docs/protocol.md counts those: a few kilobytes per round).
"""

from __future__ import annotations

FP32_BYTES = 4


class Traffic:
    """Bytes sent so far by all replicas together."""

    def __init__(self, total: int = 0) -> None:
        self.total = total

    def ring(self, numel: int, replicas: int, steps: int = 1) -> None:
        """Synchronous data parallelism: an fp32 ring all-reduce of the gradient in every step.

        Each of P replicas sends 2 (P - 1) / P of the vector: P - 1 pieces of numel / P elements while
        summing, as many while handing out. The P of them send 2 (P - 1) numel elements.
        """
        self.total += steps * 2 * (replicas - 1) * numel * FP32_BYTES

    def part(self, contributions: int, result: int, contributors: int, receivers: int) -> None:
        """One part of a dense exchange: its owner pulls everybody's piece but its own, and serves the mean
        to the `receivers`, itself among them. `contributions` and `result` are the bytes of one payload."""
        self.total += (contributors - 1) * contributions + (receivers - 1) * result

    def blob(self, payload: int, receivers: int) -> None:
        """A sparse contribution, or any other blob that everybody fetches from who made it."""
        self.total += (receivers - 1) * payload

    def message(self, payload: int) -> None:
        """From one replica to one other."""
        self.total += payload
