"""What a lie is: a stand between a liar's own peer and the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atoll.protocol.ids import Digest, PeerId

if TYPE_CHECKING:
    from atoll.simulator.liars import Liar

BEAT_MS = 700
Said = list[tuple[tuple[PeerId, ...], Any]]


class Lie:
    """One way to lie; as it stands, none."""

    def __init__(self, liar: Liar) -> None:
        self.liar = liar

    def say(self, receivers: tuple[PeerId, ...], message: Any) -> Said:
        return [(receivers, message)]

    def hear(self, sender: PeerId, message: Any) -> None: ...

    def beat(self) -> None: ...

    def gives(self, digest: Digest) -> bool:
        return True
