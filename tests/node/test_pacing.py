"""What uploads are held to, on links made of numbers; and what a kernel says of real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from atoll.node import tcp_info
from atoll.node.pacing import PACED_BYTES_PER_S_MAX, QUEUE_S, SHARE_MIN, TICK_S, Pace, Pacer, Sample
from atoll.node.rate_limit import RateLimit

HOME = 400_000.0
"""Bytes per second of a home's uplink."""
QUEUE_BYTES = 128 << 10


@dataclass(slots=True)
class Uplink:
    """A link of a rate with a queue before it, and what else is on it."""

    bytes_per_s: float
    others: float = 0.0
    arrived: float = 0.0
    queued: float = 0.0

    def send(self, wish: float) -> float:
        """One tick of sending `wish` bytes per second, as far as the queue takes them; that in seconds."""
        mine = self.bytes_per_s - min(self.others, self.bytes_per_s)
        here = self.queued + wish * TICK_S
        gone = min(here, mine * TICK_S)
        self.queued = min(here - gone, QUEUE_BYTES)
        self.arrived += gone
        return self.queued / self.bytes_per_s


def drive(
    pace: Pace,
    link: Uplink,
    seconds: float,
    *,
    start_s: float,
    wanted: Callable[[float], bool] = lambda _: True,
) -> Iterator[tuple[float, float]]:
    """What is asked of the link and how long its queue is, tick by tick."""
    for tick in range(round(seconds / TICK_S)):
        now_s = start_s + tick * TICK_S
        wants = wanted(now_s)
        wish = (pace.bytes_per_s or 1e9) if wants else 0.0
        queue_s = link.send(wish)
        pace.tick(now_s, Sample(int(link.arrived), queue_s, wants))
        yield wish, queue_s


def used(link: Uplink, pace: Pace, seconds: float, start_s: float) -> tuple[float, float]:
    """The share of the link that was used, and the mean queue in seconds."""
    before = link.arrived
    queues = [queue_s for _, queue_s in drive(pace, link, seconds, start_s=start_s)]
    return (link.arrived - before) / (link.bytes_per_s * seconds), sum(queues) / len(queues)


class TestPace:
    @pytest.mark.parametrize("bytes_per_s", [100_000.0, HOME, 2_000_000.0])
    def test_a_slow_link_is_used_up_and_its_queue_stays_short(self, bytes_per_s: float) -> None:
        pace, link = Pace(), Uplink(bytes_per_s)
        list(drive(pace, link, 10, start_s=0))
        share, queue_s = used(link, pace, 60, 10)
        assert share > 0.93
        assert queue_s < QUEUE_S
        if bytes_per_s * 2 * QUEUE_S < QUEUE_BYTES:  # TCP alone fills it
            assert queue_s < 0.5 * QUEUE_BYTES / bytes_per_s

    def test_nothing_is_held_where_no_queue_forms(self) -> None:
        pace, link = Pace(), Uplink(50_000_000.0)
        for tick in range(600):
            pace.tick(tick * TICK_S, Sample(int(link.arrived), link.send(1_000_000.0), True))
        assert pace.bytes_per_s == 0

    def test_a_fast_link_is_left_to_tcp(self) -> None:
        pace = Pace()
        for tick in range(100):
            arrived = tick * TICK_S * 2 * PACED_BYTES_PER_S_MAX
            pace.tick(tick * TICK_S, Sample(int(arrived), 2 * QUEUE_S, True))
        assert pace.bytes_per_s == 0

    def test_delays_of_one_who_sends_little_hold_nothing(self) -> None:
        pace = Pace()
        for tick in range(600):
            pace.tick(tick * TICK_S, Sample(tick * 100, 0.5, tick % 5 == 0))
        assert pace.bytes_per_s == 0

    @pytest.mark.parametrize("factor", [0.55, 0.8, 1.5, 4.0])
    def test_a_link_that_changes_is_followed(self, factor: float) -> None:
        pace, link = Pace(), Uplink(HOME)
        list(drive(pace, link, 20, start_s=0))
        link.bytes_per_s *= factor
        list(drive(pace, link, 20, start_s=20))
        share, queue_s = used(link, pace, 30, 40)
        assert share > 0.9
        assert queue_s < 1.5 * QUEUE_S

    def test_rounds_with_pauses_use_the_link_up(self) -> None:
        pace, link = Pace(), Uplink(HOME)
        sends = lambda now_s: now_s % 2.0 < 1.6  # noqa: E731
        list(drive(pace, link, 20, start_s=0, wanted=sends))
        before = link.arrived
        list(drive(pace, link, 40, start_s=20, wanted=sends))
        assert link.arrived - before > 0.9 * 0.8 * 40 * HOME

    def test_others_on_the_link_leave_a_share(self) -> None:
        pace, link = Pace(), Uplink(HOME)
        list(drive(pace, link, 20, start_s=0))
        link.others = 0.9 * HOME
        asked = [wish for wish, _ in drive(pace, link, 10, start_s=20)]
        assert min(asked) >= 0.8 * 0.8 * SHARE_MIN * HOME


