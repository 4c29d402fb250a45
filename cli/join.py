"""`atoll join`: take part in a run."""

from __future__ import annotations

import enum
import time
from typing import Annotated, Any, Optional

import typer

from atoll.cli import places
from atoll.cli.options import LogJsonOption, MetricsOption, StateOption
from atoll.protocol.errors import ConfigError

ANY_ADDRESS = "0.0.0.0:0"
MBIT_MIN, MBIT_MAX = 0.5, 1e6


class Device(str, enum.Enum):
    CPU = "cpu"
    CUDA = "cuda"


def join(
    invite: Annotated[str, typer.Argument(metavar="INVITE", help="The line that the coordinator printed.")],
    state: StateOption = None,
    listen: Annotated[
        Optional[str],  # noqa: UP045  typer reads this at run time, also on Python 3.10
        typer.Option(metavar="HOST:PORT", help=f"Direct gRPC address. [default: {ANY_ADDRESS}]"),
    ] = None,
    dht_listen: Annotated[
        str, typer.Option(metavar="MULTIADDR", help="Where libp2p listens.")
    ] = "/ip4/0.0.0.0/tcp/0",
    threads: Annotated[int, typer.Option(min=1, max=1024, help="CPU threads of the trainer.")] = 1,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.CPU,
    effort: Annotated[
        float, typer.Option(help="Share of the time to train, 0.05 to 1; the machine rests for the other.")
    ] = 1.0,
    data: Annotated[
        str, typer.Option(metavar="text:GLOB", help="Train on these files instead of the run's data.")
    ] = "",
    shard: Annotated[
        str,
        typer.Option(metavar="NAME=GLOB", help="Train on these files, as the shard of that name of the run."),
    ] = "",
    libp2p_only: Annotated[
        bool, typer.Option("--libp2p-only", help="No direct address: all bytes go through libp2p.")
    ] = False,
    upload_mbit: Annotated[float, typer.Option(help="Send at most so many Mbit/s; 0 is no limit.")] = 0.0,
    download_mbit: Annotated[float, typer.Option(help="Receive at most so many Mbit/s.")] = 0.0,
    metrics: MetricsOption = "",
    log_json: LogJsonOption = False,
) -> int:
    """Join a run and train in it until it is complete, or until this is stopped.

    The invite leads to peers of the run; what they say is checked against the run id in it. The state
    folder keeps identity, ledger and checkpoints: started again, the peer goes on where it was. Ctrl-C or
    `atoll stop` end it, `atoll status` tells what it does.
    """
    from atoll.cli import daemon, keys, logs
    from atoll.node.effort import EFFORT_MIN
    from atoll.protocol.invite import check_expiry, parse_invite

    asked = parse_invite(invite)
    check_expiry(asked, time.time())
    if libp2p_only and listen is not None:
        raise ConfigError("--listen and --libp2p-only contradict each other", right="one of them")
    if not EFFORT_MIN <= effort <= 1:
        raise ConfigError(f"{effort:g}", "--effort", f"a share of the time, {EFFORT_MIN:g} to 1")
    name, data = _shard(shard, data)
    _check_data(data)
    _check_device(device)
    state_dir = (state or places.of_run(asked.run_id)).absolute()
    keys.adopt(state_dir)
    logs.configure(state_dir, log_json)
    from atoll.node.config import NodeConfig

    config = NodeConfig(
        state_dir=state_dir,
        listen="" if libp2p_only else listen or ANY_ADDRESS,
        dht_listen=(dht_listen,),
        bootstrap=asked.bootstrap,
        secret=asked.secret,
        threads=threads,
        device=device.value,
        effort=effort,
        data=data,
        shard=name,
        metrics=metrics,
        upload_bytes_per_s=_bytes_per_s("--upload-mbit", upload_mbit),
        download_bytes_per_s=_bytes_per_s("--download-mbit", download_mbit),
    )
    return daemon.serve(config, None, asked, _ready)


def _ready(status: dict[str, Any]) -> None:
    typer.echo(f"{status['peer']} takes part in {status['run_id'][:12]}; `atoll status` tells more", err=True)


def _bytes_per_s(option: str, mbit_per_s: float) -> int:
    if mbit_per_s and not MBIT_MIN <= mbit_per_s <= MBIT_MAX:
        raise ConfigError(
            f"{mbit_per_s:g} Mbit/s", option, f"{MBIT_MIN:g} to {MBIT_MAX:g}, or 0 for no limit"
        )
    return int(mbit_per_s * 125_000)


def _shard(shard: str, data: str) -> tuple[str, str]:
    """The name of the shard that this machine holds, if it holds one, and where its data are."""
    if not shard:
        return "", data
    from atoll.protocol import private
    from atoll.workload.config import TEXT_PREFIX

    if data:
        raise ConfigError("--shard and --data contradict each other", right="one of them")
    name, _, files = shard.partition("=")
    if not private.is_name(name) or not files:
        raise ConfigError(repr(shard), "--shard", f"NAME=GLOB, the name {private.RIGHT}")
    return name, TEXT_PREFIX + files.removeprefix(TEXT_PREFIX)


def _check_data(data: str) -> None:
    """Refuse files that cannot be read before the network hears of this peer."""
    if data:
        from atoll.workload import documents
        from atoll.workload.config import DataConfig

        source = DataConfig.from_mapping({"source": data, "bytes_max": 1000}, "--data")
        documents.load(source, "--data")


def _check_device(device: Device) -> None:
    if device is Device.CUDA:
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("no CUDA device here", "--device", "cpu")
