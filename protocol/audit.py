"""Who checks whose contributions, and what follows from it: a bounded reputation for each member.

Auditors and targets are drawn by the commit that took the contributions, so nobody knows while it trains who
will look, or at which of its steps. Auditors sign what they measured; a target is judged by their median,
relative to the other targets of its round; and a reputation is the average of a member's judgements. All
numbers are integers: whoever has the commits computes the same reputations. (The tests are those of Gauntlet,
Lidin et al. 2025, without its token and its validators)
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import Digest, PeerId, digest_bytes, digest_of
from atoll.protocol.proofs import Place, Verify
from atoll.protocol.roster import Reputation, by_hash
from atoll.protocol.weights import UNIT

CHANGE_MAX = 100_000_000
"""Micro-nats, 100 nats: no loss worth telling apart changes by more."""
FAILED = -3 * UNIT
"""The judgement of who did not do what it committed to. It counts for three: a replay is no matter of chance,
and who did some stretches passes some."""
AUDITORS_MIN = 3
"""One or two cannot be outvoted."""
TARGETS_MIN = 3
"""Among fewer there is no usual one to compare with."""
MAD_THOUSANDTHS = 4448
"""Three standard deviations in units of the median absolute deviation, if falls were normal: 3 * 1.4826."""
_SCORE = b"atoll score 1"


class Replay(enum.IntEnum):
    """What came of training a stretch of the claimed work again, from the anchor and its committed seed."""

    NOT_TRIED = 0
    MATCH = 1
    DIFFERS = 2


@dataclass(frozen=True, slots=True)
class Score:
    """What an auditor measured of a contribution, applied alone as an outer step: falls of loss, micro-nats.

    `assigned` is the fall on steps that the target claims to have trained, `control` the fall on as many
    steps of the same shard that nobody was dealt. Who trained on what it was assigned gains more there; who
    sends anything else gains as much in both places, however good it is.
    """

    auditor: PeerId
    target: PeerId
    heldout: int
    assigned: int
    control: int
    replay: Replay = Replay.NOT_TRIED
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class AuditRules:
    """How many audit how many in a round, and which average leaves how much weight, over UNIT."""

    auditors: int = 5
    targets: int = 8
    steps: int = 4
    """At how many steps of a target's an auditor looks."""
    memory: int = 12
    """A reputation is the mean of so many judgements; later ones then count 1 / memory."""
    floor: int = UNIT * 3 // 10
    full: int = UNIT // 2
    trials: int = 3
    """Judgements that a joiner needs before it weighs anything."""
    from_round: int = 5
    """Commits of earlier rounds draw nobody: the first steps from random parameters teach all the same."""

    def __post_init__(self) -> None:
        if not AUDITORS_MIN <= self.auditors <= 64:
            right = f"{AUDITORS_MIN} to 64: one or two cannot be outvoted"
            raise ConfigError(f"auditors = {self.auditors}", "audit", right)
        if not TARGETS_MIN <= self.targets <= 256:
            raise ConfigError(f"targets = {self.targets}", "audit", f"{TARGETS_MIN} to 256")
        if not 1 <= self.steps <= 1024:
            raise ConfigError(f"steps = {self.steps}", "audit", "1 to 1024")
        if not 0 <= self.from_round <= 1 << 30:
            raise ConfigError(f"from_round = {self.from_round}", "audit", f"0 to {1 << 30}")
        if not 1 <= self.trials <= self.memory <= 1024:
            raise ConfigError(f"memory = {self.memory}, trials = {self.trials}", "audit", "trials <= memory")
        if not 0 <= self.floor < self.full <= UNIT:
            raise ConfigError(f"floor = {self.floor}, full = {self.full}", "audit", f"floor < full <= {UNIT}")


FOUNDER = Reputation()
"""Members of the first round are believed, as much as two good judgements say. Whoever is missing where
reputations are given is taken for one: so enter each that joins later as a `joiner`."""


def joiner(rules: AuditRules) -> Reputation:
    """Who joins is believed nothing yet: else to come again under another name would wash a member clean."""
    return Reputation(0, 0, trials=rules.trials)


# ---- the draw -----------------------------------------------------------------------------------


def panel(
    parent: Digest, voters: Sequence[PeerId], known: Mapping[PeerId, Reputation], rules: AuditRules
) -> tuple[PeerId, ...]:
    """Who audits what `parent` took: of those with full weight, or of all if these are too few to differ."""
    trusted = [peer for peer in voters if factor(known.get(peer, FOUNDER), rules) == UNIT]
    drawn = trusted if len(trusted) >= rules.auditors else voters
    return tuple(by_hash(parent, drawn, "auditor")[: rules.auditors])


