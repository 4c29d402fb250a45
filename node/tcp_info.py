"""What the kernel knows of this process' own connections: what arrived, what waits, how long the way is now.

Linux only; elsewhere there is nothing to read, and there are no `connections`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from dataclasses import dataclass

import psutil

INFO_BYTES = 256
_MSS, _UNACKED, _SACKED, _RTT, _ACKED, _NOT_SENT, _MIN_RTT = 16, 24, 28, 68, 120, 144, 148
"""Offsets of 32 bits each, but 64 of `_ACKED`. (struct tcp_info of linux/tcp.h, which only ever grows)"""
_KNOWN_BYTES = _MIN_RTT + 4


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """Of one connection: bytes that arrived on the other side, bytes that have not, and how much longer a
    round trip takes than the shortest one did."""

    arrived_bytes: int
    waiting_bytes: int
    queue_s: float


@dataclass(frozen=True, slots=True)
class Connection:
    """A descriptor of this process, the port here, and the address and port there."""

    descriptor: int
    port: int
    host: str
    port_there: int


def connections(loopback: bool = False) -> tuple[Connection, ...]:
    """This process' TCP connections: those to other machines, or to this one."""
    if not hasattr(socket, "TCP_INFO"):
        return ()
    with contextlib.suppress(psutil.Error, OSError):
        found = psutil.Process().net_connections("tcp")
        return tuple(
            Connection(c.fd, c.laddr.port, c.raddr.ip, c.raddr.port)
            for c in found
            if c.raddr and c.fd >= 0 and _is_loopback(c.raddr.ip) == loopback
        )
    return ()


def _is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return ((address.version == 6 and address.ipv4_mapped) or address).is_loopback


def read(descriptor: int) -> TcpInfo | None:
    """None if this is no connection any more. Descriptors are used again: it may be another one's by now."""
    try:
        seen = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)
    except OSError:
        return None
    try:
        raw = seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES)
    except OSError:
        return None
    finally:
        seen.detach()
    return parse(raw)


def parse(raw: bytes) -> TcpInfo | None:
    """A `struct tcp_info`; None from kernels whose struct is too short."""
    if len(raw) < _KNOWN_BYTES:
        return None
    mss, unacked, sacked, rtt_us, not_sent, min_rtt_us = (
        struct.unpack_from("=I", raw, at)[0] for at in (_MSS, _UNACKED, _SACKED, _RTT, _NOT_SENT, _MIN_RTT)
    )
    (acked,) = struct.unpack_from("=Q", raw, _ACKED)
    flying = max(0, unacked - sacked) * mss
    return TcpInfo(
        acked + sacked * mss, not_sent + flying, max(0, rtt_us - min_rtt_us) / 1e6 if flying else 0.0
    )
