"""Talk to a running daemon over its unix socket: the status it gives, and what its owner wants of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from atoll.cli import places
from atoll.cli.boundary import NotRunning
from atoll.node.rpc import admin_pb2 as rpc
from atoll.node.rpc.admin_pb2_grpc import AdminStub
from atoll.protocol.errors import ConfigError

if TYPE_CHECKING:
    from atoll.coordinator.rpc.control_pb2 import RecoveryReply as Recovery

Status = dict[str, Any]

ANSWER_S = 10.0
ANSWER_BYTES_MAX = 16 << 20


class Admin:
    """The daemon of one state folder. Raises NotRunning when it does not answer."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        options = [
            ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._channel = grpc.insecure_channel(f"unix:{places.socket_of(state_dir).absolute()}", options)
        self._stub = AdminStub(self._channel)

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> Status:
        try:
            return _read(self._stub.Status(rpc.Empty(), timeout=ANSWER_S))
        except grpc.RpcError as error:
            raise self._silent(error) from None

    def ask(self, timeout_s: float) -> Asked:
        """A status that is on its way, so that many daemons can be asked at once."""
        return Asked(self._stub.Status.future(rpc.Empty(), timeout=timeout_s))

    def watch(self) -> Iterator[Status]:
        """Every status until the daemon ends."""
        seen = False
        try:
            for reply in self._stub.Watch(rpc.Empty()):
                seen = True
                yield _read(reply)
        except grpc.RpcError as error:
            if not seen:
                raise self._silent(error) from None

    def stop(self, finish: bool) -> str:
        """Ask it to stop; what it says about when it will."""
        try:
            reply = self._stub.Stop(rpc.StopRequest(finish=finish), timeout=ANSWER_S)
        except grpc.RpcError as error:
            raise self._silent(error) from None
        return str(reply.reason)

    def pause(self, on: bool) -> str:
        """Ask it to rest, or to train again; what it says. ConfigError if there is nothing to pause."""
        try:
            reply = self._stub.Pause(rpc.PauseRequest(on=on), timeout=ANSWER_S)
        except grpc.RpcError as error:
            raise self._fault(error) from None
        return str(reply.reason)

    def recover(self, keep: Sequence[str], only_tell: bool) -> Recovery:
        """What a recovery would do, or did. ConfigError if this daemon cannot."""
        from atoll.coordinator.rpc import control_pb2
        from atoll.coordinator.rpc.control_pb2_grpc import ControlStub

        asked = control_pb2.AboutRecovery(keep=keep, only_tell=only_tell)
        try:
            return ControlStub(self._channel).Recover(asked, timeout=ANSWER_S)
        except grpc.RpcError as error:
            raise self._fault(error) from None

    def close(self) -> None:
        self._channel.close()

    def _fault(self, error: grpc.RpcError) -> ConfigError | NotRunning:
        """What the daemon refuses is the user's to mend; anything else is silence."""
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            return ConfigError(str(error.details()), str(self.state_dir))
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return ConfigError("this daemon does not know that verb", str(self.state_dir), "a coordinator's")
        return self._silent(error)

    def _silent(self, error: grpc.RpcError) -> NotRunning:
        return places.not_running(self.state_dir, str(error.code().name).lower().replace("_", " "))


class Asked:
    """An answer to wait for."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def answer(self) -> Status | None:
        """The status, or None if the daemon did not answer in time."""
        try:
            return _read(self._future.result())
        except (grpc.RpcError, grpc.FutureCancelledError):
            return None


def _read(reply: Any) -> Status:
    status: Status = json.loads(reply.json)
    return status
