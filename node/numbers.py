"""The tensors of a node: its state, its residual, and the arithmetic of a round. No I/O, no asyncio.

Everything here runs in one worker thread, in the order in which it was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from atoll.node.exchange_rules import check_exchange, check_outer_known
from atoll.optim.codecs import codec
from atoll.optim.digest import state_digest, tensor_digest
from atoll.optim.feedback import Residual
from atoll.optim.mean import weighted_mean
from atoll.optim.parts import part_bounds
from atoll.optim.rules import OuterRule, outer_rule
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.events import StateLoaded
from atoll.protocol.ids import BlobRef, Digest
from atoll.protocol.manifest import Manifest, OuterRules

Bytes = bytes | memoryview


class Numbers:
    """Anchor, momentum and residual, fp32 [numel], and what a round does with them.

    A state is an anchor and a momentum whatever the outer rule, so its blobs have one form; a rule without
    momentum leaves the zeros that it began with.
    """

    def __init__(self, manifest: Manifest) -> None:
        check_exchange(manifest.rounds, "manifest: rounds")
        check_outer_known(manifest.outer, "manifest: outer")
        self.numel = manifest.numel
        self.codec = codec(manifest.outer.codec)
        self.rule = _rule(manifest.outer)
        self.anchor = torch.zeros(self.numel)
        self.momentum = torch.zeros(self.numel)
        self.residual = Residual(self.numel)
        self._scratch = torch.zeros(self.numel)
        self._numels_of: dict[int, set[int]] = {}

    # ---- sizes ----------------------------------------------------------------------------------

    def bounds(self, parts: int) -> tuple[tuple[int, int], ...]:
        return part_bounds(self.numel, parts, max(1, self.codec.block))

    def part_bytes(self, parts: int) -> tuple[int, ...]:
        """The encoded size of each part, as every peer derives it."""
        sizes = [(self.codec.payload_bytes(stop - start), stop - start) for start, stop in self.bounds(parts)]
        for size, numel in sizes:
            self._numels_of.setdefault(size, set()).add(numel)
        return tuple(size for size, _ in sizes)

    def fragment_bytes(self, fragment: int, parts: int) -> tuple[int, ...]:
        """As the protocol asks for it: the one fragment is the whole vector."""
        assert fragment == 0
        return self.part_bytes(parts)

    @property
    def encoded_bytes(self) -> int:
        return self.codec.payload_bytes(self.numel)

    def check(self, payload: Bytes) -> None:
        """RemoteProtocolError unless these bytes decode to a part of their size.

        Parts of two sizes may be as long once encoded: with 4 bits, 255 elements and 256.
        """
        refused = RemoteProtocolError(f"no part has {len(payload)} bytes")
        for numel in sorted(self._numels_of.get(len(payload), ())):
            try:
                self.codec.decode(payload, numel)
                return
            except RemoteProtocolError as error:
                refused = error
        raise refused

    # ---- a contribution -------------------------------------------------------------------------

    def encode(self, delta: torch.Tensor, parts: int) -> list[bytes]:
        """Offer residual + delta, encoded part by part; ValueError (and nothing offered) if not finite."""
        offered = self.residual.offer(delta)
        try:
            return [self.codec.encode(offered[start:stop]) for start, stop in self.bounds(parts)]
        except ValueError:
            self.residual.dropped()
            raise

    def accepted(self, payloads: Sequence[Bytes]) -> None:
        """The round took the contribution: the residual is what encoding left out."""
        self._decode_all(payloads)
        self.residual.accepted(self._scratch)

    def missed(self, late: str) -> None:
        """The round went on without the contribution."""
        if late == "carry":
            self.residual.carried()
        else:
            self.residual.dropped()

    def carry(self, delta: torch.Tensor, late: str) -> None:
        """Training that no round waited for any more."""
        if late == "carry" and bool(torch.isfinite(delta).all()):
            self.residual.offer(delta)
            self.residual.carried()

    # ---- an update ------------------------------------------------------------------------------

    def aggregate(self, part: int, parts: int, inputs: Sequence[tuple[int, Bytes]]) -> bytes:
        """The encoded weighted mean of one part, in the order given."""
        start, stop = self.bounds(parts)[part]
        mean = weighted_mean(inputs, self.codec, stop - start)
        assert mean is not None, "the protocol cuts no contributor of weight 0"
        return self.codec.encode(mean)

    def apply(self, round_: int, payloads: Sequence[Bytes]) -> StateLoaded:
        """Take the outer step of a committed update."""
        self._decode_all(payloads)
        state = (self.momentum,) if self.rule.name == "nesterov" else ()
        self.rule.step_(self.anchor, state, self._scratch)
        return self.state(round_)

    def _decode_all(self, payloads: Sequence[Bytes]) -> None:
        for payload, (start, stop) in zip(payloads, self.bounds(len(payloads)), strict=True):
            self.codec.decode(payload, stop - start, self._scratch[start:stop])

    # ---- the state ------------------------------------------------------------------------------

    def state(self, round_: int) -> StateLoaded:
        """The digests of the state as it is now."""
        blobs = tuple(
            BlobRef(Digest(tensor_digest(tensor)), 4 * self.numel) for tensor in (self.anchor, self.momentum)
        )
        return StateLoaded(round_, Digest(state_digest([ref.digest for ref in blobs])), blobs)

    def load(self, anchor: torch.Tensor, momentum: torch.Tensor) -> None:
        self.anchor.copy_(anchor)
        self.momentum.copy_(momentum)

    def load_bytes(self, anchor: Bytes, momentum: Bytes) -> None:
        """The state from its two blobs: little-endian fp32."""
        for tensor, raw in ((self.anchor, anchor), (self.momentum, momentum)):
            tensor.copy_(torch.from_numpy(np.frombuffer(raw, dtype="<f4").astype(np.float32)))


def _rule(outer: OuterRules) -> OuterRule:
    """The rule with the knobs that a manifest has for it."""
    knobs = {
        "nesterov": {"lr": outer.learning_rate, "momentum": outer.momentum},
        "sgd": {"lr": outer.learning_rate},
        "average": {},
    }
    return outer_rule(outer.rule, knobs[outer.rule], "manifest: outer")
