"""A run whose first state every node has already, and its nodes: shared by benchmarks/sync.py and join.py."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from sync_peers import Peer

from atoll.node.disk import Disk
from atoll.protocol.keys import Key
from atoll.protocol.manifest import Manifest, sign


class Hosts(Protocol):
    """Where nodes run: a lab, or all on loopback."""

    def address(self, name: str, /) -> str: ...
    def inside(self, name: str, /) -> AbstractContextManager[None]: ...


def name_of(number: int | None) -> str:
    """A worker's host and folder by its number; None is the witness that begins the run."""
    return "first" if number is None else f"p{number}"


def publish(
    manifest: Manifest,
    authority: Key,
    folder: Path,
    workers: int,
    anchor: torch.Tensor,
    momentum: torch.Tensor,
) -> Path:
    """Sign the manifest, and give its first state to the witness and so many workers; the manifest's file."""
    signed = sign(manifest, authority)
    for number in (None, *range(workers)):
        disk = Disk(folder / name_of(number))
        disk.save_state(0, signed.run_id, anchor, momentum)
        disk.close()
    path = folder / "manifest.bin"
    path.write_bytes(signed.raw)
    return path


def start(folder: Path, manifest: Path, hosts: Hosts, number: int | None, bootstrap: list[str]) -> Peer:
    """A node of its own process (sync_atoll.py) on its host."""
    name = name_of(number)
    told = {
        "folder": str(folder / name),
        "manifest": str(manifest),
        "peer": number,
        "bootstrap": bootstrap,
        "host": hosts.address(name),
    }
    with hosts.inside(name):
        return Peer(sys.executable, "sync_atoll.py", told, folder / f"{name}.log")
