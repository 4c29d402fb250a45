"""A program: steps of every outer rule on fixed numbers, under one thread and under two. Prints digests.

Run in a process of its own by test_same_bits.py, since a process keeps the instruction set it began with.
"""

from __future__ import annotations

import json

import torch
from optim_vectors import integers_to_floats

from atoll.optim.codecs import codec
from atoll.optim.digest import tensor_digest
from atoll.optim.feedback import Residual
from atoll.optim.gossip import NoLoCoRule, consensus_distance, mean_of_pair
from atoll.optim.layout import Layout
from atoll.optim.mean import weighted_mean
from atoll.optim.modules import ModuleMap
from atoll.optim.norms import norm
from atoll.optim.pseudo_gradient import pseudo_gradient
from atoll.optim.rda import rda
from atoll.optim.rules import RULES, EagerRule, outer_rule
from atoll.optim.rules.base import PIECE
from atoll.optim.rules.nesterov import NesterovRule, step_
from atoll.optim.scalar_replica import Replica
from atoll.optim.scalars import ScalarRule

NUMEL = 300_001
LONG = PIECE + 9001
"""Longer than what is worked on at a time, and long enough for torch to use two threads."""
PEERS = 3


def digests() -> dict[str, str]:
    int8 = codec("int8")
    anchor, momentum = integers_to_floats(NUMEL, 1), torch.zeros(NUMEL)
    residuals = [Residual(NUMEL) for _ in range(PEERS)]
    found: dict[str, str] = {}
    for round_ in range(3):
        payloads = []
        for peer, residual in enumerate(residuals):
            local = anchor - integers_to_floats(NUMEL, 10 * round_ + peer + 2, exponent=-30)
            payloads.append(int8.encode(residual.offer(pseudo_gradient(anchor, local))))
            residual.accepted(int8.decode(payloads[-1], NUMEL))
        update = weighted_mean(zip((8191, 77777, 100003), payloads, strict=True), int8, NUMEL)
        assert update is not None
        step_(anchor, momentum, int8.decode(int8.encode(update), NUMEL), NesterovRule(0.7, 0.9))
        named = {"update": update, "anchor": anchor, "momentum": momentum, "residual": residuals[0].buffer}
        found |= {f"{name} {round_}": tensor_digest(tensor) for name, tensor in named.items()}
    return found


def rule_digests() -> dict[str, str]:
    """Every outer rule: the anchor and all of its state after four steps, CO2 with a penalty from norms."""
    knobs: dict[str, dict[str, float | str]] = {
        "sgd": {"lr": 0.65},
        "co2": {"penalty": "gap", "clip": 0.01},
        "delayed-nesterov": {"period": 3, "spread": 0.1},
    }
    found: dict[str, str] = {}
    for name in RULES.keys() - {"eager"}:
        rule = outer_rule(name, knobs.get(name, {}))
        anchor, state = integers_to_floats(LONG, 1), rule.state(LONG)
        for seed in range(4):
            rule.step_(anchor, state, integers_to_floats(LONG, seed + 2, exponent=-27))
        found |= {f"{name} {place}": tensor_digest(vector) for place, vector in enumerate((anchor, *state))}
    return found | eager_digests()


def eager_digests() -> dict[str, str]:
    """One worker of three, two rounds: the estimate from a mean that came, and the step."""
    rule = EagerRule(momentum=0.8)
    anchor, state = integers_to_floats(LONG, 1), rule.state(LONG)
    mean, own, fresh = (integers_to_floats(LONG, seed, exponent=-27) for seed in (15, 16, 17))
    rule.step_(anchor, state, rule.estimate(state, own, 1 / 3))
    rule.received_(state, mean, own)
    estimate = rule.estimate(state, fresh, 1 / 3)
    rule.step_(anchor, state, estimate)
    named = {"anchor": anchor, "momentum": state[0], "mean": state[1], "own": state[2], "estimate": estimate}
    return {f"eager {name}": tensor_digest(vector) for name, vector in named.items()}


def other_digests() -> dict[str, str]:
    """What else peers must agree on: norms, RDA, modules, a gossip step, a run of scalars."""
    layout = Layout.of([("w", (500, 200)), ("v", (LONG - 100_000,))])
    vectors = [integers_to_floats(LONG, seed, exponent=-27) for seed in range(PEERS)]
    radial = rda([(8191, vectors[0]), (77777, vectors[1]), (3, vectors[2])], layout)
    shares = {str(peer): (peer + 1, vector) for peer, vector in enumerate(vectors)}
    modular = ModuleMap.of(dict.fromkeys(shares, (0,)), 1).mean(0, shares, LONG, rescale=True)
    anchor, momentum = vectors[0].clone(), vectors[1].clone()
    NoLoCoRule().step_(anchor, momentum, vectors[2], mean_of_pair(vectors[0], vectors[1]))
    replica = Replica(ScalarRule(0.01, 1e-3, b"seed"), vectors[0])
    for step in range(4):
        replica.take(step, "a", 90)
        replica.take(step, "b", 200)
        replica.advance()
    assert radial is not None
    assert modular is not None
    return {
        "norm": norm(integers_to_floats(LONG, 9)).hex(),
        "consensus": consensus_distance(vectors).hex(),
        "rda": tensor_digest(radial),
        "modules": tensor_digest(modular),
        "gossip": tensor_digest(anchor),
        "scalars": replica.digest,
    }


def fused() -> str:
    """Two operations in one instruction where the machine has it: what the rules above avoid."""
    a, b = integers_to_floats(NUMEL, 50), integers_to_floats(NUMEL, 51)
    return tensor_digest(torch.add(a, b, alpha=0.7))


if __name__ == "__main__":
    under = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        under[torch.get_num_threads()] = digests() | rule_digests() | other_digests()
    print(
        json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), "fused": fused(), "under": under})
    )
