"""What a node is told by whoever starts it. Frozen, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from atoll.protocol.roster import Role


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """`listen` is the direct gRPC address ("" for none: libp2p only); `dht_listen` and `bootstrap` are
    multiaddrs; `data` replaces the manifest's data source on this machine, and `shard` is its name in a run
    whose members bring their own; `evaluate_windows` > 0 evaluates
    the held-out loss after each update; `linger_s` is how long to serve others after the run is over;
    `metrics` is where Prometheus may ask ("" for nowhere); `upload_bytes_per_s` and `download_bytes_per_s`
    bound what blobs take of the links (0: nothing does); `breakpoints` is for fault tests only.
    """

    state_dir: Path
    role: Role = Role.WORKER
    listen: str = "127.0.0.1:0"
    dht_listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    bootstrap: tuple[str, ...] = ()
    secret: bytes = b""
    threads: int = 1
    device: str = "cpu"
    effort: float = 1.0
    data: str = ""
    shard: str = ""
    evaluate_windows: int = 0
    linger_s: float = 600.0
    metrics: str = ""
    upload_bytes_per_s: int = 0
    download_bytes_per_s: int = 0
    breakpoints: Path | None = None
    blob_budget_bytes: int = 4 << 30
