"""Exchanges give every replica the same list; who is gone is not waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from atoll.optim import LocalGroup, ProcessGroupExchange
from atoll.optim.exchanges import Contributions, Exchange


def test_everybody_gets_everything_in_the_order_of_places() -> None:
    def train(place: int, exchange: Exchange) -> list[Contributions]:
        return [exchange(bytes([place, number]), place + 1)() for number in range(50)]

    wanted = [[(place + 1, bytes([place, number])) for place in range(4)] for number in range(50)]
    group = LocalGroup(4, timeout_s=20)
    assert group.run(train) == [wanted] * 4
    assert not group._sent  # nothing is kept of what all have read


def test_several_exchanges_may_be_in_flight() -> None:
    def train(place: int, exchange: Exchange) -> list[Contributions]:
        first, second = exchange(b"a", place), exchange(b"b", place)
        return [second(), first()]

    wanted = [[(0, b"b"), (1, b"b")], [(0, b"a"), (1, b"a")]]
    assert LocalGroup(2, timeout_s=20).run(train) == [wanted] * 2


def test_who_leaves_is_in_what_it_sent_to_and_in_nothing_after() -> None:
    def train(place: int, exchange: Exchange) -> list[Contributions]:
        found = []
        for number in range(place + 1):
            finish = exchange(b"", place)
            if place == 1 and number == 1:
                raise KeyError("lost")
            found.append(finish())
        results[place] = found
        return found

    results: dict[int, list[Contributions]] = {}
    with pytest.raises(KeyError, match="lost"):
        LocalGroup(3, timeout_s=20).run(train)
    assert [[weight for weight, _ in each] for each in results[2]] == [[0, 1, 2], [1, 2], [2]]


def test_a_replica_that_is_silent_is_named() -> None:
    gone = threading.Event()

    def train(place: int, exchange: Exchange) -> None:
        if place == 1:
            gone.wait(20)
            return
        try:
            exchange(b"", 1)()
        finally:
            gone.set()

    with pytest.raises(TimeoutError, match=r"replicas \[1\] sent nothing to exchange 0"):
        LocalGroup(2, timeout_s=0.05).run(train)
    with pytest.raises(ValueError, match="at least one replica"):
        LocalGroup(0)


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_process_group_carries_any_bytes_and_weight(group_of_one: None) -> None:
    exchange = ProcessGroupExchange()
    for payload, weight in ((b"", 0), (b"x", 1), (bytes(range(256)) * 9, 2**53)):
        ((got_weight, got),) = exchange(payload, weight)()
        assert (got_weight, bytes(got)) == (weight, payload)
