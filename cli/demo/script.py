"""What the demo plays: the run, its size, and when what happens."""

from __future__ import annotations

from dataclasses import dataclass

WORKERS = 4
JOINER = "late"
COORDINATOR = "coordinator"
ROUNDS_MIN = 10
PROMPT = "def "
SAMPLE_TOKENS = 200


@dataclass(frozen=True, slots=True)
class Script:
    """`kill_from` is the first round in which the victim may be found, `kill_by` the last; a new peer is
    started `join_after` commits later. `patience_s` bounds the whole run."""

    rounds: int = 12
    workers: int = WORKERS
    kill_from: int = 3
    kill_by: int = 4
    join_after: int = 1
    start_s: float = 90.0
    patience_s: float = 280.0
    silence_s: float = 90.0

    @property
    def run_toml(self) -> str:
        """A Llama-style model of a million parameters, and deadlines fit for loopback."""
        return _RUN.format(rounds=self.rounds, workers=self.workers, total=self.rounds * STEPS)


STEPS = 16
_RUN = f"""\
[run]
name = "demo"
rounds = {{rounds}}

[model]
architecture = "llama"
[model.config]
hidden_size = 128
intermediate_size = 352
num_hidden_layers = 5
num_attention_heads = 4
max_position_embeddings = 256
tie_word_embeddings = true

[data]
source = "stdlib"
sequence_tokens = 128
bytes_max = 4_000_000

[inner]
steps = {STEPS}
batch_sequences = 4
learning_rate = 2e-3
warmup_steps = {STEPS}
total_steps = {{total}}

[outer]
codec = "int8"

[rounds]
start_workers = {{workers}}
grace_share = 1.0
grace_ms_min = 1_000
train_ms_max = 60_000
deadline_ms = 6_000
bytes_per_s_min = 2_000_000
retry_ms = 300
lease_ms = 4_000
missed_max = 1

[coordinator]
listen = "127.0.0.1:0"
dht_listen = ["/ip4/127.0.0.1/tcp/0"]
evaluate_windows = 32
"""
