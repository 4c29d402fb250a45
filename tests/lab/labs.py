"""A laboratory small enough for a test: three replicas of ten thousand parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.simulator.lab import config, pool
from atoll.simulator.lab.config import Lab
from atoll.simulator.lab.pool import Job, Result

REPLICAS, STEPS, BATCH, SEQUENCE = 3, 12, 2, 16

TABLE: dict[str, Any] = {
    "lab": {
        "replicas": REPLICAS,
        "tokens": REPLICAS * STEPS * BATCH * SEQUENCE,
        "evaluations": 3,
        "device": "cpu",
    },
    "model": {
        "architecture": "llama",
        "config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
        },
    },
    "data": {"sequence_tokens": SEQUENCE, "bytes_max": 60_000, "heldout_share": 0.1, "heldout_windows": 8},
    "inner": {"batch_sequences": BATCH, "learning_rate": 3e-3, "warmup_steps": 2},
}
SYNC = {"name": "sync", "algorithm": "sync"}
ALL = (
    SYNC,
    {"name": "diloco", "algorithm": "diloco", "steps": 4, "codec": "int8"},
    {"name": "streaming", "algorithm": "streaming", "steps": 4, "codec": "int8", "fragments": 2},
    {"name": "sparse", "algorithm": "sparseloco", "steps": 4},
    {"name": "co2", "algorithm": "co2", "steps": 3},
    {"name": "eager", "algorithm": "eager", "steps": 3, "outer": {"rule": "eager", "lr": 0.4, "resync": 2}},
    {"name": "async", "algorithm": "async", "steps": 3, "codec": "int8"},
    {"name": "noloco", "algorithm": "noloco", "steps": 3, "codec": "int8"},
    {"name": "muon", "algorithm": "diloco", "steps": 4, "inner": {"optimizer": "muon"}},
    {"name": "free", "algorithm": "diloco", "steps": 4, "inner": {"optimizer": "schedule-free"}},
)


def table(*methods: Mapping[str, Any], **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A LAB.toml's content with these methods; `sections` are laid over the small lab's."""
    made = copy.deepcopy(TABLE)
    for name, section in sections.items():
        made[name] = {**made.get(name, {}), **section}
    return {**made, "method": [dict(method) for method in methods or (SYNC,)]}


def lab(*methods: Mapping[str, Any], **sections: Mapping[str, Any]) -> Lab:
    return config.of(table(*methods, **sections), Path("LAB.toml"))


def run(chosen: Lab, out: Path, resume: bool = False) -> dict[str, Result]:
    """All trials of the first seed, in this process, by the names of their methods."""
    results = pool.run(chosen, out, 1, resume, lambda *news: None, lambda *done: None)
    seed = chosen.lab.seeds[0]
    return {method.name: results[Job(place, seed)] for place, method in enumerate(chosen.methods)}


def numbers(result: Result) -> dict[str, Any]:
    """What must be equal wherever a trial runs: all but its seconds."""
    return {key: value for key, value in result.items() if key != "seconds"}