class TestTcpInfo:
    def test_too_short_a_struct_says_nothing(self) -> None:
        assert tcp_info.parse(bytes(100)) is None

    def test_the_fields_are_where_the_kernel_has_them(self) -> None:
        raw = bytearray(256)
        struct.pack_into("=I", raw, 16, 1448)  # mss
        struct.pack_into("=II", raw, 24, 10, 2)  # unacked, sacked
        struct.pack_into("=I", raw, 68, 90_000)  # rtt, us
        struct.pack_into("=Q", raw, 120, 5_000)  # acked
        struct.pack_into("=II", raw, 144, 700, 40_000)  # not sent, least rtt
        info = tcp_info.parse(bytes(raw))
        assert info == tcp_info.TcpInfo(5_000 + 2 * 1448, 700 + 8 * 1448, 0.05)

    def test_a_real_connection_tells_what_arrived_and_what_waits(self) -> None:
        if not hasattr(socket, "TCP_INFO"):
            pytest.skip("this system has no TCP_INFO")
        with socket.create_server(("127.0.0.1", 0)) as server:
            with socket.create_connection(server.getsockname()) as caller, server.accept()[0] as other:
                here = {one.descriptor for one in tcp_info.connections(loopback=True)}
                assert {caller.fileno(), other.fileno()} <= here
                assert caller.fileno() not in {one.descriptor for one in tcp_info.connections()}
                caller.sendall(b"x" * 50_000)
                while len(other.recv(1 << 16, socket.MSG_PEEK)) < 50_000:
                    pass
                end_s = time.monotonic() + 10
                while (info := tcp_info.read(caller.fileno())) is None or info.arrived_bytes < 50_000:
                    assert time.monotonic() < end_s
                assert info.arrived_bytes == 50_001  # the first byte that is acknowledged is the connection's
                caller.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        caller.send(bytes(1 << 20))
                info = tcp_info.read(caller.fileno())
                assert info is not None
                assert info.waiting_bytes > 1 << 15
            assert tcp_info.read(server.fileno()) is None or server.fileno() not in here

    def test_what_is_no_connection_is_passed_over(self) -> None:
        assert tcp_info.read(1 << 20) is None


def test_the_volunteers_limit_holds() -> None:
    """A pacer sets the limit of uploads, to no more than the volunteer's own."""

    async def story() -> None:
        limit = RateLimit(123_456)
        pacer = Pacer(limit)
        task = asyncio.ensure_future(pacer.run())
        await asyncio.sleep(0)
        assert (limit.bytes_per_s, pacer.bytes_per_s) == (123_456, 0)
        pacer._pace.bytes_per_s = 1_000_000
        limit.set(0)
        while not limit.bytes_per_s:
            await asyncio.sleep(0.01)
        assert limit.bytes_per_s == 123_456
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(story())
