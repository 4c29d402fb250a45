"""How much of the time trainers train, where updates block them and where they stream; links of three speeds.

    sudo python benchmarks/overlap.py --json

Two workers and a witness, real processes on shaped links (tests/netlab: Linux and root). First the compute
time of a round is measured on links without a limit. Then the workers' links get the rate at which sending
what a round must send (`bytes_lower_bound`) takes 10 %, 50 % and 90 % of that time; it is set once more after
a few rounds there, and then stays as it is. Blocking, a round is for the whole model; streaming, for one
fragment of four, trained two rounds ahead.

Utilisation is the trainers' seconds in inner steps by wall seconds, as they count them: merging, handing over
and the copy for a save are not in it (`stopped` says what share of the time each took, `wait` what was waited
for the daemon). The bound for blocking is 1 / (1 + share); for streaming it is 1. `share_reached` is what the
share came to, as other work may take the processor meanwhile, and `mbit` the rate.
`included_share` is how many of the workers' contributions the updates hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
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
grace_ms_min = 20_000
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
WARM_ROUNDS, MEASURED_ROUNDS, SETTLE_ROUNDS = 2, 3, 6
START_S, ROUND_S = 180.0, 120.0
KINDS = ("merge", "hand_over", "save", "wait", "other")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says; `end_s` is when all is to be over, by the monotonic clock."""

    rounds: int
    steps: int
    rtt_ms: float
    shares: tuple[float, ...]
    end_s: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some rounds: how many were committed and how many trained, which may be ahead; the trainers' mean
    seconds by kind and by the wall, and what was included."""

    rounds: int
    trained: float
    spent: dict[str, float]
    wall_s: float
    included_share: float

    @property
    def compute_s(self) -> float:
        return self.spent["steps"] / self.trained

    @property
    def utilisation(self) -> float:
        return self.spent["steps"] / self.wall_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="for each mode and speed")
    parser.add_argument("--steps", type=int, default=12, help="inner steps of a round")
    parser.add_argument("--rtt-ms", type=float, default=40.0)
    parser.add_argument("--minutes", type=float, default=12.0, help="points take fewer rounds beyond that")
    parser.add_argument("--mode", choices=MODES, action="append", help="one of them; without it both")
    parser.add_argument("--share", type=float, action="append", help="one of them; without it all three")
    parser.add_argument("--json", action="store_true", help="one line")
    given = parser.parse_args()
    if reason := why_not():
        sys.exit(f"a shaped link needs a netlab: {reason}")
    begun_s = time.monotonic()
    result: dict[str, Any] = {"steps": given.steps, "rtt_ms": given.rtt_ms}
    modes, shares = given.mode or list(MODES), tuple(given.share or SHARES)
    for place, mode in enumerate(modes):
        left_s = begun_s + 60 * given.minutes - time.monotonic()
        end_s = time.monotonic() + left_s / (len(modes) - place)
        result[mode] = measure(mode, Asked(given.rounds, given.steps, given.rtt_ms, shares, end_s))
    result["seconds"] = round(time.monotonic() - begun_s, 1)
    print(json.dumps(result, indent=None if given.json else 1))


def measure(mode: str, asked: Asked) -> list[dict[str, Any]]:
    free = Link(delay_ms=asked.rtt_ms / 2)
    with (
        tempfile.TemporaryDirectory(prefix="atoll-overlap-") as folder,
        Lab(Host("coordinator"), *map(Host, WORKERS), link=free) as lab,
    ):
        swarm = Swarm(Path(folder), lambda swarm: None)
        try:
            _start(swarm, lab, RUN.format(steps=asked.steps, rules=MODES[mode][1]))
            _rounds(swarm, WARM_ROUNDS, ROUND_S * WARM_ROUNDS)
            compute_s = _stretch(swarm, MEASURED_ROUNDS, ROUND_S * MEASURED_ROUNDS, asked.steps).compute_s
            points = []
            for place, share in enumerate(asked.shares):
                shaped = Shaped(swarm, lab, share, asked.rtt_ms / 2)
                shaped.set(compute_s)
                shaped.set(_stretch(swarm, SETTLE_ROUNDS, ROUND_S, asked.steps).compute_s)
                left_s = max(0.0, asked.end_s - time.monotonic()) / (len(asked.shares) - place)
                stretch = _stretch(swarm, asked.rounds, left_s, asked.steps)
                points.append({"share": share, **_point(mode, share, stretch), **shaped.told(stretch)})
                compute_s = stretch.compute_s
                print(f"{mode}: {points[-1]}", file=sys.stderr, flush=True)
            return points
        finally:
            swarm.close()


class Shaped:
    """The workers' links, on which what a round must send takes `share` of what a round computes."""

    def __init__(self, swarm: Swarm, lab: Lab, share: float, delay_ms: float) -> None:
        self._swarm, self._lab, self._share, self._delay_ms = swarm, lab, share, delay_ms
        self._wanted_s = self._mbit = 0.0

    def set(self, compute_s: float) -> None:
        """Give them the rate for rounds that compute so long."""
        self._wanted_s = self._share * compute_s
        self._mbit = 8e-6 * float(self._swarm.statuses["w1"]["bytes_lower_bound"]) / self._wanted_s
        for worker in WORKERS:
            self._lab.link(worker, Link(self._mbit, self._delay_ms))

    def told(self, stretch: Stretch) -> dict[str, float]:
        """The rate, and the share that it came to."""
        return {"mbit": round(self._mbit, 2), "share_reached": round(self._wanted_s / stretch.compute_s, 3)}


