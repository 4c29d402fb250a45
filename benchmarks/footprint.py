"""What a node holds in memory for each parameter, at rest and in an exchange, and what it costs to wait.

    python benchmarks/footprint.py --json

A coordinator, which votes as a witness, and two workers train on loopback with models of two sizes; the slope
between the two is bytes per parameter, without the interpreter and its libraries. Every few milliseconds the
kernel is asked what each process holds (smaps_rollup: anonymous and shared memory, the shared divided among
those who map it; pages of files are the system's to take back and are told apart). At rest is what a tenth of
the samples are below, in an exchange the most. What the same training holds without Atoll is measured in the
same run, in a process that only trains, and taken off. The bound is 12 bytes: anchor, momentum, residual.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from atoll.cli import places
from atoll.cli.demo.swarm import Swarm

RUN = """\
[run]
name = "footprint"
rounds = 100000
[model]
architecture = "llama"
[model.config]
hidden_size = 512
intermediate_size = 1408
num_hidden_layers = {layers}
num_attention_heads = 8
max_position_embeddings = 64
tie_word_embeddings = true
[data]
source = "stdlib"
sequence_tokens = 32
bytes_max = 2_000_000
[inner]
steps = {steps}
batch_sequences = 1
total_steps = 100000
warmup_steps = 10
[rounds]
start_workers = 2
grace_ms_min = 10_000
deadline_ms = 60_000
lease_ms = 60_000
{rules}
[coordinator]
listen = "127.0.0.1:0"
dht_listen = ["/ip4/127.0.0.1/tcp/0"]
evaluate_windows = 0
"""
PLAIN = """\
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from atoll.coordinator.runfile import read
from atoll.workload import model as models, tokens, vector
from atoll.workload.data import Corpus
from atoll.workload.inner import InnerLoop
run = read(Path(sys.argv[1]))
model = models.build(run.model)
corpus = Corpus.load(run.data, tokens.load(run.model.tokenizer, run.model.tokenizer_sha256))
loop = InnerLoop(model, corpus, run.inner, bytes(32))
round_, steps = 0, run.inner.steps
print(json.dumps({"numel": vector.numel(model)}), flush=True)
while True:
    loop.train(round_, steps, 0, 2, round_ * steps, lambda: False, lambda step, loss: None)
    print(json.dumps({"round": round_}), flush=True)
    round_ += 1
"""
BOUND = 12.0
FRAGMENTS = (1, 4)
START_S, ROUND_S = 240.0, 240.0
EVERY_S = 0.004
WARM, WATCHED = 2, 4
"""Updates of the whole model before the clock starts, and while it runs."""


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of one process: its own, its share of what is shared, and pages of files."""

    anonymous: int
    shared: int
    files: int

    @property
    def total(self) -> int:
        return self.anonymous + self.shared


@dataclass(slots=True)
class Watch:
    """Samples of some processes, from a thread."""

    pids: dict[str, int]
    samples: dict[str, list[Held]] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._run, args=(done,))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _run(self, done: threading.Event) -> None:
        while not done.wait(EVERY_S):
            for name, pid in self.pids.items():
                with suppress(OSError):
                    self.samples.setdefault(name, []).append(held(pid))

    def told(self) -> dict[str, float]:
        """At rest and at most, of each process."""
        found: dict[str, float] = {}
        for name, samples in self.samples.items():
            found[f"{name}_rest"] = quantiles((each.total for each in samples), n=10)[0]
            found[f"{name}_peak"] = max(each.total for each in samples)
            found[f"{name}_shared"] = median(each.shared for each in samples)
            found[f"{name}_files"] = median(each.files for each in samples)
        return found


def held(pid: int) -> Held:
    """What a process holds now. Raises OSError if it is gone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    return Held(sizes["Pss_Anon"], sizes["Pss_Shmem"], sizes["Pss_File"])


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> dict[int, str]:
    """The processes that one started, each with its command line."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with suppress(OSError):
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
    return found


# ---- one run --------------------------------------------------------------------------------------


@contextmanager
def swarm_of(run: str, workers: Sequence[str]) -> Iterator[Swarm]:
    with tempfile.TemporaryDirectory(prefix="atoll-footprint-") as folder:
        swarm = Swarm(Path(folder), lambda swarm: None)
        try:
            (swarm.folder / "RUN.toml").write_text(run)
            swarm.start("coordinator", "coordinator", str(swarm.folder / "RUN.toml"))
            state_dir = swarm.children["coordinator"].state_dir
            swarm.until(lambda: places.invite(state_dir) is not None, START_S, "the invite")
            for worker in workers:
                swarm.start(worker, "join", places.invite(state_dir) or "")
            yield swarm
        finally:
            swarm.close()


