"""The anchor is read whole or not at all, and a delta that nobody needs holds no memory."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time

import pytest
import torch

from atoll.node.shared_round import SharedRound
from atoll.node.shared_tensors import Memory, anonymous_file

PIECE = slice(0, 1 << 16)
DEADLINE_S = 60.0

READER = """
import json, sys
import torch
from atoll.node.shared_round import SharedRound
torch.set_num_threads(1)
numel = int(sys.argv[3])
shared = SharedRound([int(sys.argv[1]), int(sys.argv[2])], numel, 2)
print("up", flush=True)
seen = set()
while True:
    with shared.locked():
        least, most = float(shared.anchor.min()), float(shared.anchor.max())
        moves = shared.moves().tolist()
    if least != most or moves[0] != most:
        print(json.dumps([least, most, moves]), flush=True)
        break
    seen.add(most)
    if most >= 200:
        print(len(seen), flush=True)
        break
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the memory")
def test_memory_that_is_released_is_the_systems_again() -> None:
    numel = 1 << 20
    file = anonymous_file("test")
    memory = Memory(file, numel, words=3)

    def bytes_held() -> int:
        return os.fstat(file).st_blocks * 512

    memory.vector.fill_(1.0)
    memory.words.fill_(7)
    whole = bytes_held()
    assert whole >= 4 * numel
    memory.release(slice(100, numel // 2))
    assert bytes_held() < 0.6 * whole
    assert torch.equal(memory.vector[:100], torch.ones(100))
    assert torch.equal(memory.vector[numel // 2 :], torch.ones(numel // 2))
    assert memory.words.tolist() == [7, 7, 7]
    memory.reserve()
    assert bytes_held() == whole
    os.close(file)


def test_a_reader_sees_no_step_half_taken() -> None:
    """Another process reads while this one writes, two hundred times."""
    numel = 1 << 18
    files = [anonymous_file(name) for name in ("anchor", "delta")]
    shared = SharedRound(files, numel, 2)
    command = [sys.executable, "-c", READER, *map(str, files), str(numel)]
    with subprocess.Popen(command, pass_fds=files, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "up\n"
        for value in range(1, 201):
            with shared.writing(0):
                for start in range(0, numel, numel // 8):
                    shared.anchor[start : start + numel // 8] = value
        said = json.loads(reader.stdout.readline())
    assert isinstance(said, int), f"a step half taken: {said}"
    for file in files:
        os.close(file)


def test_who_dies_with_the_lock_does_not_keep_it() -> None:
    files = [anonymous_file(name) for name in ("anchor", "delta")]
    shared = SharedRound(files, 8, 1)
    program = (
        READER.split("seen")[0]
        + "held = shared.locked()\nheld.__enter__()\nprint('holds', flush=True)\ninput()\n"
    )
    command = [sys.executable, "-c", program, *map(str, files), "8"]
    with subprocess.Popen(
        command, pass_fds=files, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert [holder.stdout.readline() for _ in range(2)] == ["up\n", "holds\n"]
        with pytest.raises(BlockingIOError):
            fcntl.lockf(shared._memory.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        began_s = time.monotonic()
        holder.kill()
        with shared.writing(0):
            shared.anchor.fill_(1.0)
        assert time.monotonic() - began_s < DEADLINE_S
    for file in files:
        os.close(file)
