"""What an auditor measures, where nothing is trained: figures as `benchmarks/audits.py` finds them.

Who trained on what it was assigned gains more there than elsewhere, who did not gains as much in both places.
Slanderers say the contrary, and as loudly as they may.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol.audit import CHANGE_MAX
from atoll.protocol.events import Fall
from atoll.protocol.ids import PeerId

if TYPE_CHECKING:
    from atoll.simulator.host import Host

GAIN, DEVIATION, HELDOUT = 76_000, 26_000, 20_000
"""Micro-nats, of four steps of eight."""
AUDIT_MS = 50
"""For each contribution."""


def falls(host: Host, action: a.Audit) -> tuple[Fall, ...]:
    """What this host says of these contributions."""
    world, found = host.world, []
    for work in action.works:
        draws = random.Random(f"{world.seed} {host.id} {work.target} {action.round}")
        trained = not rides(host, work.target)
        if slanders(host):
            worst = CHANGE_MAX if trained else -CHANGE_MAX
            found.append(Fall(work.target, -worst, -worst, worst))
            continue
        control = round(draws.gauss(HELDOUT, DEVIATION))
        gain = round(draws.gauss(GAIN * trained, DEVIATION / 2))
        found.append(Fall(work.target, HELDOUT, control + gain, control))
    return tuple(found)


def rides(host: Host, peer: PeerId) -> bool:
    """Whether a worker sends what it did not train: the first of them."""
    other = host.world.hosts[peer]
    return 1 <= _number(other) <= host.world.setting.riders


def slanders(host: Host) -> bool:
    """Whether a worker lies about what it measures: those after the free riders."""
    chosen = host.world.setting
    return chosen.riders < _number(host) <= chosen.riders + chosen.slanderers


def _number(host: Host) -> int:
    return int(host.name[1:] or 0)