def targets(
    parent: Digest,
    contributors: Sequence[PeerId],
    known: Mapping[PeerId, Reputation],
    rules: AuditRules,
) -> tuple[PeerId, ...]:
    """Whose contributions are audited: half that waited longest, so that each has its turn, and half anybody,
    so that nobody is safe just after its turn. What weighs nothing is audited too: that is the way back."""
    drawn = by_hash(parent, contributors, "audited")
    longest = sorted(drawn, key=lambda peer: known.get(peer, FOUNDER).audited)
    due = longest[: (rules.targets + 1) // 2]
    taken = set(due)
    rest = [peer for peer in drawn if peer not in taken]
    return tuple(due + rest[: rules.targets - len(due)])


def steps_drawn(parent: Digest, auditor: PeerId, target: PeerId, steps: int, count: int) -> tuple[int, ...]:
    """Which of the steps that `target` claims an auditor looks at: each auditor at others, for less noise.

    A partial shuffle, so that it costs what is drawn and not what is claimed.
    """
    salt = f"steps {auditor} {target} ".encode() + digest_bytes(parent)
    moved: dict[int, int] = {}
    drawn = []
    for place in range(min(count, steps)):
        number = int.from_bytes(digest_bytes(digest_of(salt, place.to_bytes(4, "big"))), "big")
        other = place + number % (steps - place)
        drawn.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return tuple(sorted(drawn))


def stretches_drawn(parent: Digest, target: PeerId, stretches: int) -> int:
    """How many stretches of a target's work are trained again before it is compared with what the target
    committed to have had there: one half of the time, two a quarter, and so on.

    So a replay takes two on average, and none is safe to leave out. The last ends in the contribution itself.
    """
    drawn = int.from_bytes(digest_bytes(digest_of(f"replay {target} ".encode(), digest_bytes(parent))), "big")
    return max(1, min(stretches, (drawn & -drawn).bit_length()))


# ---- scores -------------------------------------------------------------------------------------


def clamped(nats: float) -> int:
    """A fall of loss in micro-nats; what is no number is the worst there is."""
    limit = CHANGE_MAX / 1_000_000
    return round(max(-limit, min(limit, nats)) * 1_000_000) if nats == nats else -CHANGE_MAX


def score_message(place: Place, score: Score) -> bytes:
    """What an auditor signs; all fields have fixed lengths but the target, which comes last."""
    numbers = (score.heldout, score.assigned, score.control)
    return (
        _SCORE
        + place.encoded
        + b"".join(number.to_bytes(8, "big", signed=True) for number in numbers)
        + bytes([score.replay])
        + score.target.encode()
    )


def objection(
    scores: Sequence[Score],
    place: Place,
    auditors: Collection[PeerId],
    drawn: Collection[PeerId],
    verify: Verify,
) -> str | None:
    """Why these scores may not stand in a commit, or None. `place` is that of the commit they are about."""
    if [(s.target, s.auditor) for s in scores] != sorted({(s.target, s.auditor) for s in scores}):
        return "scores are not one of each auditor and target, in their order"
    return next((why for score in scores if (why := _objection(score, place, auditors, drawn, verify))), None)


def _objection(
    score: Score, place: Place, auditors: Collection[PeerId], drawn: Collection[PeerId], verify: Verify
) -> str | None:
    if score.auditor not in auditors or score.target not in drawn:
        return "the auditor or its target was not drawn"
    if score.auditor == score.target:
        return "nobody audits itself"
    if any(abs(number) > CHANGE_MAX for number in (score.heldout, score.assigned, score.control)):
        return f"a score is beyond {CHANGE_MAX} micro-nats"
    if not verify(score.auditor, score_message(place, score), score.signature):
        return "the score's signature is not its auditor's"
    return None


# ---- judgements ---------------------------------------------------------------------------------


def judgements(scores: Sequence[Score], auditors: Sequence[PeerId]) -> dict[PeerId, int]:
    """FAILED to UNIT for each target that more than half of its auditors scored; none below TARGETS_MIN.

    What a target gains on its assigned steps beyond the control, as a share of the middle target's. So a free
    rider is judged 0 on average, above or below by chance. A replay that most of the panel saw match is as
    good as the middle target's gain, and the judgement is the mean of both: that speaks for members whose
    data are so few that the control knows them. One that most saw differ is FAILED, and what harms -UNIT,
    whatever the gain. `scores` are without `objection`: one of each auditor and target.
    """
    by_target: dict[PeerId, list[Score]] = {}
    for score in scores:
        by_target.setdefault(score.target, []).append(score)
    enough = {
        target: found
        for target, found in sorted(by_target.items())
        if 2 * len(found) > len(auditors) - (target in auditors)
    }
    if len(enough) < TARGETS_MIN:
        return {}
    gains = {target: _middle(found, lambda s: s.assigned - s.control) for target, found in enough.items()}
    usual = _median(list(gains.values()))
    harmful = _harmful(enough)
    said = {}
    for target, found in enough.items():
        replay = _agreed(found, auditors)
        if replay is Replay.DIFFERS:
            said[target] = FAILED
        elif target in harmful:
            said[target] = -UNIT
        elif usual > 0:  # else this round's gains tell nobody's work from chance
            share = max(-UNIT, min(UNIT, gains[target] * UNIT // usual))
            said[target] = (share + UNIT) // 2 if replay is Replay.MATCH else share
    return said


def _harmful(scored: Mapping[PeerId, Sequence[Score]]) -> set[PeerId]:
    """Whose contribution alone raises the held-out loss, is an outlier by that, and raises the loss on fresh
    data of its own shard too. Where shards are unlike, an honest one may do the first two."""
    falls = {target: _middle(found, lambda s: s.heldout) for target, found in scored.items()}
    usual = _median(list(falls.values()))
    spread = _median([abs(fall - usual) for fall in falls.values()])
    return {
        target
        for target, fall in falls.items()
        if fall < 0
        and 1000 * (usual - fall) > MAD_THOUSANDTHS * spread
        and _middle(scored[target], lambda s: s.control) < 0
    }


def _agreed(scores: Sequence[Score], auditors: Sequence[PeerId]) -> Replay:
    """What more than half of the panel saw, so that a few cannot say so of whom they like."""
    seen = [score.replay for score in scores]
    return next(
        (r for r in (Replay.DIFFERS, Replay.MATCH) if 2 * seen.count(r) > len(auditors)), Replay.NOT_TRIED
    )


def _middle(scores: Sequence[Score], of: Callable[[Score], int]) -> int:
    return _median([of(score) for score in scores])


def _median(numbers: Sequence[int]) -> int:
    """The lower one of two."""
    return sorted(numbers)[(len(numbers) - 1) // 2]


# ---- reputations --------------------------------------------------------------------------------


def judged(
    known: Mapping[PeerId, Reputation], said: Mapping[PeerId, int], round_: int, rules: AuditRules
) -> dict[PeerId, Reputation]:
    """Reputations after a round's judgements. Who was not judged keeps its own."""
    following = dict(known)
    for peer, judgement in said.items():
        was = known.get(peer, FOUNDER)
        count = min(was.count + 1, rules.memory)
        value = max(-UNIT, was.value + _share(judgement - was.value, count))
        following[peer] = Reputation(value, count, round_, max(0, was.trials - 1))
    return following


def missed(due: Collection[PeerId], came: Collection[PeerId]) -> frozenset[PeerId]:
    """Who failed to send what it was to send, a contribution or its scores: nobody, if most of them failed.

    Then it was the round that failed, or the network, and no member.
    """
    absent = frozenset(due) - frozenset(came)
    return absent if 2 * len(absent) < len(due) else frozenset()


def after_missing(
    known: Mapping[PeerId, Reputation], absent: Collection[PeerId], rules: AuditRules
) -> dict[PeerId, Reputation]:
    """Reputations after a round that some missed: they lose some of what is above `full`, and never more.

    So absence alone costs no weight, but who is often absent has less to lose when it is judged badly.
    """
    following = dict(known)
    for peer in absent:
        was = known.get(peer, FOUNDER)
        above = max(0, was.value - rules.full)
        following[peer] = replace(was, value=was.value - above // (2 * rules.memory))
    return following


def factor(reputation: Reputation, rules: AuditRules) -> int:
    """What a member's weight is multiplied by, over UNIT: 0 up to `floor`, UNIT from `full` on, and 0 for
    a joiner that has not been judged often enough. (weights.combined takes it)"""
    if reputation.trials:
        return 0
    above = reputation.value - rules.floor
    return max(0, min(UNIT, above * UNIT // (rules.full - rules.floor)))


def admitted(reputation: Reputation, rules: AuditRules) -> bool:
    """Whether a member's contributions count, and it may audit: else it is on probation, as a joiner is."""
    return factor(reputation, rules) > 0


def _share(number: int, by: int) -> int:
    """A share of it, rounded away from zero: so an average arrives at what it is always told."""
    return -(-number // by) if number > 0 else number // by
