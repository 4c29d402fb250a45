"""One hivemind peer of benchmarks/sync.py: a DecentralizedAverager that averages a drawn vector when told.

Matchmaking is over before it is told to go, so only the all-reduce itself is timed. Runs in an environment of
its own (hivemind 1.1.12, numpy below 2.4: with a newer one its 8-bit codecs average nothing).
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import warnings

warnings.simplefilter("ignore")

import hivemind  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from hivemind.averaging.control import AveragingStage  # noqa: E402
from hivemind.compression import Float16Compression, NoCompression, Uniform8BitQuantization  # noqa: E402
from sync_vectors import drawn, say  # noqa: E402

CODECS = {"fp32": NoCompression, "fp16": Float16Compression, "int8": Uniform8BitQuantization}
TIMEOUT_S = 300


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def main() -> None:
    told = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    listen = [f"/ip4/{told['host']}/tcp/0"]
    dht = hivemind.DHT(initial_peers=told["bootstrap"], host_maddrs=listen, start=True)
    say(ready=str(dht.peer_id), multiaddrs=[str(address) for address in dht.get_visible_maddrs()])
    if told["peer"] is None:
        sys.stdin.read()
        dht.shutdown()
        return
    vector = torch.from_numpy(drawn(told["peer"], told["params"]))
    averager = hivemind.DecentralizedAverager(
        [vector.clone()],
        dht,
        start=True,
        prefix="sync",
        target_group_size=told["peers"],
        min_group_size=told["peers"],
        min_matchmaking_time=told["matchmaking_s"],
        compression=CODECS[told["codec"]](),
        client_mode=False,
        allow_state_sharing=False,
        **told["timeouts"],
    )
    say(up=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "match" in asked:
            with averager.get_tensors() as tensors:
                tensors[0].copy_(vector)
            step = averager.step(require_trigger=True, wait=False, timeout=TIMEOUT_S, allow_retries=True)
            while step.stage != AveragingStage.AWAITING_TRIGGER and not step.done():
                time.sleep(0.01)
            say(matched=not step.done())
        elif "go" in asked:
            step.allow_allreduce()
            try:
                done = step.result(TIMEOUT_S) is not None
            except Exception as error:  # noqa: BLE001  whatever hivemind raises is a result
                say(failed=repr(error), at_s=time.monotonic())
                continue
            at_s = time.monotonic()
            with averager.get_tensors() as tensors:
                say(averaged=done, at_s=at_s, digest=digest(tensors[0]))
        elif "dump" in asked:
            with averager.get_tensors() as tensors:
                np.save(asked["dump"], tensors[0].numpy())
            say(dumped=True)
    averager.shutdown()
    dht.shutdown()


if __name__ == "__main__":
    main()
