"""One trial of one seed, and many of them: what was checked, what failed, and how to see it again."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from atoll.simulator.checkers import all_checkers
from atoll.simulator.checkers.liveness import Liveness
from atoll.simulator.faults import Faults
from atoll.simulator.setting import FAULTS, Setting, setting
from atoll.simulator.strikes import Strike
from atoll.simulator.world import Violation, World

ROUND_MS_MAX = 20_000
COLLECT_EVERY = 100_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed gave. `violation` and `stuck` are None if all went well.

    `epoch` is the last one, `pruned` the number of hosts whose ledger begins after a snapshot.
    """

    seed: int
    violation: str | None
    stuck: str | None
    commits: int
    updates: int
    peers: int
    events: int
    messages: int
    control_bytes: int
    view_max: int
    virtual_ms: int
    rejected: dict[str, int]
    epoch: int = 0
    pruned: int = 0
    trace: list[str] = field(default_factory=list)
    strikes: tuple[Strike, ...] = ()


def trial(
    seed: int,
    chosen: Setting,
    traced: bool = False,
    checkers: Sequence[Any] | None = None,
    strikes: Sequence[Strike] | None = None,
) -> Outcome:
    """Faults for `rounds` updates (or a time limit), then none, and everybody must get on.

    The faults are drawn from the seed, or are just `strikes`.
    """
    world = World(seed, chosen, all_checkers() if checkers is None else checkers, traced)
    faults = Faults(world, strikes)
    violation = stuck = None
    try:
        with rare_collections():
            stuck = _live(world, faults)
    except Violation as error:
        violation = str(error)
    except Exception as error:  # noqa: BLE001 - a peer that raises is a finding, and the other seeds go on
        where = traceback.extract_tb(error.__traceback__)[-1]
        violation = f"{type(error).__name__}: {error} (in {where.name}, {where.filename}:{where.lineno})"
    world.note("", f"end: {violation or stuck or 'all went well'}")
    return Outcome(
        seed=seed,
        violation=violation,
        stuck=stuck,
        commits=world.height,
        updates=world.updates,
        peers=len(world.hosts),
        events=world.clock.happened,
        messages=world.traffic.messages,
        control_bytes=world.traffic.bytes,
        view_max=world.view_max,
        virtual_ms=world.clock.now_ms,
        rejected=dict(world.rejected),
        epoch=world.history.epoch,
        pruned=sum(host.disk.base is not None for host in world.hosts.values()),
        trace=world.trace.lines if world.trace else [],
        strikes=tuple(faults.struck),
    )


@contextmanager
def rare_collections() -> Iterator[None]:
    """Look for garbage in cycles rarely: a large world has millions of objects, and hardly a cycle dies."""
    usual = gc.get_threshold()
    gc.set_threshold(COLLECT_EVERY, 10, 100)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _live(world: World, faults: Faults) -> str | None:
    """Run a world to its end; what it is stuck on, or None."""
    rounds = world.setting.rounds
    world.boot()
    faults.start()
    world.clock.run(rounds * ROUND_MS_MAX, lambda: world.updates >= rounds)
    faults.stop()
    liveness = Liveness(world)
    if world.clock.run(liveness.until_ms, liveness.reached):
        return None
    return liveness.complaint()


def run_network(
    peers: int,
    rounds: int,
    seeds: Sequence[int],
    faults: str,
    progress: Callable[[Outcome], None] | None = None,
    mode: str = "",
    liars: int = 0,
    votes: str = "majority",
) -> dict[str, Any]:
    """Try every seed; a dictionary that can be printed as JSON. ConfigError if the values make no sense."""
    return try_seeds(seeds, setting(peers, rounds, faults, mode, liars, votes), progress)


def try_seeds(
    seeds: Sequence[int], chosen: Setting, progress: Callable[[Outcome], None] | None = None
) -> dict[str, Any]:
    """Try every seed of one setting."""
    began = time.perf_counter()
    outcomes = []
    for outcome in _outcomes(seeds, chosen):
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome)
    return summary(outcomes, chosen, time.perf_counter() - began)


def _outcomes(seeds: Sequence[int], chosen: Setting) -> Iterator[Outcome]:
    one = partial(trial, chosen=chosen)
    processes = os.cpu_count() or 2
    if len(seeds) < 2 * processes:
        yield from map(one, seeds)
        return
    context = multiprocessing.get_context("spawn")
    ignore_interrupts = (signal.SIGINT, signal.SIG_IGN)  # the parent's Ctrl-C ends the workers too
    pool = ProcessPoolExecutor(processes, context, signal.signal, ignore_interrupts)
    try:
        yield from pool.map(one, seeds)
    finally:
        pool.shutdown(cancel_futures=True)


def summary(outcomes: Sequence[Outcome], chosen: Setting, seconds: float) -> dict[str, Any]:
    """Totals over all seeds, and each failure with the command that shows it again."""
    bad = [outcome for outcome in outcomes if outcome.violation or outcome.stuck]
    peer_rounds = max(1, sum(outcome.peers * outcome.commits for outcome in outcomes))
    events = sum(outcome.events for outcome in outcomes)
    return {
        "seeds": len(outcomes),
        "violations": sum(outcome.violation is not None for outcome in outcomes),
        "stuck": sum(outcome.stuck is not None for outcome in outcomes),
        "commits": sum(outcome.commits for outcome in outcomes),
        "updates": sum(outcome.updates for outcome in outcomes),
        "view_max": max((outcome.view_max for outcome in outcomes), default=0),
        "events": events,
        "events_per_s": round(events / max(seconds, 1e-9)),
        "seconds": round(seconds, 1),
        "messages_per_peer_round": round(sum(outcome.messages for outcome in outcomes) / peer_rounds, 1),
        "control_bytes_per_peer_round": sum(outcome.control_bytes for outcome in outcomes) // peer_rounds,
        "failures": [
            {
                "seed": bad_one.seed,
                "what": bad_one.violation or bad_one.stuck,
                "replay": replay(bad_one.seed, chosen),
            }
            for bad_one in bad
        ],
    }


def replay(seed: int, chosen: Setting) -> str:
    """The command that runs this seed again, with every event in sight."""
    faults = "heavy" if chosen.faults == set(FAULTS) else ",".join(sorted(chosen.faults)) or "none"
    mode = f"--mode {chosen.mode} " if chosen.mode else ""
    return (
        f"atoll simulate network --peers {chosen.peers} --rounds {chosen.rounds} "
        f"--seeds {seed}:{seed + 1} --faults {faults} {mode}"
        f"{f'--liars {chosen.liars} ' if chosen.liars else ''}"
        f"{f'--votes {chosen.votes} ' if chosen.votes != 'majority' else ''}--trace"
    )
