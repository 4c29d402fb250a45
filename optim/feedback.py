"""Error feedback: what compression or a missed round left out is offered again next time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from atoll.optim.codecs.base import Codec
from atoll.optim.flat import floats, pieces
from atoll.protocol.errors import ConfigError


class Residual:
    """The part of this peer's pseudo-gradients that no committed update holds yet, fp32 [numel].

    Each round is one `offer` and then exactly one of `accepted`, `carried` or `dropped`; anything else
    is a bug and trips an assert. What was decoded by others plus the new residual is what was offered, to
    one rounding; so with decay 1 nothing is ever lost. (1-bit SGD, Seide et al. 2014; EF-SGD, Karimireddy
    et al. 2019)

    With `decay` beta < 1 an offer is beta * residual + delta: what waits long, and is stale, fades. The
    decay belongs to the offer. It stands when the offer is accepted, and when it is carried: then all of
    the offer waits, the new delta undecayed, and ages with the next. A dropped offer takes its decay back
    with its delta. (SparseLoCo, Sarfi et al. 2025, beta 0.95)

    An offer lies in memory that its caller lends, or in a second vector that the residual keeps once it had
    to do without.
    """

    def __init__(self, numel: int, decay: float = 1.0) -> None:
        if not 0 <= decay <= 1:
            raise ConfigError(
                f"decay is {decay}", "error feedback", "from 0 (no residual) to 1 (never fades)"
            )
        self._decay = decay
        self._residual = torch.zeros(numel, dtype=torch.float32)
        self._room: Tensor | None = None
        self._offered: Tensor | None = None

    @property
    def pending(self) -> bool:
        """Whether an offer waits for its outcome."""
        return self._offered is not None

    @property
    def buffer(self) -> Tensor:
        """The residual itself, fp32 [numel], to be saved. Before the outcome of an offer is known this is
        the residual before that offer, so a peer that restarts from it behaves as if `dropped`."""
        return self._residual

    def load(self, saved: Tensor) -> None:
        """Take over a saved residual (copied). Raises ValueError if it is not fp32 [numel]."""
        assert not self.pending, "load between an offer and its outcome"
        floats("saved residual", saved, self._residual.numel())
        self._residual.copy_(saved)

    def offer(self, delta: Tensor, room: Tensor | None = None) -> Tensor:
        """decay * residual + delta, fp32 [numel]: what this round encodes. Read it until the outcome.

        It is written into `room`, fp32 [numel], if that is given, which may be `delta` itself and must be
        left alone until the outcome. If a codec then refuses it as not finite, the outcome is `dropped`.

        Raises ValueError, and leaves no offer pending, if `delta` or `room` is not fp32 [numel].
        """
        assert self._offered is None, "a second offer before the outcome of the first"
        numel = self._residual.numel()
        floats("delta", delta, numel)
        if room is None:
            room = self._room = torch.empty(numel) if self._room is None else self._room
        floats("room", room, numel)
        with torch.no_grad():
            if self._decay == 1:
                torch.add(self._residual, delta, out=room)
            else:  # a product and a sum, each rounded: add(alpha=) would fuse them
                for piece in pieces(numel):
                    torch.add(self._residual[piece].mul(self._decay), delta[piece], out=room[piece])
        self._offered = room
        return room

    def accepted(self, decoded: Tensor) -> None:
        """The round took the contribution, which decodes to `decoded`, fp32 [numel]: keep the difference.

        Raises ValueError, with the offer still pending, if `decoded` is not fp32 [numel].
        """
        floats("decoded", decoded, self._residual.numel())
        self.accepted_pieces([(slice(0, decoded.numel()), decoded)])

    def accepted_pieces(self, decoded: Iterable[tuple[slice, Tensor]]) -> None:
        """The same, of what decodes piece by piece: places that cover the vector, and the values there."""
        offered = self._awaited()
        with torch.no_grad():
            for piece, values in decoded:
                torch.sub(offered[piece], values, out=self._residual[piece])
        self._offered = None

    def carried(self, share: float = 1.0) -> None:
        """The round went on without the contribution: keep its delta for the next, or a share in (0, 1]."""
        offered = self._awaited()
        with torch.no_grad():
            if share < 1:
                before = self._residual.mul_(self._decay)
                offered.sub_(before).mul_(share).add_(before)
            self._residual.copy_(offered)
        self._offered = None

    def dropped(self) -> None:
        """Forget this offer's delta: the residual is what it was before."""
        self._awaited()
        self._offered = None

    def _awaited(self) -> Tensor:
        assert self._offered is not None, "an outcome without an offer"
        return self._offered


class Feedback:
    """A codec and the residual that makes up for it: each round one `encode` and then its outcome.

    For who keeps no payloads: it remembers its own until the outcome and decodes it once, when it is
    first asked for.
    """

    def __init__(self, codec: Codec, residual: Residual) -> None:
        self.codec = codec
        self.residual = residual
        self._payloads: list[tuple[slice, bytes]] = []
        self._decoded = torch.empty_like(residual.buffer)
        self._is_decoded = False

    def encode(self, delta: Tensor) -> bytes:
        """The payload of what `residual.offer(delta)` gives; `delta` is fp32 [numel] and stays as it is.

        Raises ValueError, and leaves nothing offered, if `delta` is not that or the sum is not finite.
        """
        return self.encode_parts(delta, ((0, delta.numel()),))[0]

    def encode_parts(self, delta: Tensor, bounds: Sequence[tuple[int, int]]) -> list[bytes]:
        """The same, a payload for each part [start, stop) of the vector; `bounds` cover it."""
        offered = self.residual.offer(delta)
        try:
            payloads = [self.codec.encode(offered[start:stop]) for start, stop in bounds]
        except ValueError:
            self.residual.dropped()
            raise
        self._payloads = [(slice(*part), payload) for part, payload in zip(bounds, payloads, strict=True)]
        self._is_decoded = False
        return payloads

    def decoded(self) -> Tensor:
        """What others make of the payloads, fp32 [numel]. Valid until the next `encode`; do not write."""
        assert self._payloads, "nothing was encoded yet"
        if not self._is_decoded:
            for part, payload in self._payloads:
                self.codec.decode(payload, part.stop - part.start, self._decoded[part])
            self._is_decoded = True
        return self._decoded

    def accepted(self) -> None:
        """The round took the contribution: the residual is what encoding left out."""
        self.residual.accepted(self.decoded())

    def carried(self) -> None:
        """The round went on without the contribution: keep all of it for the next."""
        self.residual.carried()

    def dropped(self) -> None:
        """Forget this offer's delta: the residual is what it was before."""
        self.residual.dropped()
