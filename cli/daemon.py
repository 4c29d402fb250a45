"""Run a daemon in this process until it ends, and say how it ended."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.cli.boundary import INTERRUPTED, OK

if TYPE_CHECKING:
    from atoll.node.config import NodeConfig
    from atoll.node.serve import Service
    from atoll.protocol.invite import Invite
    from atoll.protocol.keys import Signer
    from atoll.protocol.manifest import SignedManifest

log = logging.getLogger("atoll.cli")


def serve(
    config: NodeConfig,
    signed: SignedManifest | None,
    invite: Invite | None,
    on_ready: Callable[[dict[str, Any]], None],
    services: Sequence[Service] = (),
    authority: Signer | None = None,
) -> int:
    """The exit code of a daemon that ended by itself, was stopped, or was interrupted.

    `authority` is the run authority's key, where it lies here.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its lines about peers that went away are no news
    from atoll.workload.quick_imports import quick_imports

    with quick_imports():
        from atoll.node.serve import serve as run

    if folder := os.environ.get("ATOLL_BREAKPOINTS"):
        log.warning("this process stops itself where ATOLL_BREAKPOINTS says: %s", folder)
        config = replace(config, breakpoints=Path(folder))
    try:
        reason = asyncio.run(run(config, signed, invite, on_ready, services, authority))
    except asyncio.CancelledError:
        return INTERRUPTED
    log.info("ended: %s", reason)
    return INTERRUPTED if "SIGINT" in reason else OK
