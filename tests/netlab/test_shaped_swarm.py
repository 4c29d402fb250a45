"""A swarm of real processes on three machines behind slow links, one of them behind a NAT.

The tests are one story in order. The NAT lets out and not in: what others want of that worker (its messages,
its contribution, the part that it sums) goes through connections that it made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from netlab import Host, Lab, Link

sys.path.insert(0, str(Path(__file__).parent.parent / "swarm"))

import story
from story import COORDINATOR, ROUND_S, START_S, Anchors, contributes, start_coordinator, updates, wait_same

from atoll.cli import places
from atoll.cli.demo.swarm import Swarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]
OPEN, HOME = "w1", "w2"


@pytest.fixture(scope="module")
def net(permitted: None) -> Iterator[Lab]:
    link = Link(mbit=50, delay_ms=10)
    with Lab(Host(COORDINATOR), Host(OPEN), Host(HOME, nat=True), link=link) as lab:
        yield lab


@pytest.fixture(scope="module")
def swarm(net: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path_factory.mktemp("shaped"), Anchors())
    try:
        run = story.RUN.format(rounds=10_000, steps=4, workers=2, rules="").replace("127.0.0.1", "0.0.0.0")
        (swarm.folder / "RUN.toml").write_text(run)
        with net.inside(COORDINATOR):
            start_coordinator(swarm)
        state_dir = swarm.children[COORDINATOR].state_dir
        swarm.until(lambda: places.invite(state_dir) is not None, START_S, "the invite")
        for name in (OPEN, HOME):
            with net.inside(name):
                swarm.start(name, "join", places.invite(state_dir) or "")
        swarm.until(lambda: updates(swarm) >= 1, START_S, "the first update")
        yield swarm
    finally:
        swarm.close()


def both(swarm: Swarm) -> bool:
    return contributes(swarm, OPEN) and contributes(swarm, HOME)


def test_a_worker_behind_a_nat_takes_a_full_part(swarm: Swarm) -> None:
    swarm.until(lambda: both(swarm), ROUND_S, "an update of both workers")
    begun = updates(swarm)
    swarm.until(lambda: updates(swarm) >= begun + 3, ROUND_S, "three more updates")
    assert both(swarm)
    assert wait_same(swarm)
    members = {member["peer"]: member["path"] for member in swarm.statuses[OPEN]["members"]}
    assert members[swarm.statuses[HOME]["peer"]] == "libp2p"
    members = {member["peer"]: member["path"] for member in swarm.statuses[HOME]["members"]}
    assert members[swarm.statuses[OPEN]["peer"]] == "direct"
    owned = swarm.statuses[HOME]["traffic"]
    assert owned["contribution"]["received"] > 0, "it owns a part"
    assert owned["result"]["sent"] > 0, "others take its part from it"


def test_a_worker_whose_link_was_cut_comes_back(swarm: Swarm, net: Lab) -> None:
    net.cut(OPEN)
    home = swarm.statuses[HOME]["peer"]
    swarm.until(
        lambda: [c["contributors"] for c in swarm.statuses[HOME]["commits"][-1:]] == [[home]],
        ROUND_S,
        "an update without the one that is cut off",
    )
    net.heal(OPEN)
    swarm.until(lambda: both(swarm), ROUND_S, "an update of both workers again")
    assert wait_same(swarm)