def _point(mode: str, share: float, stretch: Stretch) -> dict[str, Any]:
    return {
        "utilisation": round(stretch.utilisation, 4),
        "bound": round(1 / (1 + share) if mode == "blocking" else 1.0, 4),
        "included_share": round(stretch.included_share, 4),
        "rounds": stretch.rounds,
        "seconds": round(stretch.wall_s, 1),
        "compute_s": round(stretch.compute_s, 2),
        "stopped": {kind: round(stretch.spent[kind] / stretch.wall_s, 5) for kind in KINDS},
    }


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


def _rounds(swarm: Swarm, count: int, seconds: float) -> int:
    """Let `count` rounds pass, or as many as come to an end in time, at least one."""
    begun, end_s = _updates(swarm), time.monotonic() + seconds

    def over() -> bool:
        done = _updates(swarm) - begun
        return done >= count or (done > 0 and time.monotonic() > end_s)

    swarm.until(over, max(seconds, ROUND_S) + ROUND_S, f"{count} more updates")
    return _updates(swarm) - begun


def _stretch(swarm: Swarm, count: int, seconds: float, steps: int) -> Stretch:
    swarm.look()
    height, before, begun = swarm.statuses["w1"]["height"], _spent(swarm), _trained(swarm, steps)
    done, after = _rounds(swarm, count, seconds), _spent(swarm)
    spent = {
        name.removesuffix("_s"): mean(after[worker][name] - before[worker][name] for worker in WORKERS)
        for name in after["w1"]
    }
    commits = [c for c in swarm.statuses["w1"]["commits"] if c["round"] > height and c["kind"] == "update"]
    included = sum(len(commit["contributors"]) for commit in commits)
    return Stretch(
        done, _trained(swarm, steps) - begun, spent, spent["at"], included / (len(WORKERS) * len(commits))
    )


def _trained(swarm: Swarm, steps: int) -> float:
    """The round in which the trainers are, in the mean."""
    states = [swarm.statuses[worker]["training"] for worker in WORKERS]
    return mean(state["round"] + state["step"] / steps for state in states)


def _spent(swarm: Swarm) -> dict[str, dict[str, float]]:
    return {worker: swarm.statuses[worker]["training"]["spent"] for worker in WORKERS}


if __name__ == "__main__":
    main()
