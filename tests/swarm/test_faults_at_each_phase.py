"""One process is killed, frozen or restarted at each step of a round; the others lose one deadline at most.

Five real processes, one strike after the other, each when all five have recovered from the last. The
complete matrix of steps, roles and faults is benchmarks/faults.py, its results are in docs/faults.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults import WORKERS, FaultSwarm, Outcome, Strike, fault_swarm, one_history, strike
from story import wait_same

pytestmark = [pytest.mark.swarm, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultSwarm]:
    with fault_swarm(tmp_path_factory.mktemp("faults")) as swarm:
        yield swarm


def cheap(outcome: Outcome) -> bool:
    """Whether the struck round was decided at the latest by its second leader, for one deadline or none."""
    return outcome.deadlines_lost <= 1 and outcome.decided_view <= outcome.view + 1


@pytest.mark.parametrize(
    ("step", "role", "fault"),
    [
        ("offer", "worker", "freeze"),
        ("plan", "leader", "kill"),
        ("scatter", "owner", "freeze"),
        ("reduce", "owner", "freeze"),
        ("gather", "witness", "freeze"),
        ("propose", "leader", "freeze"),
        ("commit", "leader", "restart"),
    ],
)
def test_a_process_is_struck_and_comes_back(swarm: FaultSwarm, step: str, role: str, fault: str) -> None:
    outcome = strike(swarm, Strike(step, role, fault))
    assert cheap(outcome), outcome
    if (role, fault) == ("leader", "freeze"):  # nothing but its deadline tells the others
        assert outcome.deadlines_lost == 1
    assert wait_same(swarm)
    assert one_history(swarm) >= outcome.round


def test_a_voter_is_killed_and_the_others_go_on(swarm: FaultSwarm) -> None:
    outcome = strike(swarm, Strike("vote", "worker", "kill"), back=False)
    assert cheap(outcome), outcome
    assert outcome.victim in WORKERS
    assert wait_same(swarm)
    assert one_history(swarm) >= outcome.round - 1  # as far as the killed one had come
