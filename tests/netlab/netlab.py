"""A small network on one machine: hosts in network namespaces, on links that are slow, far, lossy or cut.

    with Lab(Host("a"), Host("b", nat=True), link=Link(mbit=100, delay_ms=20)) as lab:
        with lab.inside("a"):
            server = socket.create_server(("0.0.0.0", 0))   # it stays in there for life
        lab.cut("b")

Needs Linux, root, iproute2 and /dev/net/tun (`why_not`). Frames go through a switch in userspace
(`netlab_switch.py`), so the kernel needs no netem and no packet filter: a host behind a NAT has an address of
its own that nobody else can reach, and only who it spoke to first can answer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netlab_switch import enter, remove

START_S, ANSWER_S = 20.0, 10.0
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Link:
    """A host's link, both ways: Mbit/s (0 for no limit), one-way delay of what it sends, share lost of it.

    Two hosts are apart by the sum of their delays, there and back.
    """

    mbit: float = 0.0
    delay_ms: float = 0.0
    loss: float = 0.0
    down_mbit: float | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """A machine. Behind a NAT it can call everybody, and nobody can call it."""

    name: str
    nat: bool = False


@dataclass(frozen=True, slots=True)
class Counted:
    """Bytes on a host's link, Ethernet and retransmissions included, and frames that did not arrive."""

    sent: int
    received: int
    dropped: int


def why_not() -> str | None:
    """Why there can be no lab here; None if there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "no `ip` here: it comes with iproute2"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun here"
    name = f"netlab-{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.strip()}"
    try:
        subprocess.run(
            ["ip", "-n", name, "tuntap", "add", "eth0", "mode", "tap"], capture_output=True, check=True
        )
    except subprocess.CalledProcessError as error:
        return f"no TAP devices here: {error.stderr.decode().strip()}"
    finally:
        remove(name)
    return None


def sweep() -> None:
    """Remove namespaces that a lab left behind whose process and switch were both killed."""
    for path in Path("/run/netns").glob("netlab-*"):
        owner = path.name.split("-")[1]
        if owner.isdigit() and not Path("/proc", owner).exists():
            remove(path.name)


class Lab:
    """Some hosts, and a switch between them; `close` ends what runs in them and removes them.

    Addresses are 11.77.0.1, 11.77.0.2, … in the order of the hosts, those that others see.
    """

    def __init__(self, *hosts: Host, link: Link = Link()) -> None:
        sweep()
        number = next(_numbers)
        self._index = {host.name: place for place, host in enumerate(hosts)}
        self._namespaces = [f"netlab-{os.getpid()}-{number}-{host.name}" for host in hosts]
        ours, theirs = socket.socketpair()
        with theirs:
            self._switch = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("netlab_switch.py")), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.settimeout(START_S)
        self._control, self._answers = ours, ours.makefile("rb")
        try:
            self._ask([self._facts(place, host) for place, host in enumerate(hosts)])
            for host in hosts:
                self.link(host.name, link)
        except BaseException:
            self.close()
            raise
        ours.settimeout(ANSWER_S)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process in the hosts, and the hosts; twice is once."""
        self._answers.close()
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._switch.wait(ANSWER_S)
        if self._switch.poll() is None:
            self._switch.kill()
            self._switch.wait()
        for namespace in self._namespaces:
            remove(namespace)

    def _facts(self, place: int, host: Host) -> dict[str, str]:
        inside = f"192.168.{place + 1}.2" if host.nat else _address(place)
        return {"namespace": self._namespaces[place], "address": _address(place), "inside": inside}

    # ---- hosts ----------------------------------------------------------------------------------

    def address(self, name: str) -> str:
        """Under which others see this host."""
        return _address(self._index[name])

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread is in a host: sockets made and processes started meanwhile belong there for good."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self._namespaces[self._index[name]]}", os.O_RDONLY)
        try:
            enter(there)
            yield
        finally:
            enter(home)
            os.close(home)
            os.close(there)

    # ---- links ----------------------------------------------------------------------------------

    def link(self, name: str, link: Link) -> None:
        """Give a host another link; what is on its way stays on its way."""
        down = link.mbit if link.down_mbit is None else link.down_mbit
        rates = {"up_mbit": link.mbit, "down_mbit": down}
        self._change(name, {**rates, "delay_ms": link.delay_ms, "loss": link.loss})

    def cut(self, name: str) -> None:
        """Nothing of this host's arrives, and nothing arrives there."""
        self._change(name, {"connected": False})

    def heal(self, name: str) -> None:
        self._change(name, {"connected": True})

    def counted(self) -> dict[str, Counted]:
        """What went over each link so far."""
        return {name: Counted(**line) for name, line in zip(self._index, self._ask({}), strict=True)}

    def _change(self, name: str, change: dict[str, Any]) -> None:
        self._ask({"host": self._index[name], **change})

    def _ask(self, what: Any) -> Any:
        self._control.sendall(json.dumps(what).encode() + b"\n")
        line = self._answers.readline()
        answer = json.loads(line) if line else {"failed": "its process ended"}
        if isinstance(answer, dict) and "failed" in answer:
            raise OSError(f"the lab's switch: {answer['failed']}")
        return answer


LabMaker = Callable[..., Lab]


def _address(place: int) -> str:
    return f"11.77.0.{place + 1}"
