"""A node from start to end: put the parts together, live until told to stop or until the run is over."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import structlog

from atoll.node.admin import Admin
from atoll.node.blobs import FetchFailed
from atoll.node.config import NodeConfig
from atoll.node.daemon import Daemon
from atoll.node.disk import Disk
from atoll.node.evaluator import Evaluator
from atoll.node.identity import Identity, load_or_create
from atoll.node.metrics import serve_metrics
from atoll.node.network import Network
from atoll.node.status import status
from atoll.node.trainer import TrainerConfig
from atoll.node.training import Training
from atoll.node.transport import BootstrapFailed
from atoll.protocol import events as e
from atoll.protocol import private
from atoll.protocol.admission import token_for
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest
from atoll.protocol.invite import Invite
from atoll.protocol.keys import Signer
from atoll.protocol.manifest import SignedManifest, open_manifest
from atoll.protocol.roster import Role

MANIFEST_S = 30.0
log = structlog.get_logger("atoll.node")

OnReady = Callable[[dict[str, Any]], None]
Service = Callable[[grpc.aio.Server, Daemon], None]


async def serve(
    config: NodeConfig,
    signed: SignedManifest | None,
    invite: Invite | None,
    on_ready: OnReady,
    services: Sequence[Service] = (),
    authority: Signer | None = None,
) -> str:
    """Run a node until it is stopped (SIGINT, SIGTERM, `atoll stop`) or its part is over; why it ended.

    `signed` is given by who publishes the run; everybody else names it by `invite`, or resumes what lies in
    the state directory. `authority` is the run authority's key, where it lies here. `on_ready` gets the first
    status; `services` are further gRPC services on the admin socket.

    Raises ConfigError, BootstrapFailed, OSError.
    """
    stop = _Stop()
    async with contextlib.AsyncExitStack() as stack:
        disk = Disk(config.state_dir)
        stack.callback(disk.close)
        known = disk.load_manifest()
        run_id = _run_id(signed, invite, known, config.state_dir)
        identity = load_or_create(config.state_dir)
        if invite is not None:
            config = replace(config, bootstrap=(*config.bootstrap, *invite.bootstrap))
        addresses = dict.fromkeys((*config.bootstrap, *disk.load_known()))
        others = tuple(address for address in addresses if not address.endswith(identity.peer))
        network = await _network(
            replace(config, bootstrap=others), identity, run_id, alone=signed is not None
        )
        stack.push_async_callback(network.close)
        signed = signed or known or await _fetch_manifest(network, invite)
        _check_limits(config, signed)
        _check_shard(config, signed)
        disk.save_manifest(signed)
        token = token_for(config.secret, run_id, identity.peer) if config.secret else b""
        daemon = Daemon(signed, network, disk, token, authority)
        stack.push_async_callback(daemon.close)
        started = await asyncio.get_running_loop().run_in_executor(None, daemon.open)
        await _start_workers(daemon, config, signed, started)
        stop.attach(daemon)
        admin = Admin(config.state_dir, lambda: status(daemon), stop.ask, daemon.pause)
        for service in services:
            service(admin.server, daemon)
        await admin.start()
        stack.push_async_callback(admin.close)
        if config.metrics:
            stack.callback(serve_metrics(config.metrics, lambda: status(daemon)))
        return await _live(daemon, started, stop, on_ready, config)


def _run_id(
    signed: SignedManifest | None, invite: Invite | None, known: SignedManifest | None, folder: Path
) -> Digest:
    named = signed.run_id if signed else invite.run_id if invite else None
    if known is not None and named is not None and known.run_id != named:
        raise ConfigError(
            f"this is the state of run {known.run_id[:12]}", str(folder), "another --state folder"
        )
    if named is None and known is None:
        raise ConfigError("no run lies here", str(folder), "an invite, or the folder of a run joined before")
    return named or known.run_id  # type: ignore[union-attr]


async def _network(config: NodeConfig, identity: Identity, run_id: Digest, alone: bool) -> Network:
    """Join the run's network; the publisher of the run may also be the first who is there."""
    try:
        return await Network.start(config, identity, run_id)
    except BootstrapFailed as error:
        if not alone:
            raise
        log.warning("nobody of the last time answers; this peer waits for the others", reason=str(error))
        return await Network.start(replace(config, bootstrap=()), identity, run_id)


