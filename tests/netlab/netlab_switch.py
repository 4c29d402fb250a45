"""The switch of a netlab, a process of its own: hosts in network namespaces, and the links between them.

Each host is a namespace with one TAP device; its frames come here, wait for the uplink's rate, fly for the
delay, wait for the receiver's downlink, and arrive. Kernels without netem do, and Linux on any machine has
TAP. The process ends when its control socket does, whatever became of who started it, and then ends all that
runs in its namespaces and removes them.

    python netlab_switch.py <descriptor of a Unix stream socket>

One JSON object per line: first the hosts, then changes; each is answered by one line.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

from netlab_frames import Flow, Packet, packed, packet, wire_bytes

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_TAP, _NO_PI, _VNET_HDR = 0x0002, 0x1000, 0x4000
_CHECKSUMS, _TSO4 = 1, 2
_CLONE_NEWNET = 0x40000000
GATEWAY, MAC = "169.254.1.1", "02:00:00:00:00:01"
"""Hosts route everything to one gateway, and all have one address on their link, the gateway's too: so no
frame needs another, and nobody asks for any."""
QUEUE_S, QUEUE_BYTES_MIN = 0.1, 128 << 10
"""What a link holds before it drops: home routers keep about a tenth of a second."""
BURST = 32
PENDING_MAX = 200_000
_libc = ctypes.CDLL(None, use_errno=True)


_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def judge_losses_as_usual() -> None:
    """TCP as Linux, Windows and macOS have it unless somebody changed it, as somebody may have here.

    A namespace may be refused cubic where it is not the machine's own rule; reno reacts to losses as it does.
    """
    for rule in ("cubic", "reno"):
        with contextlib.suppress(OSError):
            _CONGESTION.write_text(rule)
            return


def enter(namespace: int) -> None:
    """This thread's network from now on."""
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stdin=subprocess.DEVNULL, capture_output=True)


def remove(namespace: str) -> None:
    """End all that runs in a namespace, and remove it; nothing if it is gone."""
    path = Path("/run/netns", namespace)
    if not path.exists():
        return
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in listed.stdout.split():
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


class Shaper:
    """One direction of a link: a rate, and a queue that drops at its tail."""

    def __init__(self) -> None:
        self.bytes_per_s, self._free_s = 0.0, 0.0

    def departure_s(self, size: int, now_s: float) -> float | None:
        """When the last of `size` bytes has left; None if there is no room to wait."""
        if not self.bytes_per_s:
            return now_s
        start_s = max(self._free_s, now_s)
        if (start_s - now_s) * self.bytes_per_s > max(QUEUE_BYTES_MIN, QUEUE_S * self.bytes_per_s):
            return None
        self._free_s = start_s + size / self.bytes_per_s
        return self._free_s


class Port:
    """A host's side of the switch."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.namespace, self.nat = facts["namespace"], facts["inside"] != facts["address"]
        self.address, self.inside = packed(facts["address"]), packed(facts["inside"])
        self.up, self.down, self.flows = Shaper(), Shaper(), dict[Flow, None]()
        self.delay_s, self.loss, self.connected = 0.0, 0.0, True
        self.sent_bytes = self.received_bytes = self.dropped = 0
        ip("netns", "add", self.namespace)
        self.fd = self._open_tap()
        inside = ("-n", self.namespace)
        ip(*inside, "link", "set", "lo", "up")
        ip(*inside, "link", "set", "eth0", "address", MAC, "addrgenmode", "none", "up")
        ip(*inside, "addr", "add", f"{facts['inside']}/32", "dev", "eth0")
        ip(*inside, "neigh", "add", GATEWAY, "lladdr", MAC, "dev", "eth0", "nud", "permanent")
        ip(*inside, "route", "add", "default", "via", GATEWAY, "dev", "eth0", "onlink")

    def _open_tap(self) -> int:
        home, there = (
            os.open("/proc/self/ns/net", os.O_RDONLY),
            os.open(f"/run/netns/{self.namespace}", os.O_RDONLY),
        )
        try:
            enter(there)
            judge_losses_as_usual()
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _TAP | _NO_PI | _VNET_HDR))
            return tap
        finally:
            enter(home)
            os.close(home)
            os.close(there)

    def set(self, change: dict[str, Any]) -> None:
        if "connected" in change:
            self.connected = bool(change["connected"])
        if "up_mbit" in change:
            self.up.bytes_per_s = change["up_mbit"] * 1e6 / 8
            self.down.bytes_per_s = change["down_mbit"] * 1e6 / 8
            self.delay_s, self.loss = change["delay_ms"] / 1000, change["loss"]
            # Where segments may be lost, each has to come alone.
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, 0 if self.loss else _CHECKSUMS | _TSO4)

    def counted(self) -> dict[str, int]:
        return {"sent": self.sent_bytes, "received": self.received_bytes, "dropped": self.dropped}

    def leave(self, sent: Packet, size: int, now_s: float) -> float | None:
        """When a packet of this host's is on its way, as the world sees it; None if it is not."""
        lost = self.loss and random.random() < self.loss
        departure_s = self.up.departure_s(size, now_s) if self.connected else None
        if lost or departure_s is None:
            self.dropped += 1
            return None
        if self.nat:
            self.flows[sent.outgoing()] = None
            sent.set_source(self.address)
        self.sent_bytes += size
        return departure_s + self.delay_s

    def arrive(self, came: Packet, size: int, now_s: float) -> float | None:
        """When a packet for this host has come down its link; None if it does not."""
        if not self.connected or (self.nat and came.incoming() not in self.flows):
            self.dropped += 1
            return None
        departure_s = self.down.departure_s(size, now_s)
        if departure_s is None:
            self.dropped += 1
            return None
        if self.nat:
            came.set_target(self.inside)
        self.received_bytes += size
        return departure_s


