"""A limit on a link: what passes in how long, and how it is shared."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from atoll.node.rate_limit import BURST_S, EVERY_S, FLOWS_KEPT, RateLimit
from atoll.node.traffic import Kind
from atoll.node.transport import CHUNK_BYTES_MAX
from atoll.protocol.ids import PeerId

SIZE = 1000
Flow = tuple[PeerId, Kind]


class VirtualLoop(asyncio.SelectorEventLoop):
    """Where nothing is ready, time goes on to the next timer at once."""

    now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        if not ready and scheduled:
            self.now_s = max(self.now_s, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


def run(story: Coroutine[Any, Any, None]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(story)
    finally:
        loop.close()


async def share(limit: RateLimit, for_s: float, streams: dict[Flow, int], size: int = SIZE) -> Counter[Flow]:
    """What each flow moves in a time if all of its streams always want more."""
    moved: Counter[Flow] = Counter()

    async def stream(flow: Flow) -> None:
        while True:
            await limit.turn(*flow, size)
            moved[flow] += size

    tasks = [asyncio.ensure_future(stream(flow)) for flow, count in streams.items() for _ in range(count)]
    await asyncio.sleep(for_s)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return moved


ONE, OTHER, JOINER = (PeerId(name) for name in ("one", "other", "joiner"))


def test_the_rate_is_kept_whoever_sends() -> None:
    async def story() -> None:
        limit = RateLimit(100_000)
        moved = await share(limit, 20.0, {(ONE, "result"): 3, (JOINER, "state"): 8})
        assert 20 * 100_000 - 2 * SIZE <= moved.total() <= (20 + BURST_S) * 100_000 + SIZE

    run(story())


def test_a_peer_gains_nothing_by_many_streams() -> None:
    async def story() -> None:
        moved = await share(RateLimit(100_000), 10.0, {(ONE, "result"): 1, (OTHER, "result"): 16})
        assert moved[ONE, "result"] == pytest.approx(moved[OTHER, "result"], rel=0.02)

    run(story())


def test_a_joiner_leaves_updates_eight_ninths() -> None:
    async def story() -> None:
        limit = RateLimit(100_000)
        moved = await share(limit, 10.0, {(ONE, "result"): 1, (JOINER, "state"): 8})
        assert moved[ONE, "result"] == pytest.approx(8 * moved[JOINER, "state"], rel=0.02)
        alone = await share(limit, 10.0, {(JOINER, "state"): 8})
        assert alone.total() == pytest.approx(10 * 100_000, rel=0.02)

    run(story())


def test_contributions_go_first_and_the_rest_still_moves() -> None:
    async def story() -> None:
        flows = {(ONE, "contribution"): 1, (OTHER, "result"): 1, (JOINER, "state"): 4}
        moved = await share(RateLimit(100_000), 10.0, flows)
        rest = moved[OTHER, "result"] + moved[JOINER, "state"]
        assert 10 / EVERY_S * SIZE * 0.8 <= rest <= 10 / EVERY_S * SIZE * 1.3
        assert moved.total() == pytest.approx(10 * 100_000, rel=0.02)

    run(story())


def test_what_is_for_a_later_round_waits_until_that_begins() -> None:
    async def story() -> None:
        limit, granted = RateLimit(100_000), list[str]()
        limit.enter(3)

        async def stream(name: str, kind: Kind, round_: int) -> None:
            for _ in range(20):
                await limit.turn(ONE, kind, SIZE, round_)
                granted.append(name)

        streams = [("early", "contribution", 4), ("sum", "result", 0), ("now", "contribution", 3)]
        tasks = [asyncio.ensure_future(stream(*one)) for one in streams]  # type: ignore[arg-type]
        await asyncio.sleep(0.3)
        assert granted[1:26] == ["now"] * 20 + ["sum"] * 5  # the first turn was free
        limit.enter(4)
        before = len(granted)
        await asyncio.wait(tasks)
        assert granted[before : before + 19] == ["early"] * 19
        assert Counter(granted) == {"early": 20, "sum": 20, "now": 20}

    run(story())


def test_a_limit_that_ends_lets_all_go() -> None:
    async def story() -> None:
        limit = RateLimit(1000)
        waits = [asyncio.ensure_future(limit.turn(ONE, "state", 100_000)) for _ in range(5)]
        await asyncio.sleep(1.0)
        assert limit.busy
        limit.set(0)
        await asyncio.wait(waits)
        assert asyncio.get_running_loop().time() == 1.0

    run(story())


def test_who_comes_late_does_not_get_what_it_did_not_ask_for() -> None:
    async def story() -> None:
        limit = RateLimit(100_000)
        await share(limit, 10.0, {(ONE, "result"): 1})
        moved = await share(limit, 2.0, {(ONE, "result"): 1, (OTHER, "result"): 1})
        assert moved[ONE, "result"] == pytest.approx(moved[OTHER, "result"], abs=2 * SIZE)

    run(story())


def test_rest_is_made_up_for_only_a_moment() -> None:
    async def story() -> None:
        limit = RateLimit(100_000)
        await limit.turn(ONE, "result", SIZE)
        await asyncio.sleep(60.0)
        moved = await share(limit, 1.0, {(ONE, "result"): 1})
        assert moved.total() <= (1 + BURST_S) * 100_000 + SIZE

    run(story())


def test_who_goes_away_costs_the_others_nothing() -> None:
    async def story() -> None:
        limit = RateLimit(100_000)
        await limit.turn(ONE, "result", 100_000)
        waits = [asyncio.ensure_future(limit.turn(OTHER, "state", 100_000)) for _ in range(50)]
        await asyncio.sleep(0.5)
        for wait in waits:
            wait.cancel()
        begun_s = asyncio.get_running_loop().time()
        await limit.turn(ONE, "result", SIZE)
        assert asyncio.get_running_loop().time() - begun_s <= 0.51
        for wait in waits:
            with contextlib.suppress(asyncio.CancelledError):
                await wait

    run(story())


def test_of_many_flows_the_greediest_are_remembered() -> None:
    async def story() -> None:
        limit = RateLimit(100_000)
        waiting = asyncio.ensure_future(share(limit, 0.1, {(JOINER, "state"): 2}, size=10))
        for number in range(300):
            await limit.turn(PeerId(f"{number}"), "result", 10)
        assert len(limit._flows) <= 2 * FLOWS_KEPT + 1
        assert (JOINER, "state") in limit._flows
        await waiting

    run(story())


def test_without_a_limit_nobody_waits() -> None:
    async def story() -> None:
        limit = RateLimit()
        for _ in range(1000):
            await limit.turn(ONE, "state", 1 << 30)
        assert asyncio.get_running_loop().time() == 0
        assert limit.chunk_bytes() == CHUNK_BYTES_MAX
        assert RateLimit(1_000_000).chunk_bytes() == BURST_S * 1_000_000

    run(story())