async def _fetch_manifest(network: Network, invite: Invite | None) -> SignedManifest:
    """The manifest, from any peer of the run: its digest is the run id, so it does not matter which."""
    assert invite is not None
    loop, reason = asyncio.get_running_loop(), "no peer of the run is in the DHT yet"
    end_s = loop.time() + MANIFEST_S
    while loop.time() < end_s:
        holders = await network.look()
        if holders:
            ref = BlobRef(network.run_id, invite.manifest_bytes)
            try:
                raw = await network.fetcher.fetch(ref, holders, round=1 << 60, kind="state", timeout_s=10)
                return open_manifest(bytes(raw), network.run_id)
            except FetchFailed as error:
                reason = str(error)
            except RemoteProtocolError as error:
                raise ConfigError(str(error), "the run's manifest", "an invite from the researcher") from None
        await asyncio.sleep(0.5)
    raise BootstrapFailed(f"nobody gives the run's manifest: {reason}")


def _check_shard(config: NodeConfig, signed: SignedManifest) -> None:
    """A shard belongs to runs whose members bring their data, and these need one of every worker."""
    if reason := private.refusal(signed.manifest.rounds, config.role, config.shard):
        raise ConfigError(reason, "--shard", "what the run asks for")


def _check_limits(config: NodeConfig, signed: SignedManifest) -> None:
    """Rounds are timed for links of the least speed that the run asks for: a limit below it misses them."""
    least = signed.manifest.rounds.bytes_per_s_min
    limits = {"--upload-mbit": config.upload_bytes_per_s, "--download-mbit": config.download_bytes_per_s}
    for option, limit in limits.items():
        if 0 < limit < least:
            what = f"{limit / 125_000:g} Mbit/s is less than what this run needs of a link"
            raise ConfigError(what, option, f"at least {least / 125_000:g}, or no limit")


async def _start_workers(
    daemon: Daemon, config: NodeConfig, signed: SignedManifest, started: e.Started
) -> None:
    """The trainer of a worker, the evaluator of who evaluates."""
    manifest = signed.manifest
    data = {**manifest.data, "source": config.data} if config.data else manifest.data
    trainer = TrainerConfig(
        model=manifest.model,
        data=data,
        inner=manifest.inner,
        run_seed=hashlib.sha256(signed.run_id.encode()).digest(),
        threads=config.threads,
        device=config.device,
        effort=config.effort,
        log=config.state_dir / "trainer.log",
        fragments=manifest.rounds.fragments,
        partition=manifest.rounds.partition,
        mixing=manifest.rounds.mixing,
    )
    if config.role is Role.WORKER:
        daemon.rounds.training = Training(trainer, daemon.rounds.numbers, daemon.rounds.worker, daemon.feed)
        daemon.rounds.training.rest(daemon.peer.paused)
        await daemon.rounds.training.start(config.state_dir / "inner.safetensors")
        assert daemon.rounds.training.task is not None
        daemon.watch(daemon.rounds.training.task)
    if config.evaluate_windows:
        daemon.rounds.evaluator = Evaluator(trainer, config.evaluate_windows, daemon.rounds.copy_anchor)
        if started.state is not None:
            daemon.rounds.evaluator.evaluate(started.state.round)


class _Stop:
    """The wish to stop: by a signal, by the admin socket, or because there is nothing left to do."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.asked = asyncio.Event()
        self.reason, self.signalled = "stopped", False
        self._daemon: Daemon | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                self._loop.add_signal_handler(number, self._signalled, number)

    def attach(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def _signalled(self, number: signal.Signals) -> None:
        self.reason, self.signalled = f"stopped by {number.name}", True
        if self._daemon is None:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
        self.ask(False)

    def ask(self, finish: bool) -> str:
        """Go now, or after this round's contribution."""
        if self._daemon is not None:
            self._daemon.feed(e.Finish(now=not finish))
        if not finish:
            self._loop.call_later(0.3, self.asked.set)
            return "stops"
        return "stops after this round's contribution"


async def _live(
    daemon: Daemon, started: e.Started, stop: _Stop, on_ready: OnReady, config: NodeConfig
) -> str:
    running = asyncio.ensure_future(daemon.run(started))
    stopping = asyncio.ensure_future(stop.asked.wait())
    try:
        await asyncio.wait({running}, timeout=0.05)
        if not running.done():
            on_ready(status(daemon))
        linger_until: float | None = None
        while True:
            await asyncio.wait({running, stopping}, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            if stopping.done():
                return stop.reason
            ended, now_s = daemon.peer.ended, asyncio.get_running_loop().time()
            if ended is not None and ended.startswith("left"):
                return stop.reason if stop.signalled else "left the run"
            if ended is not None:
                linger_until = linger_until or now_s + config.linger_s
                if now_s >= linger_until and config.role is Role.WORKER:
                    return ended
    finally:
        for task in (running, stopping):
            task.cancel()
        await asyncio.wait({running, stopping})