class Switch:
    """Moves frames between ports until its control socket ends."""

    def __init__(self, control: socket.socket) -> None:
        self._control, self._lines = control, control.makefile("rb")
        self.ports: list[Port] = []
        self._flying: list[tuple[float, int, Port, Packet, int, bool]] = []
        self._ticket = count()

    def run(self) -> None:
        for facts in json.loads(self._lines.readline()):
            self.ports.append(Port(facts))
        by_fd = {port.fd: port for port in self.ports}
        by_address = {port.address: port for port in self.ports}
        poll = select.epoll()
        for fd in (self._control.fileno(), *by_fd):
            poll.register(fd, select.EPOLLIN)
        self._answer({"ready": True})
        while True:
            now_s = time.monotonic()
            wait_s = min(1.0, max(0.0, self._flying[0][0] - now_s)) if self._flying else 1.0
            for fd, _ in poll.poll(wait_s):
                if fd in by_fd:
                    self._read(by_fd[fd], by_address)
                elif not self._obey():
                    return
            self._land()

    def _obey(self) -> bool:
        """Carry out one line; False at the end of the control socket."""
        line = self._lines.readline()
        if not line:
            return False
        change = json.loads(line)
        if "host" in change:
            self.ports[change["host"]].set(change)
        self._answer([port.counted() for port in self.ports])
        return True

    def _answer(self, what: Any) -> None:
        self._control.sendall(json.dumps(what).encode() + b"\n")

    def _read(self, port: Port, by_address: dict[bytes, Port]) -> None:
        for _ in range(BURST):
            try:
                frame = bytearray(os.read(port.fd, 1 << 17))
            except BlockingIOError:
                return
            sent = packet(frame)
            target = by_address.get(sent.target) if sent is not None else None
            if sent is None or target is None or len(self._flying) >= PENDING_MAX:
                continue
            size = wire_bytes(sent)
            due_s = port.leave(sent, size, time.monotonic())
            if due_s is not None:
                heapq.heappush(self._flying, (due_s, next(self._ticket), target, sent, size, False))

    def _land(self) -> None:
        now_s = time.monotonic()
        while self._flying and self._flying[0][0] <= now_s:
            due_s, _, port, came, size, is_down = heapq.heappop(self._flying)
            if not is_down:
                # From when it was due, not from now: a late switch must not make the link slower.
                down_s = port.arrive(came, size, due_s)
                if down_s is None:
                    continue
                if down_s > now_s:
                    heapq.heappush(self._flying, (down_s, next(self._ticket), port, came, size, True))
                    continue
            try:
                os.write(port.fd, came.frame)
            except OSError:
                port.dropped += 1


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the control socket's end is the end
    control = socket.socket(fileno=int(sys.argv[1]))
    switch = Switch(control)
    try:
        switch.run()
    except (OSError, subprocess.CalledProcessError, ConnectionError) as error:
        said = getattr(error, "stderr", b"") or b""
        with contextlib.suppress(OSError):
            control.sendall(json.dumps({"failed": f"{error} {said.decode().strip()}"}).encode() + b"\n")
    finally:
        for port in switch.ports:
            remove(port.namespace)


if __name__ == "__main__":
    main()
