"""Throw random and damaged payloads at every decoder, and count what it takes and what it refuses.

    python benchmarks/fuzz_codecs.py --payloads 1000000

A decoder must return the promised vector, or raise RemoteProtocolError. Anything else ends the program with a
traceback: another exception, a value beyond VALUE_MAX, a crash, or memory beyond the promise. The promise is
what the caller's number of elements calls for, see `allowance`; the bytes may claim 2^60 elements.
Memory is watched twice: tracemalloc takes the peak of each decoding (Python's and numpy's memory; the vector
itself is torch's), and the process may not map more than 1 GiB beyond what it began with.

With --bounds-checks the kernels are compiled anew, to check every index: slower, and a wrong one raises
IndexError instead of reading or writing somewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import struct
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch

from atoll.optim.codecs import CODECS, HEADER_BYTES, Codec
from atoll.optim.flat import VALUE_MAX
from atoll.protocol.errors import RemoteProtocolError

SIZES = (0, 1, 2, 7, 8, 100, 127, 128, 129, 255, 256, 257, 1023, 1025, 4095, 4097)
"""Elements promised: around the edges of blocks and of packed bytes."""
ODD_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF)
ODD_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-40, 1.5e17, 1.8e19, 3e38, float("inf"), float("nan"))
MORE_MAPPED = 1 << 30

Damage = Callable[[bytearray, random.Random], bytearray]


def allowance(numel: int) -> int:
    """Bytes that decoding `numel` elements may hold at once, beside the vector: a few working copies of a
    payload, and room for constants. A payload that lies about its size asks for 4 MiB at least."""
    return 256 * 1024 + 32 * numel


def replaced(payload: bytearray, draw: random.Random) -> bytearray:
    """Other bytes throughout, of any length."""
    return bytearray(draw.randbytes(draw.randrange(80)))


def framed(payload: bytearray, draw: random.Random) -> bytearray:
    """The right header and length, any body."""
    payload[HEADER_BYTES:] = draw.randbytes(len(payload) - HEADER_BYTES)
    return payload


def edited(payload: bytearray, draw: random.Random) -> bytearray:
    """A few bytes changed, anywhere."""
    for _ in range(draw.randint(1, 8)):
        payload[draw.randrange(len(payload))] = (
            draw.choice(ODD_BYTES) if draw.random() < 0.5 else draw.randrange(256)
        )
    return payload


def refloated(payload: bytearray, draw: random.Random) -> bytearray:
    """An odd number where a scale or a mean may lie."""
    if len(payload) >= HEADER_BYTES + 4:
        place = draw.randrange((len(payload) - HEADER_BYTES) // 4)
        struct.pack_into("<f", payload, HEADER_BYTES + 4 * place, draw.choice(ODD_FLOATS))
    return payload


def resized(payload: bytearray, draw: random.Random) -> bytearray:
    """Bytes missing, or too many."""
    if draw.random() < 0.5:
        return payload[: draw.randrange(len(payload))]
    return payload + draw.randbytes(draw.randint(1, 300))


def lying(payload: bytearray, draw: random.Random) -> bytearray:
    """A header that claims another codec, block or number of elements."""
    claim = draw.choice(("codec", "block", "numel"))
    if claim == "codec":
        payload[5] ^= draw.randrange(1, 256)
    elif claim == "block":
        payload[6] ^= draw.randrange(1, 256)
    else:
        struct.pack_into("<Q", payload, 8, 1 << draw.randint(20, 60))
    return payload


def untouched(payload: bytearray, draw: random.Random) -> bytearray:
    """What an encoder wrote."""
    return payload


KINDS: tuple[Damage, ...] = (replaced, framed, edited, refloated, resized, lying, untouched)


@dataclass
class Found:
    """What one decoder did."""

    codec: str
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    memory_most: float = 0.0
    """The largest peak of a decoding, as a share of its allowance."""

    def as_line(self) -> str:
        counts = f"accepted {self.accepted.total():8,}  refused {self.refused.total():8,}"
        return f"{self.codec:12} {counts}  memory at most {self.memory_most:.2f} of what was promised"

    def as_json(self) -> dict[str, object]:
        return {
            "codec": self.codec,
            "accepted": self.accepted.total(),
            "refused": self.refused.total(),
            "accepted_by_kind": dict(self.accepted),
            "memory_most": round(self.memory_most, 3),
        }


def fuzz(codec: Codec, payloads: int, seed: int) -> Found:
    """Decode damaged payloads. Raises AssertionError, or what the decoder raised, at the first fault."""
    draw = random.Random(f"{seed} {codec.name}")
    torch.manual_seed(seed)
    sound = {numel: codec.encode(torch.randn(numel) * 1e-3) for numel in SIZES}
    rooms = {numel: torch.empty(numel) for numel in SIZES}
    found = Found(codec.name)
    for numel, payload in sound.items():  # compile before memory is watched
        codec.decode(payload, numel, rooms[numel])
    tracemalloc.start()
    try:
        for number in range(payloads):
            kind, numel = KINDS[number % len(KINDS)], draw.choice(SIZES)
            payload = bytes(kind(bytearray(sound[numel]), draw))
            taken = decode_one(codec, payload, numel, rooms[numel] if number % 16 else None, found)
            assert taken or kind is not untouched, "refused its own payload"
            (found.accepted if taken else found.refused)[kind.__name__] += 1
    finally:
        tracemalloc.stop()
    return found


def decode_one(codec: Codec, payload: bytes, numel: int, out: torch.Tensor | None, found: Found) -> bool:
    """Whether the payload was accepted."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        values = codec.decode(payload, numel, out)
    except RemoteProtocolError:
        values = None
    held = tracemalloc.get_traced_memory()[1] - before
    assert held <= allowance(numel), f"{held} bytes held for {numel} elements"
    found.memory_most = max(found.memory_most, held / allowance(numel))
    if values is None:
        return False
    assert values.shape == (numel,)
    assert values.dtype == torch.float32
    assert numel == 0 or bool(values.abs().max() <= VALUE_MAX), "a value beyond VALUE_MAX, or none at all"
    return True


def limit_mapped_memory() -> None:
    """So that an absurd allocation fails at once, on Linux."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MORE_MAPPED, resource.RLIM_INFINITY))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--payloads", type=int, default=1_000_000, help="how many, over all codecs")
    parser.add_argument("--codec", choices=list(CODECS), help="one codec only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bounds-checks", action="store_true", help="compile kernels that check every index")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    arguments = parser.parse_args()
    codecs = [CODECS[arguments.codec]] if arguments.codec else list(CODECS.values())
    each = -(-arguments.payloads // len(codecs))
    if not arguments.json:
        print(f"seed {arguments.seed}, {each:,} payloads for each codec")
    torch.set_num_threads(1)
    started = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.bounds_checks:  # numba reads these when the first kernel runs
            os.environ |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": folder}
        for codec in codecs:
            codec.decode(codec.encode(torch.ones(300)), 300)
        limit_mapped_memory()
        rows = []
        for codec in codecs:
            found = fuzz(codec, each, arguments.seed)
            rows.append(found.as_json())
            if not arguments.json:
                print(found.as_line(), flush=True)
    seconds = round(perf_counter() - started, 1)
    if arguments.json:
        seen = {"seed": arguments.seed, "payloads": each * len(codecs), "seconds": seconds, "codecs": rows}
        print(json.dumps(seen | {"bounds_checks": arguments.bounds_checks}))
    else:
        print(
            f"{each * len(codecs):,} payloads in {seconds} s: nothing but vectors and refusals, within memory"
        )


if __name__ == "__main__":
    main()
