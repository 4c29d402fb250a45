"""The exchange over torch.distributed: one all-gather of bytes, by gloo, NCCL or whatever the group uses."""

from __future__ import annotations

import struct

import torch
import torch.distributed as dist

from atoll.optim.exchanges import Contributions, Finish

_HEAD = struct.Struct("<QQ")
"""Weight and length. Sixteen bytes keep what follows aligned."""


class ProcessGroupExchange:
    """Everybody's payload to everybody, in the order of ranks, while training goes on.

    Each rank receives the payloads of all others, so that all sum the same bytes in the same order: n - 1
    payloads a round, where a ring of sums would receive two but round differently. For groups beyond some
    ten ranks the network of `atoll join` is made. A rank that dies ends the others' exchange with torch's
    error, or after the group's timeout: torch's groups do not shrink.

    `group` is torch's default group unless given. The bytes pass through this process's current GPU if the
    group is NCCL's, which knows nothing else.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        nccl = dist.get_backend(group) == "nccl"
        self._device = torch.device(f"cuda:{torch.cuda.current_device()}" if nccl else "cpu")

    def __call__(self, payload: bytes, weight: int) -> Finish:
        """Start an asynchronous all-gather. Raises torch's errors, and so does what it gives."""
        content = bytearray(_HEAD.pack(weight, len(payload)) + payload)
        sent = torch.frombuffer(content, dtype=torch.uint8).to(self._device)
        received = [torch.empty_like(sent) for _ in range(dist.get_world_size(self._group))]
        work = dist.all_gather(received, sent, group=self._group, async_op=True)

        def finish() -> Contributions:
            work.wait()
            return [_opened(each) for each in received]

        return finish


def _opened(received: torch.Tensor) -> tuple[int, memoryview]:
    content = received.cpu().numpy().data
    weight, length = _HEAD.unpack_from(content)
    return weight, content[_HEAD.size : _HEAD.size + length]
