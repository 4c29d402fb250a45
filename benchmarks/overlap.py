"""How much of the time trainers train, where updates block them and where they stream; links of three speeds.

    sudo python benchmarks/overlap.py --json

Two workers and a witness, real processes on shaped links (tests/netlab: Linux and root). First the compute
time of a round is measured on links without a limit. Then the workers' links get the rate at which sending
what a round must send (`bytes_lower_bound`) takes 10 %, 50 % and 90 % of that time. Blocking, one round is
the whole model; streaming, it is one fragment of four, trained two rounds ahead: as many bytes for as many
inner steps. Utilisation is the trainers' busy seconds by wall seconds. The bound for blocking is 1 / (1 +
share); for streaming it is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "netlab"))

from netlab import Host, Lab, Link, why_not

from atoll.cli import places
from atoll.cli.demo.swarm import Swarm

RUN = """\
[run]
name = "overlap"
rounds = 100000
[model]
architecture = "llama"
[model.config]
hidden_size = 192
intermediate_size = 512
num_hidden_layers = 4
num_attention_heads = 4
max_position_embeddings = 128
tie_word_embeddings = true
[data]
source = "stdlib"
sequence_tokens = 128
bytes_max = 2_000_000
[inner]
steps = {steps}
batch_sequences = 4
total_steps = 100000
warmup_steps = 10
[rounds]
start_workers = 2
grace_ms_min = 2_000
deadline_ms = 60_000
lease_ms = 20_000
{rules}
[coordinator]
listen = "0.0.0.0:0"
dht_listen = ["/ip4/0.0.0.0/tcp/0"]
evaluate_windows = 0
"""
WORKERS = ("w1", "w2")
SHARES = (0.1, 0.5, 0.9)
FRAGMENTS, OVERLAP = 4, 2
MODES = {"blocking": (1, ""), "streaming": (FRAGMENTS, f"fragments = {FRAGMENTS}\noverlap = {OVERLAP}\n")}
START_S, ROUND_S = 180.0, 180.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="of the whole model, for each speed")
    parser.add_argument("--steps", type=int, default=24, help="inner steps for each of them, a multiple of 4")
    parser.add_argument("--rtt-ms", type=float, default=40.0)
    parser.add_argument("--json", action="store_true", help="one line")
    given = parser.parse_args()
    if reason := why_not():
        sys.exit(f"a shaped link needs a netlab: {reason}")
    result: dict[str, Any] = {"rounds": given.rounds, "steps": given.steps, "rtt_ms": given.rtt_ms}
    for mode in MODES:
        result[mode] = measure(mode, given.rounds, given.steps, given.rtt_ms)
    print(json.dumps(result, indent=None if given.json else 1))


def measure(mode: str, rounds: int, steps: int, rtt_ms: float) -> list[dict[str, float]]:
    fragments, rules = MODES[mode]
    free = Link(delay_ms=rtt_ms / 2)
    with (
        tempfile.TemporaryDirectory(prefix="atoll-overlap-") as folder,
        Lab(Host("coordinator"), *map(Host, WORKERS), link=free) as lab,
    ):
        swarm = Swarm(Path(folder), lambda swarm: None)
        try:
            _start(swarm, lab, RUN.format(steps=steps // fragments, rules=rules))
            _rounds(swarm, 2 * fragments)
            compute_s = _utilisation(swarm, 3 * fragments)[1] * fragments
            bound = swarm.statuses["w1"]["bytes_lower_bound"] * fragments
            points = []
            for share in SHARES:
                mbit = 8e-6 * bound / (share * compute_s)
                for worker in WORKERS:
                    lab.link(worker, Link(mbit, rtt_ms / 2))
                _rounds(swarm, fragments)
                utilisation, _ = _utilisation(swarm, rounds * fragments)
                points.append(
                    {
                        "share": share,
                        "mbit": round(mbit, 2),
                        "compute_s": round(compute_s, 2),
                        "utilisation": round(utilisation, 4),
                        "bound": round(1 / (1 + share) if mode == "blocking" else 1.0, 4),
                    }
                )
            return points
        finally:
            swarm.close()


def _start(swarm: Swarm, lab: Lab, run: str) -> None:
    (swarm.folder / "RUN.toml").write_text(run)
    with lab.inside("coordinator"):
        swarm.start("coordinator", "coordinator", str(swarm.folder / "RUN.toml"))
    state_dir = swarm.children["coordinator"].state_dir
    swarm.until(lambda: places.invite(state_dir) is not None, START_S, "the invite")
    for worker in WORKERS:
        with lab.inside(worker):
            swarm.start(worker, "join", places.invite(state_dir) or "")
    swarm.until(lambda: _updates(swarm) >= 1, START_S, "the first update")


def _updates(swarm: Swarm) -> int:
    return max((status["updates"] for status in swarm.fresh.values()), default=0)


def _rounds(swarm: Swarm, count: int) -> int:
    begun = _updates(swarm)
    swarm.until(lambda: _updates(swarm) >= begun + count, ROUND_S * count, f"{count} more updates", fast=True)
    return _updates(swarm) - begun


def _utilisation(swarm: Swarm, count: int) -> tuple[float, float]:
    """The workers' mean busy share over so many updates, and their busy seconds for each."""
    swarm.look()
    begun_s, before = time.monotonic(), _busy(swarm)
    done = _rounds(swarm, count)
    wall_s, after = time.monotonic() - begun_s, _busy(swarm)
    busy_s = mean(after[worker] - before[worker] for worker in WORKERS)
    return busy_s / wall_s, busy_s / done


def _busy(swarm: Swarm) -> dict[str, float]:
    return {worker: swarm.statuses[worker]["training"]["busy_s"] for worker in WORKERS}


if __name__ == "__main__":
    main()
