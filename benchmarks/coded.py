"""Whether a coded run comes to the same anchors with a worker frozen in every round as without, bit for bit.

    python benchmarks/coded.py --json                   # --code shards: private data, each on two machines

Real processes on loopback: a coordinator and six workers, of which two each train one unit: `replicas = 2`,
or with `--code shards` the two that hold the same files, which nobody else has.
The same signed run is made twice: once undisturbed, once with another worker's processes stopped (SIGSTOP) as
soon as a round begins and let go on (SIGCONT) when the others have committed it. Exits with 1 if one anchor
differs, or a round was skipped, or a worker that was stopped contributed to its round nevertheless.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "swarm"))

from story import COORDINATOR, DIRECT, START_S, join, start_coordinator

from atoll.cli import places
from atoll.cli.demo.swarm import Swarm
from atoll.coordinator import runfile
from atoll.coordinator.publish import publish
from atoll.node.disk import read_ledger
from atoll.protocol.commits import Body, Kind
from atoll.protocol.keys import Key

ROUND_S = 120.0
CODES = {"replicas": "replicas = {replicas}", "shards": 'shards = "private"'}
GATHERING = 1
"""The round in which the workers join; the next one is the first to be trained for."""
RUN = """\
[run]
name = "coded"
rounds = 100_000

[model]
architecture = "llama"
[model.config]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 64
tie_word_embeddings = true

[data]
source = "stdlib"
sequence_tokens = 32
bytes_max = 200_000

[inner]
steps = {steps}
batch_sequences = 2
state = "unit"
learning_rate = 1e-3
warmup_steps = 10
total_steps = 100_000

[outer]
codec = "fp32"
feedback = 0.0

[rounds]
{coding}
start_workers = {workers}
deadline_ms = 4_000
retry_ms = 300
lease_ms = 8_000
keep_rounds = 64

[coordinator]
listen = "127.0.0.1:0"
dht_listen = ["/ip4/127.0.0.1/tcp/0"]
evaluate_windows = 0
"""


class Freezable(Swarm):
    """A swarm of which one worker at a time may be frozen; that one is not asked how it is."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, lambda swarm: None)
        self.frozen: str | None = None
        self._stopped: list[psutil.Process] = []

    @property
    def living(self) -> list[str]:
        return [name for name in super().living if name != self.frozen]

    def close(self) -> None:
        self.thaw()
        super().close()

    def freeze(self, name: str) -> None:
        """Stop a worker's daemon and what it started: trainer and libp2p."""
        daemon = psutil.Process(self.children[name].process.pid)
        self.frozen, self._stopped = name, [daemon, *daemon.children(recursive=True)]
        for process in self._stopped:
            process.suspend()

    def thaw(self) -> None:
        for process in reversed(self._stopped):
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self.frozen, self._stopped = None, []


@dataclass
class Run:
    """What became of it: the bodies of its commits in order, who was stopped in which round, and how long."""

    bodies: list[Body] = field(default_factory=list)
    stopped: dict[int, str] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def height(swarm: Swarm, names: list[str]) -> int:
    return min(swarm.statuses.get(name, {}).get("height", 0) for name in names)


