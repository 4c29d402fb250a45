"""What a node takes its uplink to carry."""

from __future__ import annotations

import pytest

from atoll.node.uplink import Uplink

MIB = 1 << 20


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def send(uplink: Uplink, clock: Clock, count_bytes: int, for_s: float) -> None:
    with uplink.sending():
        uplink.sent(count_bytes)
        clock.now_s += for_s


def test_the_time_between_transfers_does_not_count() -> None:
    clock = Clock()
    uplink = Uplink(clock)
    send(uplink, clock, 3 * MIB, 1.0)
    clock.now_s += 100
    send(uplink, clock, 3 * MIB, 1.0)
    assert uplink.bytes_per_s == 3 * MIB


def test_transfers_at_the_same_time_share_the_clock() -> None:
    clock = Clock()
    uplink = Uplink(clock)
    with uplink.sending():
        send(uplink, clock, 4 * MIB, 1.0)
        send(uplink, clock, 4 * MIB, 1.0)
        assert uplink.bytes_per_s == 0
    assert uplink.bytes_per_s == 4 * MIB


def test_little_says_nothing_until_it_is_enough() -> None:
    clock = Clock()
    uplink = Uplink(clock)
    for _ in range(3):
        send(uplink, clock, MIB, 0.1)
        assert uplink.bytes_per_s == 0
    send(uplink, clock, MIB, 0.1)
    assert uplink.bytes_per_s == pytest.approx(10 * MIB)


def test_the_estimate_follows_what_changes() -> None:
    clock = Clock()
    uplink = Uplink(clock)
    send(uplink, clock, 8 * MIB, 1.0)
    for _ in range(8):
        send(uplink, clock, 4 * MIB, 1.0)
    assert uplink.bytes_per_s == pytest.approx(4 * MIB, rel=0.02)


def test_a_transfer_that_breaks_ends_the_clock() -> None:
    clock = Clock()
    uplink = Uplink(clock)

    def broken() -> None:
        with uplink.sending():
            uplink.sent(8 * MIB)
            clock.now_s += 2
            raise ConnectionError

    with pytest.raises(ConnectionError):
        broken()
    clock.now_s += 50
    assert uplink.bytes_per_s == 4 * MIB
