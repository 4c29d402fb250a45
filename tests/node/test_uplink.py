"""What a node takes its uplink to carry."""

from __future__ import annotations

import pytest

from atoll.node.uplink import STRETCHES, Uplink

MIB = 1 << 20


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def send(uplink: Uplink, clock: Clock, count_bytes: int, for_s: float) -> None:
    """In pieces of a MiB, as streams do."""
    with uplink.sending():
        for _ in range(count_bytes // MIB):
            clock.now_s += for_s * MIB / count_bytes
            uplink.sent(MIB)


def test_the_time_between_transfers_does_not_count() -> None:
    clock = Clock()
    uplink = Uplink(clock)
    send(uplink, clock, 8 * MIB, 1.0)
    clock.now_s += 100
    send(uplink, clock, 8 * MIB, 1.0)
    assert uplink.bytes_per_s == pytest.approx(8 * MIB)


def test_transfers_at_the_same_time_share_the_clock() -> None:
    clock = Clock()
    uplink = Uplink(clock)
    with uplink.sending(), uplink.sending():
        send(uplink, clock, 8 * MIB, 1.0)
        assert uplink.bytes_per_s == 0
        send(uplink, clock, 8 * MIB, 1.0)
    assert uplink.bytes_per_s == pytest.approx(8 * MIB)


def test_little_says_nothing_until_it_is_enough() -> None:
    clock = Clock()
    uplink = Uplink(clock)
    for _ in range(3):
        send(uplink, clock, 4 * MIB, 0.4)
        assert uplink.bytes_per_s == 0
    send(uplink, clock, 4 * MIB, 0.4)
    assert uplink.bytes_per_s == pytest.approx(10 * MIB)


def test_of_a_slow_uplink_less_is_enough() -> None:
    clock = Clock()
    uplink = Uplink(clock)
    send(uplink, clock, 4 * MIB, 8.0)
    assert uplink.bytes_per_s == pytest.approx(MIB / 2)


def test_a_moment_says_nothing_however_much_goes_into_buffers() -> None:
    clock = Clock()
    uplink = Uplink(clock)
    send(uplink, clock, 32 * MIB, 0.1)
    assert uplink.bytes_per_s == 0
    send(uplink, clock, 32 * MIB, 1.5)
    assert uplink.bytes_per_s <= 80 * MIB


def test_stretches_that_receivers_slowed_down_or_buffers_sped_up_do_not_count() -> None:
    clock = Clock()
    uplink = Uplink(clock)
    for mib, for_s in ((16, 1.4), (16, 0.6), (4, 2.0), (16, 1.4), (16, 1.4), (16, 0.6), (4, 2.0)):
        send(uplink, clock, mib * MIB, for_s)
    assert uplink.bytes_per_s == pytest.approx(16 * MIB / 1.4, rel=0.01)


def test_the_estimate_follows_what_changes() -> None:
    clock = Clock()
    uplink = Uplink(clock)
    send(uplink, clock, 16 * MIB, 1.0)
    for _ in range(STRETCHES):
        send(uplink, clock, 16 * MIB, 4.0)
    assert uplink.bytes_per_s == pytest.approx(4 * MIB, rel=0.02)
