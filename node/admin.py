"""The admin service: what a daemon's owner may ask and say, on a unix socket that only the owner can open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from atoll.node.rpc import admin_pb2 as rpc
from atoll.node.rpc.admin_pb2_grpc import AdminServicer, add_AdminServicer_to_server
from atoll.protocol.errors import ConfigError

SOCKET_PATH_MAX = 100
WATCH_S = 0.5


class Admin(AdminServicer):  # type: ignore[misc]
    """Serves `status` and takes `stop` and `pause`, which say what they lead to."""

    def __init__(
        self,
        folder: Path,
        status: Callable[[], dict[str, Any]],
        stop: Callable[[bool], str],
        pause: Callable[[bool], Awaitable[str]],
    ) -> None:
        self._folder, self._status, self._stop, self._pause = folder, status, stop, pause
        self.server = grpc.aio.server()
        self._short: tempfile.TemporaryDirectory[str] | None = None
        add_AdminServicer_to_server(self, self.server)

    async def start(self) -> Path:
        """Listen on `admin.sock` in the state directory, or where `admin.path` says if that is too long."""
        self.path = self._folder / "admin.sock"
        self.path.unlink(missing_ok=True)
        (self._folder / "admin.path").unlink(missing_ok=True)
        if len(os.fsencode(self.path)) > SOCKET_PATH_MAX:
            self._short = tempfile.TemporaryDirectory(prefix="atoll-")
            self.path = Path(self._short.name) / "admin.sock"
            (self._folder / "admin.path").write_text(str(self.path))
        before = os.umask(0o177)
        try:
            self.server.add_insecure_port(f"unix:{self.path}")
            await self.server.start()
        finally:
            os.umask(before)
        os.chmod(self.path, 0o600)
        return self.path

    async def close(self) -> None:
        await self.server.stop(0.2)
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            (self._folder / "admin.path").unlink(missing_ok=True)
        if self._short is not None:
            self._short.cleanup()

    async def Status(self, request: rpc.Empty, context: grpc.aio.ServicerContext) -> rpc.StatusReply:
        return rpc.StatusReply(json=json.dumps(self._status()))

    async def Watch(
        self, request: rpc.Empty, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[rpc.StatusReply]:
        while True:
            yield rpc.StatusReply(json=json.dumps(self._status()))
            await asyncio.sleep(WATCH_S)

    async def Stop(self, request: rpc.StopRequest, context: grpc.aio.ServicerContext) -> rpc.StopReply:
        return rpc.StopReply(reason=self._stop(request.finish))

    async def Pause(self, request: rpc.PauseRequest, context: grpc.aio.ServicerContext) -> rpc.PauseReply:
        try:
            return rpc.PauseReply(reason=await self._pause(request.on))
        except ConfigError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
