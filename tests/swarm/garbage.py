"""A real peer of the run that sends what the protocol forbids, over real gRPC, and reads the answers."""

from __future__ import annotations

from pathlib import Path

from atoll.node.config import NodeConfig
from atoll.node.identity import load_or_create
from atoll.node.network import Network
from atoll.node.transport import Refused, Unreachable
from atoll.protocol.envelope import ENVELOPE_BYTES_MAX, seal
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import PeerId, digest_of
from atoll.protocol.invite import parse_invite
from atoll.protocol.keys import Key
from atoll.protocol.messages import AskCommits
from atoll.protocol.wire import convert
from atoll.protocol.wire import messages_pb2 as wire


class GarbagePeer:
    """Joins the run's DHT with an identity of its own, and misbehaves towards one peer."""

    def __init__(self, folder: Path, invite: str) -> None:
        self.folder, self.invite = folder, parse_invite(invite)
        self.identity = load_or_create(folder)

    def envelopes(self) -> dict[str, wire.Envelope]:
        key, run = self.identity.key, self.invite.run_id
        good = seal(key, run, convert.encode(AskCommits(1)))
        unsigned, mis_signed, versioned = wire.Envelope(), wire.Envelope(), wire.Envelope()
        for changed in (unsigned, mis_signed, versioned):
            changed.CopyFrom(good)
        unsigned.signature = b""
        mis_signed.body = good.body + b"\x00"
        versioned.version = 99
        return {
            "unsigned": unsigned,
            "mis-signed": mis_signed,
            "other version": versioned,
            "truncated": seal(key, run, convert.encode(AskCommits(1 << 20))[:-1]),
            "oversized": seal(key, run, bytes(ENVELOPE_BYTES_MAX + 1)),
            "other run": seal(key, digest_of(b"another run"), good.body),
            "another's envelope": seal(Key.generate(), run, good.body),
        }

    async def pester(self, peer: str) -> dict[str, str]:
        """Send every kind of garbage; the reason that came back for each."""
        config = NodeConfig(
            self.folder, dht_listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=self.invite.bootstrap
        )
        network = await Network.start(config, self.identity, self.invite.run_id)
        try:
            await network.look()
            return {
                name: await self._reason(network, PeerId(peer), envelope)
                for name, envelope in self.envelopes().items()
            }
        finally:
            await network.close()

    async def _reason(self, network: Network, peer: PeerId, envelope: wire.Envelope) -> str:
        try:
            receipt = await network.router.send(peer, envelope, 10.0)
        except (Refused, Unreachable, RemoteProtocolError) as error:
            return f"{type(error).__name__}: {error}"
        assert not receipt.accepted
        return receipt.reason
