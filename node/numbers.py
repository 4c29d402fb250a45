"""The tensors of a node: its state, its residual, and the arithmetic of a round. No I/O, no asyncio.

The vectors list the model's parameters fragment by fragment (arrangement.py): each is one piece of them.
Everything here runs in one worker thread, in the order in which it was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, pairwise

import numpy as np
import torch

from atoll.node.exchange_rules import check_outer_known
from atoll.node.shared_round import SharedRound
from atoll.optim.codecs import codec
from atoll.optim.digest import tensor_digest
from atoll.optim.feedback import Residual
from atoll.optim.flat import all_finite
from atoll.optim.participation import share_
from atoll.optim.parts import part_bounds
from atoll.optim.robust import aggregate, robust_rule, tolerated
from atoll.optim.rules import OuterRule, outer_rule
from atoll.protocol.commits import Body
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.events import StateLoaded
from atoll.protocol.fragments import anchor_digest, fragment_of
from atoll.protocol.ids import BlobRef, Digest
from atoll.protocol.manifest import Manifest, OuterRules
from atoll.protocol.weighing import share

Bytes = bytes | memoryview
Writing = Callable[[int | None], AbstractContextManager[None]]


class Numbers:
    """Anchor, momentum and residual, fp32 [numel], and what a round does with its fragment of them.

    A state is an anchor and a momentum whatever the outer rule, so its blobs have one form; a rule without
    momentum leaves the zeros that it began with. A run without error feedback has no residuals. What is
    decoded is decoded a piece at a time: nothing here is as long as the model but these three.
    """

    def __init__(self, manifest: Manifest) -> None:
        check_outer_known(manifest.outer, "manifest: outer")
        self.numel = manifest.numel
        self.fragments = manifest.rounds.fragments
        self.pieces = pieces_of(manifest)
        self.sparse = manifest.rounds.exchange == "sparse"
        self.mixing = manifest.rounds.mixing if self.fragments > 1 else 0.0
        self.codec = codec(manifest.outer.codec)
        self.rule = _rule(manifest.outer)
        self.outer, self._manifest = manifest.outer, manifest
        self.aggregation = robust_rule(manifest.outer.aggregation)
        self.anchor = torch.zeros(self.numel)
        self.momentum = torch.zeros(self.numel)
        numels = [piece.stop - piece.start for piece in self.pieces]
        feedback = manifest.outer.feedback
        self.residuals = tuple(Residual(numel, feedback) for numel in numels) if feedback else ()
        self._writing: Writing = lambda fragment: nullcontext()
        self._second = ThreadPoolExecutor(1, "digests") if (os.cpu_count() or 1) > 1 else None
        self._round = 0
        self._numels_of: dict[int, set[int]] = {}
        self._refs: list[tuple[BlobRef, BlobRef]] = []

    def warm(self) -> None:
        """Have codec and rule compiled, or their machine code loaded, before a round waits for them."""
        numel = max(1, self.codec.block)
        update = self.codec.decode(self.codec.encode(torch.zeros(numel)), numel)
        self.rule.step_(torch.zeros(numel), self.rule.state(numel), update)

    def share(self, shared: SharedRound) -> None:
        """From now on the anchor is the one that a trainer reads."""
        with shared.writing():
            shared.anchor.copy_(self.anchor)
        self.anchor, self._writing = shared.anchor, shared.writing

    # ---- sizes ----------------------------------------------------------------------------------

    def bounds(self, fragment: int, parts: int) -> tuple[tuple[int, int], ...]:
        """Where each part of a fragment begins and ends within it."""
        piece = self.pieces[fragment]
        return part_bounds(piece.stop - piece.start, parts, max(1, self.codec.block))

    def part_bytes(self, fragment: int, parts: int) -> tuple[int, ...]:
        """The encoded size of each part of a fragment, as every peer derives it."""
        numels = [stop - start for start, stop in self.bounds(fragment, parts)]
        sizes = tuple(self.codec.payload_bytes(numel) for numel in numels)
        for size, numel in zip(sizes, numels, strict=True):
            self._numels_of.setdefault(size, set()).add(numel)
        return sizes

    @property
    def encoded_bytes(self) -> int:
        """Of a fragment, on average."""
        return sum(self.part_bytes(fragment, 1)[0] for fragment in range(self.fragments)) // self.fragments

    def check(self, payload: Bytes) -> None:
        """RemoteProtocolError unless these bytes decode to a part of their size.

        Parts of two sizes may be as long once encoded: with 4 bits, 255 elements and 256.
        """
        refused = RemoteProtocolError(f"no part has {len(payload)} bytes")
        for numel in sorted(self._numels_of.get(len(payload), ())):
            try:
                for _ in self.codec.pieces(payload, numel):
                    pass
                return
            except RemoteProtocolError as error:
                refused = error
        raise refused

    # ---- a contribution -------------------------------------------------------------------------

    def encode(self, round_: int, delta: torch.Tensor, parts: int, again: bool = False) -> list[Bytes]:
        """Offer residual + delta, encoded part by part; ValueError (and nothing offered) if not finite.

        `delta` is the pseudo-gradient of the round's fragment. The offer takes its place: its memory is to
        be left alone until the round's outcome. `again`, it is that offer, to be cut into other parts.
        """
        fragment = self._fragment(round_)
        residual = self._residual(round_)
        offered = delta if residual is None or again else residual.offer(delta, delta)
        try:
            return [self._encoded(offered[start:stop]) for start, stop in self.bounds(fragment, parts)]
        except ValueError:
            if residual is not None:
                residual.dropped()
            raise

    def accepted(self, round_: int, payloads: Sequence[Bytes]) -> None:
        """The round took the contribution: the residual is what encoding left out."""
        residual = self._residual(round_)
        if residual is not None:
            residual.accepted_pieces(self._decoded(self._fragment(round_), payloads))

    def missed(self, round_: int, late: str, moved: bool) -> None:
        """The round went on without the contribution; `moved` if it was an update nevertheless.

        Where the local model trains on it still holds the contribution: all of it until its fragment's anchor
        moves, and then the share that stays in the mixture.
        """
        residual = self._residual(round_)
        if residual is None:
            return
        lost = 1.0 if self.fragments == 1 else (1.0 - self.mixing) * moved
        if late == "carry" and lost:
            residual.carried(lost)
        else:
            residual.dropped()

    def carry(self, round_: int, delta: torch.Tensor, late: str, moved: bool) -> None:
        """Training that no round waited for any more; `delta` is used up."""
        residual = self._residual(round_)
        if residual is not None and late == "carry" and all_finite(delta.numpy()):
            residual.offer(delta, delta)
            self.missed(round_, late, moved)

    def _residual(self, round_: int) -> Residual | None:
        return self.residuals[self._fragment(round_)] if self.residuals else None

    def decoded(self, payloads: Sequence[Bytes]) -> torch.Tensor:
        """A whole contribution of a run without fragments, which was checked, as its vector."""
        found = torch.empty(self.numel)
        for piece, values in self._decoded(0, payloads):
            found[piece] = values
        return found

    # ---- an update ------------------------------------------------------------------------------

    def aggregate(self, round_: int, part: int, parts: int, inputs: Sequence[tuple[int, Bytes]]) -> Bytes:
        """What one part of the contributions comes to, encoded; they count in the order given."""
        start, stop = self.bounds(self._fragment(round_), parts)[part]
        return self._encoded(self._aggregate(inputs, stop - start))

    def _aggregate(self, inputs: Sequence[tuple[int, Bytes]], numel: int) -> torch.Tensor:
        """The run's rule, of whole contributions or of a part of each."""
        outer = self.outer
        faulty = tolerated(outer.faulty, len(inputs))
        found = aggregate(
            self.aggregation, inputs, self.codec, numel, faulty=faulty, clip=outer.clip == "median"
        )
        assert found is not None, "the protocol cuts no contributor of weight 0"
        return found

    def _encoded(self, values: torch.Tensor) -> Bytes:
        """A payload in memory that was not filled with zeros first."""
        payload = memoryview(np.empty(self.codec.payload_bytes(values.numel()), dtype=np.uint8))
        self.codec.encode_into(values, payload)
        return payload.toreadonly()

    def apply(self, body: Body, payloads: Sequence[Bytes]) -> StateLoaded:
        """Take the outer step of a committed update: of the mean in parts, or of the contributions.

        The payloads were checked; a wrong one ends this node, with an anchor that is half stepped.
        """
        fragment = self._fragment(body.round)
        piece = self.pieces[fragment]
        anchor, momentum = self.anchor[piece], self.momentum[piece]
        of = share(body, self._manifest)
        with self._writing(fragment):
            for place, update in self._update(fragment, body, payloads):
                if of is not None:
                    share_(update, *of)
                state = (momentum[place],) if self.rule.name == "nesterov" else ()
                self.rule.step_(anchor[place], state, update)
        self._refs[fragment] = self._refs_of(piece)
        return self._state(body.round)

    def _update(
        self, fragment: int, body: Body, payloads: Sequence[Bytes]
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Piece by piece: every outer rule that a manifest knows steps elementwise."""
        if not self.sparse:
            return self._decoded(fragment, payloads)
        piece = self.pieces[fragment]
        weights = [contributor.weight for contributor in body.contributors]
        update = self._aggregate(list(zip(weights, payloads, strict=True)), piece.stop - piece.start)
        return iter([(slice(0, piece.stop - piece.start), update)])

    def _decoded(self, fragment: int, payloads: Sequence[Bytes]) -> Iterator[tuple[slice, torch.Tensor]]:
        for payload, (start, stop) in zip(payloads, self.bounds(fragment, len(payloads)), strict=True):
            for piece, values in self.codec.pieces(payload, stop - start):
                yield slice(start + piece.start, start + piece.stop), values

    def _fragment(self, round_: int) -> int:
        return fragment_of(round_, self.fragments)

    # ---- the state ------------------------------------------------------------------------------

    def state(self, round_: int) -> StateLoaded:
        """The digests of the state as it is now."""
        self._refs = [self._refs_of(piece) for piece in self.pieces]
        return self._state(round_)

    def _state(self, round_: int) -> StateLoaded:
        self._round = round_
        blobs = tuple(ref for refs in self._refs for ref in refs)
        return StateLoaded(round_, anchor_digest(blobs), blobs)

    def _refs_of(self, piece: slice) -> tuple[BlobRef, BlobRef]:
        """Both at once where there are two cores: hashing is most of what an outer step takes."""
        size = 4 * (piece.stop - piece.start)
        if self._second is None:
            found = [tensor_digest(vector[piece]) for vector in (self.anchor, self.momentum)]
        else:
            other = self._second.submit(tensor_digest, self.momentum[piece])
            found = [tensor_digest(self.anchor[piece]), other.result()]
        anchor, momentum = (BlobRef(Digest(digest), size) for digest in found)
        return anchor, momentum

    def load(self, anchor: torch.Tensor, momentum: torch.Tensor) -> None:
        with self._writing(None):
            self.anchor.copy_(anchor)
            self.momentum.copy_(momentum)

    def load_bytes(self, blobs: Sequence[Bytes]) -> None:
        """The state from its blobs, anchor and momentum of each fragment: little-endian fp32."""
        with self._writing(None):
            for (piece, vector), raw in zip(self._vectors(), blobs, strict=True):
                np.copyto(vector[piece].numpy(), np.frombuffer(raw, dtype="<f4"))

    def _vectors(self) -> Iterator[tuple[slice, torch.Tensor]]:
        for piece in self.pieces:
            yield piece, self.anchor
            yield piece, self.momentum

    def copy_anchor(self, into: torch.Tensor) -> int:
        """Copy the anchor as it is now; the round that it is of."""
        into.copy_(self.anchor)
        return self._round

    def load_residual(self, saved: torch.Tensor) -> None:
        """Take over a residual of an earlier life; ValueError if it is another run's."""
        if self.residuals:
            for residual, piece in zip(self.residuals, self.pieces, strict=True):
                residual.load(saved[piece].contiguous())


def pieces_of(manifest: Manifest) -> tuple[slice, ...]:
    """Where each fragment lies in the vectors, as the sizes of the first anchor's blobs say."""
    numels = [ref.size // 4 for ref in manifest.anchor_blobs[::2]]
    return tuple(slice(start, stop) for start, stop in pairwise([0, *accumulate(numels)]))


def _rule(outer: OuterRules) -> OuterRule:
    """The rule with the knobs that a manifest has for it."""
    knobs = {
        "nesterov": {"lr": outer.learning_rate, "momentum": outer.momentum},
        "sgd": {"lr": outer.learning_rate},
        "average": {},
    }
    return outer_rule(outer.rule, knobs[outer.rule], "manifest: outer")
