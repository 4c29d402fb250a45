"""What may not stand together in a run, and why: a table.

Each of these trains, and silently loses what it was chosen for: agreement, bytes, time or the score. So they
are refused when a manifest is read, with the reason. The lab, which has no ledger, asks with `ledger=False`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from atoll.protocol.errors import ConfigError

RULES = ("nesterov", "average", "sgd", "co2", "delayed-nesterov", "eager", "adaptive")
COORDINATE_RULES = ("median", "trimmed-mean")
"""They sort the values of one coordinate, and know no weights."""
WHOLE_RULES = ("krum", "multi-krum", "flag")
"""They compare whole contributions, so a part of each is not enough."""
AGGREGATIONS = ("mean", "rda", *COORDINATE_RULES, "centered-clipping", *WHOLE_RULES)
CODECS = (
    "fp32",
    "fp16",
    "bf16",
    "int8",
    "int8-mean",
    "int4",
    "e3m0",
    "2bit",
    "1bit",
    "topk",
    "dct",
    "projection",
)
FEEDBACK_CODECS = ("2bit", "1bit", "topk", "dct", "projection")
"""They leave out so much that it must be sent later."""
SPARSE_CODECS = ("topk", "dct", "projection")
"""Of these, the ones whose vectors are mostly zeros or much shorter than what was encoded."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The part of a run that rules of the table are about. Names and units are those of the manifest.

    `grace_ms` is the longest that late contributions are waited for. `ledger` says that all peers must hold
    the same anchor after each round, and that a round's contributions start from the update before it.
    """

    rule: str = "nesterov"
    aggregation: str = "mean"
    codec: str = "int8"
    feedback: float = 1.0
    exchange: str = "dense"
    clip: str = "none"
    work: str = "equal"
    fragments: int = 1
    replicas: int = 1
    shards: str = "dealt"
    votes: str = "majority"
    weights: str = "tokens"
    late: str = "carry"
    grace_ms: int = 0
    ledger: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """`when` it applies, `what` of the choices meets, and what would be `right` and why."""

    when: Callable[[Choices], bool]
    what: Callable[[Choices], str]
    right: str


def _what(*keys: str) -> Callable[[Choices], str]:
    return lambda chosen: " with ".join(f"{key} = {getattr(chosen, key)!r}" for key in keys)


def _replicated(chosen: Choices) -> bool:
    """Whether several workers may train the same unit."""
    return chosen.replicas > 1 or chosen.shards == "private"


def _replicas_with(key: str) -> Callable[[Choices], str]:
    return lambda chosen: _what("shards" if chosen.shards == "private" else "replicas", key)(chosen)


REFUSED = (
    Refusal(
        lambda c: c.codec in FEEDBACK_CODECS and c.feedback == 0,
        _what("codec", "feedback"),
        "feedback above 0: what so few bits leave out must be sent later, or most of the score is lost",
    ),
    Refusal(
        lambda c: c.codec in FEEDBACK_CODECS and c.exchange == "dense",
        _what("codec", "exchange"),
        "exchange = 'sparse': an owner would encode the mean again, and what that leaves out "
        "nobody sends later",
    ),
    Refusal(
        lambda c: c.aggregation == "rda" and c.codec in SPARSE_CODECS,
        _what("aggregation", "codec"),
        "aggregation = 'mean': the norm of a sparse vector is far below that of what was encoded",
    ),
    Refusal(
        lambda c: c.aggregation == "rda" and c.exchange == "dense" and c.ledger,
        _what("aggregation", "exchange"),
        "exchange = 'sparse': an owner holds a part of a tensor, and rda needs the norm of all of it",
    ),
    Refusal(
        lambda c: c.aggregation == "rda" and c.rule == "eager",
        _what("rule", "aggregation"),
        "aggregation = 'mean': a worker's own share can be swapped in a mean, and in nothing else",
    ),
    Refusal(
        lambda c: c.aggregation == "rda" and c.clip != "none",
        _what("aggregation", "clip"),
        "clip = 'none': rda bounds each direction's vote already, and keeps the contributors' lengths",
    ),
    Refusal(
        lambda c: c.aggregation in WHOLE_RULES and c.exchange == "dense" and c.ledger,
        _what("aggregation", "exchange"),
        "exchange = 'sparse': an owner holds a part of each contribution, and would keep other peers than "
        "the next one",
    ),
    Refusal(
        lambda c: c.aggregation in COORDINATE_RULES and c.codec in SPARSE_CODECS,
        _what("aggregation", "codec"),
        "aggregation = 'centered-clipping': where most values of a coordinate are zero, so is their median",
    ),
    Refusal(
        lambda c: c.work == "by-speed" and c.clip != "none",
        _what("work", "clip"),
        "clip = 'none': the fast do more steps and come further, which a clip to the median takes back",
    ),
    Refusal(
        lambda c: c.work == "by-speed" and c.aggregation in COORDINATE_RULES,
        _what("work", "aggregation"),
        "aggregation = 'mean': a rule that knows no weights counts a short round like a long one",
    ),
    Refusal(
        lambda c: _replicated(c) and c.exchange == "sparse",
        _replicas_with("exchange"),
        "exchange = 'dense': a sparse update goes to everybody as it is, and replicas have nothing to add",
    ),
    Refusal(
        lambda c: _replicated(c) and c.fragments > 1,
        _replicas_with("fragments"),
        "fragments = 1: where training goes on while a fragment moves, it depends on who trains",
    ),
    Refusal(
        lambda c: _replicated(c) and c.feedback > 0,
        _replicas_with("feedback"),
        "feedback = 0: what a peer's encoding left out is its own, and replicas would send different bytes",
    ),
    Refusal(
        lambda c: _replicated(c) and c.work == "by-speed",
        _replicas_with("work"),
        "work = 'equal': who does fewer steps does not come as far as a replica, and cannot stand in for it",
    ),
    Refusal(
        lambda c: _replicated(c) and c.weights != "tokens",
        _replicas_with("weights"),
        "weights = 'tokens': a unit weighs alike, whoever of its replicas trained it",
    ),
    Refusal(
        lambda c: c.weights == "rate" and c.aggregation in (*COORDINATE_RULES, *WHOLE_RULES),
        _what("weights", "aggregation"),
        "aggregation = 'mean' or 'centered-clipping': this rule compares contributions, whatever they weigh",
    ),
    Refusal(
        lambda c: c.weights == "participation" and c.aggregation != "mean",
        _what("weights", "aggregation"),
        "aggregation = 'mean': an update by participation is as long as the share of the weights that is "
        "here, which is known of a mean only",
    ),
    Refusal(
        lambda c: c.weights == "participation" and c.work == "by-speed",
        _what("weights", "work"),
        "work = 'equal': with steps by speed all are in time, and nobody is seldom here",
    ),
    Refusal(
        lambda c: c.weights == "participation" and c.votes == "two-thirds",
        _what("weights", "votes"),
        "weights = 'tokens': who may lie would stay away for nine rounds, to weigh ten times as much in one",
    ),
    Refusal(
        lambda c: c.late == "merge" and _replicated(c),
        _replicas_with("late"),
        "late = 'carry': another replica gave the unit, so one that is late has nothing to add",
    ),
    Refusal(
        lambda c: c.late == "merge" and c.fragments > 1,
        _what("late", "fragments"),
        "fragments = 1: where training runs on, what comes late stays in the local model, and is offered "
        "with the next",
    ),
    Refusal(
        lambda c: c.late == "merge" and c.exchange == "sparse",
        _what("late", "exchange"),
        "exchange = 'dense': a sparse contribution is kept as long as its round, and an update made of older "
        "ones could be forgotten before all have it",
    ),
    Refusal(
        lambda c: c.late == "merge" and c.work == "by-speed",
        _what("late", "work"),
        "work = 'equal': steps by speed are done in time, and a late report would be of rounds ago",
    ),
    Refusal(
        lambda c: c.late == "merge" and c.aggregation != "mean",
        _what("late", "aggregation"),
        "aggregation = 'mean': a rule that compares contributions takes one of an older anchor for a lie",
    ),
    Refusal(
        lambda c: c.late == "merge" and c.weights == "participation",
        _what("late", "weights"),
        "weights = 'tokens': who is late is in the next update, and its data is not forgotten",
    ),
    Refusal(
        lambda c: c.rule == "eager" and c.ledger,
        _what("rule"),
        "a rule that gives every peer the same anchor: an eager anchor is each worker's own, "
        "and no majority signs it",
    ),
    Refusal(
        lambda c: c.rule == "co2" and c.ledger,
        _what("rule"),
        "a rule for fresh updates: co2 takes one that started a round earlier, and the ledger refuses those",
    ),
    Refusal(
        lambda c: c.rule == "delayed-nesterov" and c.ledger,
        _what("rule"),
        "a rule for rounds: this one takes single pushes as they come, and a commit is for a round's mean",
    ),
    Refusal(
        lambda c: c.rule in ("eager", "co2") and c.grace_ms > 0,
        _what("rule", "grace_ms"),
        "no grace: nobody waits for the round's mean, so waiting for the late only makes it older",
    ),
)


def check_combinations(chosen: Choices, where: str) -> None:
    """ConfigError with the first reason why these choices do not go together; `where` they were made."""
    for refusal in REFUSED:
        if refusal.when(chosen):
            raise ConfigError(refusal.what(chosen), where, refusal.right)