def shard_options(folder: Path, workers: list[str], replicas: int) -> dict[str, tuple[str, ...]]:
    """Texts that only their holders have: the modules of the standard library by their first letters."""
    modules = sorted(path for path in Path(json.__file__).parent.parent.glob("*.py") if path.stat().st_size)
    shards = len(workers) // replicas
    for shard in range(shards):
        (folder / f"data-{shard}").mkdir(parents=True)
        for path in modules[shard * len(modules) // shards : (shard + 1) * len(modules) // shards]:
            shutil.copy(path, folder / f"data-{shard}" / path.name)
    held = {name: place % shards for place, name in enumerate(workers)}
    return {name: ("--shard", f"library-{held[name]}={folder}/data-{held[name]}/*.py") for name in workers}


def begin(swarm: Freezable, workers: list[str], options: dict[str, tuple[str, ...]]) -> None:
    """Start all, and wait until the workers are members."""
    start_coordinator(swarm)
    state_dir = swarm.children[COORDINATOR].state_dir
    swarm.until(lambda: places.invite(state_dir) is not None, START_S, "the invite")
    invite = places.invite(state_dir)
    assert invite is not None
    for name in workers:
        join(swarm, name, invite, (*DIRECT, *options.get(name, ())))
    swarm.until(lambda: height(swarm, workers) >= GATHERING, START_S, "all workers as members", fast=True)


def go_through(swarm: Freezable, workers: list[str], rounds: int, disturbed: bool) -> Run:
    """One round more than is compared: the anchor that a round leaves behind stands in the next commit."""
    run = Run(peers={name: swarm.statuses[name]["peer"] for name in workers})
    ranked = sorted(workers, key=lambda name: run.peers[name])
    began_s = time.monotonic()
    for round_ in range(GATHERING + 1, GATHERING + rounds + 2):
        if disturbed:
            victim = ranked[(round_ - GATHERING - 1) % len(ranked)]
            swarm.freeze(victim)
            run.stopped[round_] = run.peers[victim]
        others = [name for name in (COORDINATOR, *workers) if name != swarm.frozen]
        swarm.until(
            lambda names=others, wanted=round_: height(swarm, names) >= wanted,  # type: ignore[misc]
            ROUND_S,
            f"round {round_}",
            fast=True,
        )
        swarm.thaw()
    run.seconds = time.monotonic() - began_s
    return run


def one(published: Path, folder: Path, text: str, given: argparse.Namespace, disturbed: bool) -> Run:
    """A whole run in processes of its own, from the coordinator's folder as it was published."""
    shutil.copytree(published, folder / COORDINATOR)
    (folder / "RUN.toml").write_text(text)
    workers = [f"w{number}" for number in range(1, given.workers + 1)]
    with closing(Freezable(folder)) as swarm:
        options = shard_options(folder, workers, given.replicas) if given.code == "shards" else {}
        begin(swarm, workers, options)
        run = go_through(swarm, workers, given.rounds, disturbed)
        ledger = read_ledger(swarm.children[COORDINATOR].state_dir, Key.generate())
    run.bodies = [commit.body for commit in ledger.commits][: GATHERING + given.rounds + 1]
    return run


def faults(calm: Run, disturbed: Run) -> Iterator[str]:
    """What is not as it should be."""
    for name, run in (("undisturbed", calm), ("disturbed", disturbed)):
        for body in run.bodies[GATHERING:]:
            if body.kind is not Kind.UPDATE:
                yield f"round {body.round} of the {name} run was skipped"
    for body in disturbed.bodies[GATHERING:]:
        if disturbed.stopped[body.round] in body.counted:
            yield f"round {body.round} counts the worker that was stopped in it"


def report(calm: Run, disturbed: Run, rounds: int) -> dict[str, object]:
    pairs = list(zip(calm.bodies, disturbed.bodies, strict=True))[GATHERING:]
    same = [one.anchor == other.anchor for one, other in pairs]
    names = {peer: name for name, peer in disturbed.peers.items()}
    return {
        "rounds": rounds,
        "identical": all(same) and len(pairs) == rounds + 1,
        "anchors": [one.anchor[:12] for one, _ in pairs[1:]],
        "stopped": [names[disturbed.stopped[body.round]] for _, body in pairs[:-1]],
        "faults": list(faults(calm, disturbed)),
        "seconds": {"undisturbed": round(calm.seconds, 1), "disturbed": round(disturbed.seconds, 1)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--code", choices=tuple(CODES), default="replicas")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="leave logs and ledgers in this folder")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atoll-coded-") as made:
        folder = given.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        coding = CODES[given.code].format(replicas=given.replicas)
        text = RUN.format(steps=given.steps, coding=coding, workers=given.workers)
        (folder / "RUN.toml").write_text(text)
        (folder / "published").mkdir(mode=0o700)
        publish(runfile.read(folder / "RUN.toml"), folder / "published")
        calm, disturbed = (
            one(folder / "published", folder / name, text, given, name == "disturbed")
            for name in ("undisturbed", "disturbed")
        )
        found = report(calm, disturbed, given.rounds)
    if given.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:10} {value}")
    return int(not found["identical"] or bool(found["faults"]))


if __name__ == "__main__":
    sys.exit(main())