def trained(layers: int, fragments: int, steps: int) -> dict[str, float]:
    """What a worker's daemon and trainer hold, and a witness."""
    rules = f"fragments = {fragments}\noverlap = 1\n" if fragments > 1 else ""
    run = RUN.format(layers=layers, steps=max(1, steps // fragments), rules=rules)
    with swarm_of(run, ("w1", "w2")) as swarm:
        swarm.until(lambda: updates(swarm) >= WARM * fragments, START_S, "the first updates")
        daemon = swarm.children["w1"].process.pid
        (trainer,) = (pid for pid, line in children(daemon).items() if "atoll.node.trainer" in line)
        witness = swarm.children["coordinator"].process.pid
        watch, until = (
            Watch({"daemon": daemon, "trainer": trainer, "witness": witness}),
            updates(swarm) + WATCHED * fragments,
        )
        with watch.running():
            swarm.until(lambda: updates(swarm) >= until, ROUND_S * WATCHED, "more updates")
        return watch.told()


def updates(swarm: Swarm) -> int:
    return max((status["updates"] for status in swarm.fresh.values()), default=0)


def plain(layers: int, steps: int) -> dict[str, float]:
    """What the same training holds by itself, and the model's parameters."""
    with tempfile.TemporaryDirectory(prefix="atoll-footprint-") as folder:
        path = Path(folder) / "RUN.toml"
        path.write_text(RUN.format(layers=layers, steps=steps, rules=""))
        command = [sys.executable, "-c", PLAIN, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                numel = json.loads(process.stdout.readline())["numel"]
                process.stdout.readline()
                watch = Watch({"plain": process.pid})
                with watch.running():
                    for _ in range(WATCHED):
                        process.stdout.readline()
                return {**watch.told(), "numel": float(numel)}
            finally:
                process.kill()


def idle(seconds: float) -> dict[str, float]:
    """A witness and a worker that waits for a second one."""
    with swarm_of(RUN.format(layers=1, steps=1, rules=""), ("w1",)) as swarm:
        swarm.until(lambda: "w1" in swarm.fresh and "coordinator" in swarm.fresh, START_S, "both")
        time.sleep(5.0)  # what starting still costs
        found: dict[str, float] = {}
        pids = {name: child.process.pid for name, child in swarm.children.items()}
        before = {name: _all_cpu_s(pid) for name, pid in pids.items()}
        time.sleep(seconds)
        for name, pid in pids.items():
            role = "witness" if name == "coordinator" else "worker"
            found[f"{role}_idle_cpu_s_per_min"] = round(60 * (_all_cpu_s(pid) - before[name]) / seconds, 2)
            found[f"{role}_daemon_mib"] = round(held(pid).total / 2**20, 1)
        return found


def _all_cpu_s(pid: int) -> float:
    """Of a daemon and of what it started: p2pd, a trainer."""
    return cpu_s(pid) + sum(map(cpu_s, children(pid)))


# ---- slopes ---------------------------------------------------------------------------------------


def measure(sizes: Sequence[int], steps: int, idle_s: float) -> dict[str, Any]:
    alone = [plain(layers, steps) for layers in sizes]
    numels = [each["numel"] for each in alone]

    def slope(small: float, large: float) -> float:
        return (large - small) / (numels[1] - numels[0])

    own = {part: slope(*(each[f"plain_{part}"] for each in alone)) for part in ("rest", "peak")}
    result: dict[str, Any] = {
        "numels": [int(numel) for numel in numels],
        "bound": BOUND,
        "training_alone": {part: round(value, 2) for part, value in own.items()},
    }
    for fragments in FRAGMENTS:
        small, large = (trained(layers, fragments, steps) for layers in sizes)
        found = {name: slope(small[name], large[name]) for name in small}
        for part in ("rest", "peak"):
            found[f"trainer_{part}"] -= own[part]
            found[f"beyond_{part}"] = found[f"daemon_{part}"] + found[f"trainer_{part}"]
        result[f"fragments_{fragments}"] = {name: round(value, 2) for name, value in sorted(found.items())}
    return {**result, **idle(idle_s)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs=2, default=(2, 5), help="of the two models, 3.2M each")
    parser.add_argument("--steps", type=int, default=8, help="inner steps a round, a multiple of 4")
    parser.add_argument("--idle-s", type=float, default=30.0)
    parser.add_argument("--json", action="store_true", help="one line")
    given = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("what a process holds is read from Linux's /proc")
    result = measure(given.layers, given.steps, given.idle_s)
    within = all(result[f"fragments_{fragments}"]["beyond_rest"] <= BOUND for fragments in FRAGMENTS)
    print(json.dumps({**result, "within_bound": within}, indent=None if given.json else 1))


if __name__ == "__main__":
    main()
