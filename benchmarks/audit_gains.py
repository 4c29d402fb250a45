"""Whether audits tell work from none where the product's own inner loop trains a Llama-style model.

    python benchmarks/audit_gains.py                    # two minutes on one core
    python benchmarks/audit_gains.py --rounds 6 --json

Eight members train the standard library's source as in a run, their moments kept from round to round. Five
auditors look at some steps of each. `gain` is what an audit compares: the fall of loss on those assigned
steps beyond that on steps of nobody, in nats per token. For each kind of free rider, two of the eight are
scored as if they had sent that in place of their work; training goes on with what was really trained, so all
kinds are judged in the same rounds. `weight` is the factor that reputations leave at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

import torch

from atoll.optim.rules.nesterov import NesterovRule
from atoll.protocol import audit
from atoll.protocol.audit import AuditRules, Score
from atoll.protocol.ids import Digest, PeerId, digest_of
from atoll.protocol.roster import Reputation
from atoll.protocol.weights import UNIT
from atoll.workload import model as models
from atoll.workload import vector
from atoll.workload.config import DataConfig, InnerConfig, ModelConfig
from atoll.workload.data import Corpus
from atoll.workload.falls import Falls, Measure, Work
from atoll.workload.inner import InnerLoop
from atoll.workload.tokens import ByteTokens

MEMBERS, RIDERS = 8, 2
OUTER_LR = 0.7
WARM_ROUNDS = 4
"""Nobody is audited in them: the first steps from random parameters teach all the same."""
LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
RULES = AuditRules(auditors=5, targets=MEMBERS)
PEERS = [PeerId(f"{n:02}") for n in range(MEMBERS)]
AUDITORS = [PeerId(f"auditor {n}") for n in range(RULES.auditors)]
"""Not of the members: who may audit whom is not the question here."""
HONEST = "honest"
Stack = Sequence[torch.Tensor]


def riding(work: Stack, before: Stack, draws: torch.Generator) -> dict[str, Stack]:
    """What each member would have sent."""
    mean = torch.stack(list(work)).mean(0)
    noise = [torch.randn(mean.shape, generator=draws) for _ in work]
    return {
        HONEST: work,
        "copy": [*work[1:], work[0]],
        "mean": [mean] * len(work),
        "stale": before,
        "noise": [n * (w.norm() / n.norm()) for n, w in zip(noise, work, strict=True)],
        "zeros": [torch.zeros_like(mean)] * len(work),
    }


class Swarm:
    """Members in one process, with one model and an inner loop each."""

    def __init__(self, seed: int, inner: InnerConfig, looked_at: int) -> None:
        given = {"architecture": "llama", "seed": seed, "config": LLAMA}
        self.model = models.build(ModelConfig.from_mapping(given, "[model]"))
        self.corpus = Corpus.load(DataConfig(sequence_tokens=64, bytes_max=4_000_000), ByteTokens())
        self.inner, self.looked_at, self.run_seed = inner, looked_at, f"run {seed}".encode()
        self.loops = [InnerLoop(self.model, self.corpus, inner, self.run_seed) for _ in PEERS]
        self.measure = Measure(self.model, self.corpus, inner, self.run_seed, 16)
        self.anchor = torch.empty(vector.numel(self.model))
        vector.write(self.model, self.anchor)

    def trained(self, round_: int) -> list[torch.Tensor]:
        """Each member's pseudo-gradient."""
        found = []
        for member, loop in enumerate(self.loops):
            vector.load(self.model, self.anchor)
            first = round_ * self.inner.steps
            loop.train(
                round_, self.inner.steps, member, MEMBERS, first, lambda: False, lambda step, loss: None
            )
            local = torch.empty_like(self.anchor)
            vector.write(self.model, local)
            found.append(self.anchor - local)
        return found

    def scored(self, sent: Stack, first: int, round_: int, parent: Digest) -> list[list[Falls]]:
        """Of each contribution, from the member `first` on, by each auditor."""
        found = []
        for member in range(first, MEMBERS):
            stepped = self.anchor - OUTER_LR * sent[member]
            steps = [
                audit.steps_drawn(parent, auditor, PEERS[member], self.inner.steps, self.looked_at)
                for auditor in AUDITORS
            ]
            works = [Work(round_, member, MEMBERS, drawn) for drawn in steps]
            found.append([self.measure.falls(self.anchor, stepped, work) for work in works])
        return found


