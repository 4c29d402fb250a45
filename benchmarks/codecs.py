"""Speed of the codecs on one thread, beside plain copies of the same vector.

    python benchmarks/codecs.py --floats 25000000

GB/s are of fp32 values, whatever the payload's size, so lines compare. `encode` makes fresh bytes,
`into` writes to a buffer that is there already, as `decode` does. Ratios are to `clone()`, which touches
fresh memory too: where that is dear (virtual machines), `encode` and `into` lie far apart. A copy to memory
that is there already is the speed of the memory itself. Best of some runs, after one that compiles.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from atoll.optim.codecs import CODECS, Codec

REPEATS = 5


def gigabytes_per_second(action: Callable[[], object], floats: int) -> float:
    """Best of some runs, after one that warms up."""
    action()
    seconds = []
    for _ in range(REPEATS):
        start = perf_counter()
        action()
        seconds.append(perf_counter() - start)
    return 4 * floats / min(seconds) / 1e9


def measure(floats: int, names: list[str]) -> dict[str, object]:
    torch.set_num_threads(1)
    vector = torch.randn(floats, generator=torch.Generator().manual_seed(1)) * 1e-3
    out = torch.empty_like(vector)
    clone = gigabytes_per_second(vector.clone, floats)
    copy = gigabytes_per_second(lambda: out.copy_(vector), floats)
    rows = [measure_codec(CODECS[name], vector, out, clone) for name in names]
    return {"floats": floats, "threads": 1, "clone_gb_s": clone, "copy_gb_s": copy, "codecs": rows}


def measure_codec(codec: Codec, vector: Tensor, out: Tensor, clone: float) -> dict[str, object]:
    floats = vector.numel()
    payload = codec.encode(vector)
    buffer = bytearray(len(payload))
    encode = gigabytes_per_second(lambda: codec.encode(vector), floats)
    into = gigabytes_per_second(lambda: codec.encode_into(vector, buffer), floats)
    decode = gigabytes_per_second(lambda: codec.decode(payload, floats, out), floats)
    return {
        "codec": codec.name,
        "bytes_per_float": len(payload) / floats,
        "encode_gb_s": encode,
        "encode_into_gb_s": into,
        "decode_gb_s": decode,
        "encode_ratio": encode / clone,
        "encode_into_ratio": into / clone,
        "decode_ratio": decode / clone,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--floats", type=int, default=25_000_000, help="elements of the vector")
    parser.add_argument("--codec", choices=list(CODECS), help="one codec only")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    arguments = parser.parse_args()
    if arguments.floats < 1:
        parser.error("--floats must be at least 1")
    found = measure(arguments.floats, [arguments.codec] if arguments.codec else list(CODECS))
    if arguments.json:
        print(json.dumps(found))
        return
    plain = f"clone() {found['clone_gb_s']:.2f} GB/s, copy in place {found['copy_gb_s']:.2f} GB/s"
    print(f"{arguments.floats:,} floats, one thread; {plain}")
    print("codec       bytes/float  encode GB/s (ratio)  into GB/s (ratio)  decode GB/s (ratio)")
    for row in found["codecs"]:
        print(
            f"{row['codec']:10}  {row['bytes_per_float']:11.3f}  "
            f"{row['encode_gb_s']:11.2f} {row['encode_ratio']:6.2f}x  "
            f"{row['encode_into_gb_s']:9.2f} {row['encode_into_ratio']:6.2f}x  "
            f"{row['decode_gb_s']:11.2f} {row['decode_ratio']:6.2f}x"
        )


if __name__ == "__main__":
    main()
