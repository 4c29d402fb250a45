"""What robust aggregation costs beside the weighted mean: seconds and memory for one owner's part.

    python benchmarks/robust.py --json

Every rule aggregates the same encoded contributions, two of which lie, on one thread, with the median-norm
clip and without. `ratio` is to the weighted mean of the same run, measured before and after. `peak_bytes` is
what a rule needs beside the payloads and the result, as the system counts it (Linux; else null). Best of some
runs, after one that compiles.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

from atoll.optim.codecs import CODECS, Codec, codec
from atoll.optim.mean import weighted_mean
from atoll.optim.robust import RULES, aggregate

Contributions = list[tuple[int, bytes]]


def contributions_of(floats: int, peers: int, each: Codec) -> Contributions:
    """A common part and noise for each; the last of every four lies, ten times as loud."""
    common = torch.randn(floats, generator=torch.Generator().manual_seed(0)) * 1e-3
    found = []
    for peer in range(peers):
        vector = (
            torch.randn(floats, generator=torch.Generator().manual_seed(peer + 1)).mul_(1e-3).add_(common)
        )
        if peer % 4 == 3:
            vector.mul_(-10)
        found.append((8192 + peer, each.encode(vector)))
    return found


def seconds_of(action: Callable[[], object], repeats: int) -> float:
    """Best of some runs."""
    found = []
    for _ in range(repeats):
        start = perf_counter()
        action()
        found.append(perf_counter() - start)
    return min(found)


def peak_bytes_of(action: Callable[[], object]) -> int | None:
    """How far resident memory rises during the action."""
    try:
        ctypes.CDLL(None).malloc_trim(
            0
        )  # or else what an earlier run has freed would be used again, uncounted
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        before = _status("VmRSS")
        action()
        return _status("VmHWM") - before
    except (OSError, AttributeError):
        return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def measure(floats: int, peers: int, each: Codec, repeats: int) -> dict[str, object]:
    torch.set_num_threads(1)
    contributions = contributions_of(floats, peers, each)
    out = torch.zeros(floats)
    plain = partial(weighted_mean, contributions, each, floats, out)
    plain()
    before = seconds_of(plain, repeats)
    rows = []
    for name in RULES:
        for clip in (False, True):
            rule = partial(
                aggregate, name, contributions, each, floats, faulty=peers // 4, clip=clip, seed=b"", out=out
            )
            rule()
            rows.append({"rule": name, "clip": clip, "seconds": seconds_of(rule, repeats)})
            rows[-1]["peak_bytes"] = peak_bytes_of(rule)
    mean = min(before, seconds_of(plain, repeats))
    for row in rows:
        row["ratio"] = row["seconds"] / mean
    return {
        "floats": floats,
        "peers": peers,
        "codec": each.name,
        "threads": 1,
        "weighted_mean_seconds": mean,
        "weighted_mean_peak_bytes": peak_bytes_of(plain),
        "vector_bytes": 4 * floats,
        "rules": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--floats", type=int, default=25_000_000, help="elements of the part")
    parser.add_argument("--peers", type=int, default=8, help="contributions")
    parser.add_argument("--codec", choices=list(CODECS), default="int8")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    arguments = parser.parse_args()
    if min(arguments.floats, arguments.peers, arguments.repeats) < 1:
        parser.error("--floats, --peers and --repeats must be at least 1")
    found = measure(arguments.floats, arguments.peers, codec(arguments.codec), arguments.repeats)
    if arguments.json:
        print(json.dumps(found))
        return
    print(
        f"{found['peers']} {found['codec']} contributions of {arguments.floats:,} floats, one thread; "
        f"weighted mean {found['weighted_mean_seconds']:.2f} s"
    )
    print("rule               clip   seconds  ratio  peak MB")
    for row in found["rules"]:
        peak = "?" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.1f}"
        clip = "yes" if row["clip"] else "no"
        print(f"{row['rule']:18} {clip:5} {row['seconds']:8.2f} {row['ratio']:6.1f} {peak:>8}")


if __name__ == "__main__":
    main()
