"""plain_training.py in four processes that exchange 8-bit pseudo-gradients every 20th step: DiLoCo.

    torchrun --nproc-per-node 4 examples/diloco_training.py --steps 400

The loss begins at 5.5 nats per byte, which is knowing nothing.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from atoll.optim import DiLoCo, ProcessGroupExchange

WINDOW = 128


class Model(nn.Module):
    """Two transformer layers over bytes, about 0.5M parameters."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width)
        self.place = nn.Embedding(WINDOW, width)
        layers = [
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True) for _ in "12"
        ]
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(width, 256)

    def forward(self, ids: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], device=ids.device)
        x = self.embed(ids) + self.place.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.head(x)


def read() -> tuple[Tensor, Tensor]:
    """Training and held-out bytes, every ninth file of the standard library held out."""
    files = [path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    heldout = b"".join(files[::9])
    del files[::9]
    return as_ids(b"".join(files)), as_ids(heldout)


def as_ids(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).long()


def batch(data: Tensor, generator: torch.Generator, rows: int = 8) -> Tensor:
    starts = torch.randint(len(data) - WINDOW, (rows,), generator=generator)
    return torch.stack([data[start : start + WINDOW + 1] for start in starts])


def loss_of(model: Model, windows: Tensor) -> Tensor:
    logits = model(windows[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small language model in plain PyTorch.")
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = Model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    diloco = DiLoCo(model, optimizer, ProcessGroupExchange(), every=20)
    training, heldout = read()
    generator = torch.Generator().manual_seed(1 + rank)

    for step in range(1, arguments.steps + 1):
        loss = loss_of(model, batch(training, generator).to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 or step == 1:
            print(f"rank {rank} step {step}: loss {loss.item():.3f}", flush=True)

    diloco.sync()
    with torch.no_grad():
        windows = batch(heldout, torch.Generator().manual_seed(2), rows=64).to(device)
        print(f"rank {rank} held-out loss {loss_of(model, windows).item():.4f} {diloco.digest()}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
