"""`host:port`, as people and records write it."""

from __future__ import annotations

import socket

from atoll.protocol.errors import ConfigError


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; ValueError otherwise."""
    host, mark, port = address.rpartition(":")
    if not mark or not host or not (port.isdecimal() and int(port) < 65536):
        raise ValueError(f"not host:port: {address[:80]!r}")
    return host.strip("[]"), int(port)


def check_free(listen: str) -> None:
    """ConfigError unless a server could listen on `host:port` now; gRPC itself only says that it failed."""
    right = "host:port of this machine with a free port, or port 0 for any"
    try:
        host, port = split_address(listen)
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, ValueError) as error:
        raise ConfigError(str(error), f"listen {listen}", right) from None
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            raise ConfigError(f"port {port}: {error.strerror}", f"listen {listen}", right) from None