def scores(found: Sequence[Sequence[Falls]]) -> list[Score]:
    return [
        Score(auditor, target, *map(audit.clamped, (falls.heldout, falls.assigned, falls.control)))
        for target, each in zip(PEERS, found, strict=True)
        for auditor, falls in zip(AUDITORS, each, strict=True)
    ]


def measure(seed: int, rounds: int, inner: InnerConfig, looked_at: int) -> dict[str, Any]:
    swarm, outer = Swarm(seed, inner, looked_at), NesterovRule(OUTER_LR, 0.6)
    state, draws = outer.state(len(swarm.anchor)), torch.Generator().manual_seed(seed)
    before: list[torch.Tensor] = []
    gains: dict[str, list[float]] = {}
    known: dict[str, dict[PeerId, Reputation]] = {}
    for round_ in range(WARM_ROUNDS + rounds):
        work = swarm.trained(round_)
        if round_ >= WARM_ROUNDS:
            parent = digest_of(f"{seed} {round_}".encode())
            honest = swarm.scored(work, 0, round_, parent)
            for kind, sent in riding(work, before, draws).items():
                told = honest if kind == HONEST else swarm.scored(sent, MEMBERS - RIDERS, round_, parent)
                each = [sorted(f.assigned - f.control for f in one)[RULES.auditors // 2] for one in told]
                gains.setdefault(kind, []).extend(each)
                mixed = [*honest[: MEMBERS - RIDERS], *told[-RIDERS:]]
                said = audit.judgements(scores(mixed), AUDITORS)
                known[kind] = audit.judged(known.get(kind, {}), said, round_, RULES)
        before = work
        outer.step_(swarm.anchor, state, torch.stack(work).mean(0))
    return {"seed": seed, "rows": [_row(kind, gains[kind], known[kind]) for kind in gains]}


def _row(kind: str, gains: list[float], known: dict[PeerId, Reputation]) -> dict[str, Any]:
    weights = [audit.factor(known.get(peer, audit.FOUNDER), RULES) / UNIT for peer in PEERS]
    return {
        "kind": kind,
        "gain": round(fmean(gains), 4),
        "deviation": round(pstdev(gains), 4),
        "honest_weight": round(fmean(weights[: MEMBERS - RIDERS]), 4),
        "rider_weight": round(fmean(weights[MEMBERS - RIDERS :]), 4),
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['steps']} steps a round, {result['looked_at']} looked at, {result['rounds']} rounds",
        "| seed | sent | gain | deviation | weight of workers | of these |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for run in result["runs"]:
        for row in run["rows"]:
            lines.append(
                f"| {run['seed']} | {row['kind']} | {row['gain']:.4f} | {row['deviation']:.4f} "
                f"| {row['honest_weight']:.1%} | {row['rider_weight']:.1%} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=24, help="inner steps of a round")
    parser.add_argument("--looked-at", type=int, default=6, help="steps that each auditor looks at")
    parser.add_argument("--json", action="store_true", help="one line")
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun_s = time.monotonic()
    inner = InnerConfig(steps=given.steps, batch_sequences=4, learning_rate=2e-3, warmup_steps=20)
    runs = [measure(int(seed), given.rounds, inner, given.looked_at) for seed in given.seeds.split(",")]
    result = {
        "members": MEMBERS,
        "riders": RIDERS,
        "rounds": given.rounds,
        "steps": given.steps,
        "looked_at": given.looked_at,
        "runs": runs,
        "seconds": round(time.monotonic() - begun_s, 1),
    }
    print(json.dumps(result) if given.json else table(result))


if __name__ == "__main__":
    main()
