"""What the switch reads of a frame: its size on a real wire, where it goes, and its addresses behind a NAT.

A frame begins with ten bytes of virtio_net_hdr, since the hosts hand over up to 64 KiB of TCP at once (TSO)
and leave checksums to the card. The segments that a card would make of it are counted here, never made.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

VNET_BYTES, ETHERNET_BYTES = 10, 14
_IP = VNET_BYTES + ETHERNET_BYTES
_TCP, _UDP, _ICMP = 6, 17, 1
_NEEDS_CHECKSUM = 1
_CHECKSUM_AT = {_TCP: 16, _UDP: 6}
Flow = tuple[int, int, bytes, int]
"""Protocol, port inside, address and port outside."""


@dataclass(frozen=True, slots=True)
class Packet:
    """An IPv4 packet's places in its frame."""

    frame: bytearray
    protocol: int
    transport: int

    @property
    def source(self) -> bytes:
        return bytes(self.frame[_IP + 12 : _IP + 16])

    @property
    def target(self) -> bytes:
        return bytes(self.frame[_IP + 16 : _IP + 20])

    def ports(self) -> tuple[int, int]:
        """Source and target port; zeros where there are none."""
        if self.protocol not in _CHECKSUM_AT:
            return 0, 0
        source, target = struct.unpack_from("!HH", self.frame, self.transport)
        return source, target

    def outgoing(self) -> Flow:
        source, target = self.ports()
        return self.protocol, source, self.target, target

    def incoming(self) -> Flow:
        source, target = self.ports()
        return self.protocol, target, self.source, source

    def set_source(self, address: bytes) -> None:
        self._readdress(_IP + 12, address)

    def set_target(self, address: bytes) -> None:
        self._readdress(_IP + 16, address)

    def _readdress(self, at: int, address: bytes) -> None:
        """Write an address and mend both checksums. (RFC 1624)"""
        change = _sum(address) - _sum(self.frame[at : at + 4])
        self.frame[at : at + 4] = address
        self._mend(_IP + 10, -change)
        offset = _CHECKSUM_AT.get(self.protocol)
        if offset is None:
            return
        place = self.transport + offset
        partial = self.frame[0] & _NEEDS_CHECKSUM
        if partial:  # the sum of the addresses, which the card would go on from
            self._mend(place, change)
        elif self.protocol != _UDP or self.frame[place : place + 2] != b"\0\0":
            self._mend(place, -change)

    def _mend(self, place: int, change: int) -> None:
        """Add to a ones' complement sum of 16 bits."""
        (old,) = struct.unpack_from("!H", self.frame, place)
        struct.pack_into("!H", self.frame, place, (old + change) % 0xFFFF or 0xFFFF)


def packet(frame: bytearray) -> Packet | None:
    """The IPv4 packet in a frame; None for anything else."""
    if len(frame) < _IP + 20 or frame[VNET_BYTES + 12 : _IP] != b"\x08\x00":
        return None
    return Packet(frame, frame[_IP + 9], _IP + 4 * (frame[_IP] & 15))


def wire_bytes(packet: Packet) -> int:
    """Bytes of the Ethernet frames that carry it, each with its headers, as the kernel counts them."""
    frame = packet.frame
    whole, segment = len(frame) - VNET_BYTES, struct.unpack_from("<H", frame, 4)[0]
    if not frame[1] or packet.protocol != _TCP:
        return whole
    headers = packet.transport - VNET_BYTES + 4 * (frame[packet.transport + 12] >> 4)
    segments = -(-(whole - headers) // segment)
    return whole + (segments - 1) * headers


def _sum(data: bytes | bytearray) -> int:
    return sum(struct.unpack("!2H", data))


def packed(address: str) -> bytes:
    return socket.inet_aton(address)
