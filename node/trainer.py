"""The daemon's side of the trainer process: start it, ask it, notice its death.

Torch runs in a process of its own, so that neither its GIL nor its crash touches the network. The two
vectors `anchor` and `delta` are shared memory (shared_round.py); everything else is a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.node.shared_round import FILES, SharedRound
from atoll.node.shared_tensors import anonymous_file
from atoll.node.spent import Spent
from atoll.protocol.errors import ConfigError

log = logging.getLogger("atoll.node")

LINE_BYTES_MAX = 64 << 20
CLOSE_GRACE_S = 5.0
STARTED = "atoll.node.trainer_start"

Message = dict[str, Any]


class TrainerDied(Exception):
    """The trainer process ended. `returncode` is its exit status, negative if a signal ended it."""

    def __init__(self, returncode: int) -> None:
        self.returncode = returncode
        super().__init__(f"the trainer process ended with status {returncode}")


@dataclass(frozen=True, slots=True)
class Progress:
    """One inner step: its number in the round, from 1, and its loss in nats per token."""

    round: int
    step: int
    loss: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished or shortened round of inner steps; the pseudo-gradient is in `delta`.

    Losses are NaN after no step. If not `finite`, nothing of it may be contributed.
    """

    steps: int
    tokens: int
    mean_loss: float
    last_loss: float
    finite: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """What a trainer needs: the manifest's three sections, the run's seed, and this machine's part.

    `effort` is the share of the time that it trains. `log` is the file that the process's stderr is appended
    to; without one it shares the daemon's.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    inner: Mapping[str, Any]
    run_seed: bytes
    threads: int = 1
    device: str = "cpu"
    effort: float = 1.0
    log: Path | None = None
    fragments: int = 1
    partition: str = "balanced"
    mixing: float = 0.0


class Trainer:
    """A running trainer process. `spent` is where its seconds went, as it told last.

    `shared` holds the vectors: `anchor`, which the daemon writes, and `delta`, which `train` writes and is to
    be left alone until it returns. Both stay readable after the process has died. Start it from the thread
    that runs the event loop: Linux ends the child when the thread that made it ends.
    """

    def __init__(self, process: subprocess.Popen[bytes], progress: Callable[[Progress], None]) -> None:
        self._process = process
        self._progress = progress
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._last = 0
        self._training = 0
        self._died: int | None = None
        self.spent = Spent()

    @classmethod
    async def start(cls, config: TrainerConfig, progress: Callable[[Progress], None]) -> Trainer:
        """Start the process and wait until it can train.

        Raises ConfigError with the child's words, OSError if there is no memory for the vectors, TrainerDied.
        """
        files = [anonymous_file(name) for name in FILES]
        try:
            ours, process = _spawn(config, files)
            self = cls(process, progress)
            await self._connect(ours)
            try:
                self._adopt(await self._ask("start", _opening(config)), files, config.fragments)
            except BaseException:
                if self._died is None:
                    process.kill()  # it is still importing, and would read nothing for seconds
                await self.close()
                raise
        finally:
            for descriptor in files:
                os.close(descriptor)
        return self

    async def _connect(self, ours: socket.socket) -> None:
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES_MAX)
        self._reading = asyncio.create_task(self._read(reader), name="trainer")

    def _adopt(self, facts: Message, files: list[int], fragments: int) -> None:
        self.numel: int = facts["numel"]
        self.slots = tuple((name, tuple(shape)) for name, shape in facts["slots"])
        self.corpus_digest: str = facts["corpus"]
        self.windows: int = facts["windows"]
        self.step_tokens: int = facts["step_tokens"]
        self.shared = SharedRound(files, self.numel, fragments)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def initial_vector(self) -> None:
        """Write the first parameters, from seed or checkpoint, into `anchor`."""
        await self._ask("initial", {})

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
        """Train `steps` inner steps on this member's shard; the fragment of `delta` is then anchor - local.

        Begin with `anchor` if `fresh`, else where the last call ended. `first_step` is the run's global step
        at which this round starts.
        """
        given = {
            "round": round,
            "steps": steps,
            "member": member,
            "members": members,
            "first_step": first_step,
            "fragment": fragment,
            "fresh": fresh,
        }
        return TrainResult(**await self._ask("train", given))

    def stop_early(self) -> None:
        """Let the last `train` return after its present step, or before its first. Without one, nothing."""
        if self._training in self._pending:
            self._send({"id": self._training, "command": "stop"})

    async def evaluate(self, windows: int) -> float:
        """Give `anchor`'s mean loss, nats per token, over at most `windows` held-out windows."""
        return float(await self._ask("evaluate", {"windows": windows}))

    async def sample(self, prompt: str, count: int, seed: int = 0) -> str:
        """Give the text of at most `count` tokens that `anchor` writes after `prompt`."""
        return str(await self._ask("sample", {"prompt": prompt, "count": count, "seed": seed}))

    async def falls(
        self, anchor: Path, offset: int, step: Path, round: int, shard: tuple[int, int], steps: Sequence[int]
    ) -> tuple[float, float, float]:
        """By how much a step from an anchor lowers the loss: held-out, on a member's steps, on nobody's.

        Both lie in files, fp32. What was trained and not handed over is lost. Raises OSError.
        """
        member, members = shard
        work = {"round": round, "member": member, "members": members, "steps": list(steps)}
        given = {"anchor": str(anchor), "offset": offset, "step": str(step), "work": work}
        heldout, assigned, control = await self._ask("falls", given)
        return heldout, assigned, control

    async def save_inner(self, path: Path) -> None:
        """Save the inner optimiser's moments in one rename, as they are after what was asked before.

        Training goes on once they are copied. Raises OSError.
        """
        await self._ask("save_inner", {"path": str(path)})

    async def load_inner(self, path: Path) -> None:
        """Load them. Raises ConfigError if the file is damaged; the present moments then stay."""
        await self._ask("load_inner", {"path": str(path)})

    async def close(self) -> None:
        """End the process, by force after a few seconds. May be called twice, and after its death."""
        if self._died is None:
            self.stop_early()
            self._send({"id": self._last + 1, "command": "exit"})
        await asyncio.wait({self._reading}, timeout=CLOSE_GRACE_S)
        if not self._reading.done():
            self._process.kill()
            await asyncio.wait({self._reading}, timeout=CLOSE_GRACE_S)

    async def _ask(self, command: str, given: Message) -> Any:
        if self._died is not None:
            raise TrainerDied(self._died)
        self._last += 1
        number = self._last
        if command == "train":
            self._training = number
        future = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            self._send({"id": number, "command": command, "with": given})
            return await future
        except asyncio.CancelledError:
            self._send({"id": number, "command": "stop"})
            raise
        finally:
            self._pending.pop(number, None)

    def _send(self, message: Message) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hand out answers until the socket ends; then the process is dead or dying, or cannot be heard."""
        try:
            while line := await reader.readline():
                self._take(json.loads(line))
        except (OSError, ValueError) as error:
            log.info("the trainer is heard no more: %s", error)
            self._process.kill()
        except asyncio.CancelledError:
            self._process.kill()
            raise
        finally:
            self._writer.close()
            self._bury(await asyncio.to_thread(_reap, self._process))

    def _take(self, message: Message) -> None:
        future = self._pending.get(message["id"])
        if "spent" in message:
            self.spent = Spent(**message["spent"])
        if "progress" in message:
            asyncio.get_running_loop().call_soon(self._progress, Progress(**message["progress"]))
        elif future is not None and not future.done():
            if "error" in message:
                future.set_exception(_error(message["error"]))
            else:
                future.set_result(message["result"])

    def _bury(self, returncode: int) -> None:
        self._died = returncode
        for future in self._pending.values():
            if not future.done():
                future.set_exception(TrainerDied(returncode))


def _opening(config: TrainerConfig) -> Message:
    return {
        "model": dict(config.model),
        "data": dict(config.data),
        "inner": dict(config.inner),
        "run_seed": config.run_seed.hex(),
        "threads": config.threads,
        "device": config.device,
        "effort": config.effort,
        "fragments": config.fragments,
        "partition": config.partition,
        "mixing": config.mixing,
    }


def _spawn(config: TrainerConfig, files: list[int]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start the child with its socket and its two files; nothing else is inherited."""
    ours, theirs = socket.socketpair()
    anchor, delta = files
    arguments = [
        f"--parent={os.getpid()}",
        f"--socket={theirs.fileno()}",
        f"--anchor={anchor}",
        f"--delta={delta}",
    ]
    try:
        with open(config.log, "ab") if config.log else os.fdopen(os.dup(2), "ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", STARTED, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=[theirs.fileno(), anchor, delta],
                env=_environment(config.threads),
                start_new_session=True,
            )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, process


def _environment(threads: int) -> dict[str, str]:
    """The child's environment: its share of cores, no look at the hub, no modules from the user's folder."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONSAFEPATH": "1",
    }


def _reap(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process whose socket has ended; kill one that lingers."""
    try:
        return process.wait(CLOSE_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _error(given: Message) -> ConfigError | OSError:
    if given["kind"] == "config":
        return ConfigError(given["what"], given["where"], given["right"])
    return OSError(given["errno"], given["text"], given["path"])
