"""One Atoll peer of sync.py and join.py: a whole node, whose trainer hands over a drawn vector when told.

All after that is the node's own: encoding, offer, exchange, votes, outer step, files. It is started with one
JSON object, is told `{"go": true}` and the like on stdin, and answers in lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from sync_vectors import drawn, say

import atoll.node.training as training_module
from atoll.node.config import NodeConfig
from atoll.node.daemon import Daemon
from atoll.node.serve import serve
from atoll.node.shared_round import SharedRound
from atoll.node.spent import Spent
from atoll.node.state_files import Draft
from atoll.node.status import status
from atoll.node.trainer import TrainerConfig, TrainResult
from atoll.protocol import events as e
from atoll.protocol.ids import digest_of
from atoll.protocol.manifest import open_manifest
from atoll.protocol.messages import Join
from atoll.protocol.roster import Role

TOKENS = 1000


class DrawnTrainer:
    """In the trainer's place: its vectors are this process's memory, and its work is to wait for the word.

    A trainer leaves its pseudo-gradient in shared memory and then hands over. So does this one, when it is
    told to draw, or at the last moment.
    """

    vector: np.ndarray[Any, Any]
    go: asyncio.Event
    draw: Callable[[], None]
    pid = 0

    def __init__(self) -> None:
        self.numel = self.vector.size
        self.shared = SharedRound.alone(self.numel, 1)
        self._early = asyncio.Event()
        self.spent = Spent()

    @classmethod
    async def start(cls, config: TrainerConfig, progress: Any) -> DrawnTrainer:
        return cls()

    async def train(
        self,
        round: int,
        steps: int,
        member: int,
        members: int,
        first_step: int,
        fragment: int = 0,
        fresh: bool = True,
    ) -> TrainResult:
        self._early.clear()
        drawn = False

        def draw() -> None:
            nonlocal drawn
            if not drawn:
                drawn = True
                self.shared.delta.copy_(torch.from_numpy(self.vector))

        DrawnTrainer.draw = staticmethod(draw)
        say(trains=round, members=members, at_s=time.monotonic())
        waits = [asyncio.ensure_future(event.wait()) for event in (self.go, self._early)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        done = self.go.is_set()
        self.go.clear()
        draw()
        return TrainResult(int(done), TOKENS * done, 0.0, 0.0, True, 0.0)

    def stop_early(self) -> None:
        self._early.set()

    async def save_inner(self, path: Path) -> None: ...
    async def load_inner(self, path: Path) -> None: ...
    async def close(self) -> None: ...


def watch(daemon: Daemon) -> None:
    """Tell of every state that this peer has from an update on, and when it had it."""
    feed = daemon.feed

    def told(event: e.Event) -> None:
        if isinstance(event, e.StateLoaded):
            say(applied=event.round, at_s=time.monotonic(), anchor=event.anchor)
        if isinstance(event, e.Trained):
            say(trained=event.round, at_s=time.monotonic())
        feed(event)

    load_state = daemon.rounds.load_state

    async def loading(load: Any) -> None:
        say(loading=load.round, at_s=time.monotonic())
        await load_state(load)

    send = daemon.network.send

    def sending(peer: Any, message: Any, *rest: Any) -> None:
        if isinstance(message, Join):
            say(asks=message.round, at_s=time.monotonic())
        send(peer, message, *rest)

    keep_state, keep_local = daemon.disk.keep_state, daemon.disk.keep_local
    kept: list[Draft] = []

    def keeps(state: Draft) -> None:
        keep_state(state)
        kept[:] = [state]

    def saved(residual: Draft) -> None:
        keep_local(residual)
        say(saved=int(kept[0].path.stem.partition("-")[2]))

    daemon.disk.keep_state = keeps  # type: ignore[method-assign]
    daemon.feed, daemon.disk.keep_local = told, saved  # type: ignore[method-assign]
    daemon.rounds._feed, daemon.rounds.load_state = told, loading  # type: ignore[method-assign]
    daemon.network.send = sending  # type: ignore[method-assign]
    if daemon.rounds.training is not None:
        daemon.rounds.training._feed = told


async def obey(daemon: Daemon, ask_stop: Any, go: asyncio.Event) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        told = json.loads(line)
        if "go" in told:
            go.set()
        elif "draw" in told:
            DrawnTrainer.draw()
            say(drawn=True)
        elif "traffic" in told:
            told_status = status(daemon)
            paths = [line["path"] for line in told_status["members"] if line["path"]]
            roles = [m.role.name for m in daemon.peer.terms.members]
            say(traffic=told_status["traffic"], roles=roles, paths=paths)
        elif "finish" in told:
            daemon.feed(e.Finish(now=False))
        elif "repeated" in told:
            say(repeated=daemon.rounds.states.repeated_bytes)
        elif "dump" in told:
            np.save(told["dump"], daemon.rounds.numbers.anchor.numpy())
            say(dumped=True)
    ask_stop()


async def main() -> None:
    told = json.loads(sys.argv[1])
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    torch.set_num_threads(1)
    raw = Path(told["manifest"]).read_bytes()
    signed = open_manifest(raw, digest_of(raw))
    role = Role.WITNESS if told["peer"] is None else Role.WORKER
    go = asyncio.Event()
    if role is Role.WORKER:
        DrawnTrainer.vector, DrawnTrainer.go = drawn(told["peer"], signed.manifest.numel), go
        training_module.Trainer = DrawnTrainer  # type: ignore[assignment, misc]
    config = NodeConfig(
        state_dir=Path(told["folder"]),
        role=role,
        listen=f"{told['host']}:0",
        dht_listen=(f"/ip4/{told['host']}/tcp/0",),
        bootstrap=tuple(told["bootstrap"]),
        linger_s=1e6,
    )
    tasks = []

    def hook(server: Any, daemon: Daemon) -> None:
        watch(daemon)
        tasks.append(asyncio.ensure_future(obey(daemon, lambda: daemon.feed(e.Finish(now=True)), go)))

    def ready(first: dict[str, Any]) -> None:
        say(ready=first["peer"], multiaddrs=first["multiaddrs"], at_s=time.monotonic())

    await serve(config, signed, None, ready, (hook,))


if __name__ == "__main__":
    asyncio.run(main())
