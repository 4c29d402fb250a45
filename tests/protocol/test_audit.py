"""Audits: draws that nobody chooses, judgements that a minority cannot turn, reputations that are bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.protocol import audit
from atoll.protocol.audit import CHANGE_MAX, FOUNDER, AuditRules, Replay, Score
from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import PeerId, digest_of
from atoll.protocol.proofs import Place
from atoll.protocol.roster import Reputation
from atoll.protocol.weights import UNIT

RULES = AuditRules()
PEERS = [PeerId(f"peer-{n:02}") for n in range(20)]
AUDITORS, TARGETS = PEERS[:7], PEERS[10:18]
PLACE = Place(digest_of(b"run"), 0, 7)
ROUNDS = [digest_of(bytes([n])) for n in range(200)]

numbers = st.integers(-CHANGE_MAX, CHANGE_MAX)
grades = st.integers(audit.FAILED, UNIT)


def score(auditor: PeerId, target: PeerId, gain: int = 200, heldout: int = 1000) -> Score:
    return Score(auditor, target, heldout, 1000 + gain, 1000)


def panel_says(gains: dict[PeerId, int]) -> list[Score]:
    return [score(auditor, target, gain) for auditor in AUDITORS for target, gain in gains.items()]


def after(said: list[int], begin: Reputation = FOUNDER) -> Reputation:
    known = {PEERS[0]: begin}
    for round_, judgement in enumerate(said):
        known = audit.judged(known, {PEERS[0]: judgement}, round_, RULES)
    return known[PEERS[0]]


# ---- judgements ---------------------------------------------------------------------------------


@given(st.data())
def test_a_minority_of_the_panel_turns_no_judgement(data: st.DataObject) -> None:
    liars = AUDITORS[:3]
    truth = {target: 0 if target in TARGETS[:3] else 200 for target in TARGETS}
    scores = panel_says(truth)
    for place, said in enumerate(scores):
        if said.auditor in liars and data.draw(st.booleans()):
            lie = [data.draw(numbers) for _ in range(3)]
            scores[place] = Score(said.auditor, said.target, *lie, data.draw(st.sampled_from(Replay)))
    found = audit.judgements(scores, AUDITORS)
    assert found == {target: UNIT if gain else 0 for target, gain in truth.items()}


@settings(max_examples=25)
@given(
    st.lists(st.tuples(numbers, numbers, numbers, st.sampled_from(Replay)), min_size=56, max_size=56),
    st.data(),
)
def test_judgements_are_bounded_and_know_no_order(
    said: list[tuple[int, int, int, Replay]], data: st.DataObject
) -> None:
    pairs = [(auditor, target) for auditor in AUDITORS for target in TARGETS]
    scores = [Score(*pair, *each) for pair, each in zip(pairs, said, strict=True)]
    found = audit.judgements(scores, AUDITORS)
    assert all(audit.FAILED <= judgement <= UNIT for judgement in found.values())
    assert audit.judgements(data.draw(st.permutations(scores)), AUDITORS) == found


@given(st.lists(st.integers(-1000, 3000), min_size=8, max_size=8), st.integers(1, 10_000))
def test_judgements_do_not_depend_on_how_much_a_round_teaches(gains: list[int], scale: int) -> None:
    of = dict(zip(TARGETS, gains, strict=True))
    found = audit.judgements(panel_says(of), AUDITORS)
    assert found == audit.judgements(panel_says({t: g * scale for t, g in of.items()}), AUDITORS)


def test_the_middle_gain_is_the_measure() -> None:
    gains = dict(zip(TARGETS, (100, 50, 400, 100, 0, -30, -900, 100), strict=True))
    found = audit.judgements(panel_says(gains), AUDITORS)
    assert list(found.values()) == [UNIT, UNIT, UNIT, UNIT, 0, -30 * UNIT // 50, -UNIT, UNIT]


def test_where_the_middle_gains_nothing_nobody_is_judged_by_gains() -> None:
    gains = dict.fromkeys(TARGETS, 0) | {TARGETS[0]: 500}
    assert audit.judgements(panel_says(gains), AUDITORS) == {}


def test_a_replay_counts_as_most_of_the_panel_saw_it() -> None:
    scores = panel_says(dict.fromkeys(TARGETS, 200) | {TARGETS[1]: 0})
    for seen, kind, expected in (
        (4, Replay.DIFFERS, [audit.FAILED, audit.FAILED]),
        (3, Replay.DIFFERS, [UNIT, 0]),
        (4, Replay.MATCH, [UNIT, UNIT // 2]),
        (3, Replay.MATCH, [UNIT, 0]),
    ):
        told = [
            replace(s, replay=kind) if s.target in TARGETS[:2] and s.auditor in AUDITORS[:seen] else s
            for s in scores
        ]
        found = audit.judgements(told, AUDITORS)
        assert [found[target] for target in TARGETS[:2]] == expected, (seen, kind)


@pytest.mark.parametrize(
    ("heldout", "control", "expected"),
    [(-5000, -400, -UNIT), (-5000, 400, UNIT), (-30, -400, UNIT), (900, -400, UNIT)],
)
def test_who_harms_is_an_outlier_that_raises_the_loss_on_all_texts(
    heldout: int, control: int, expected: int
) -> None:
    falls = dict(zip(TARGETS, (heldout, 1000, 600, 300, -20, 800, 500, 10), strict=True))
    scores = [Score(a, t, fall, control + 200, control) for a in AUDITORS for t, fall in falls.items()]
    assert audit.judgements(scores, AUDITORS)[TARGETS[0]] == expected


def test_the_least_good_of_many_alike_does_no_harm() -> None:
    falls = dict.fromkeys(TARGETS, 1000) | {TARGETS[0]: 5}
    scores = [Score(a, t, fall, 100, -100) for a in AUDITORS for t, fall in falls.items()]
    assert audit.judgements(scores, AUDITORS)[TARGETS[0]] == UNIT


def test_half_of_a_panel_is_not_most_of_it() -> None:
    panel = AUDITORS[:6]
    scores = [
        replace(score(a, t), replay=Replay.DIFFERS if a in panel[:3] else Replay.MATCH)
        for a in panel
        for t in TARGETS[:3]
    ]
    assert set(audit.judgements(scores, panel).values()) == {UNIT}


def test_few_scores_judge_nobody() -> None:
    half = [s for s in panel_says(dict.fromkeys(TARGETS, 200)) if s.auditor in AUDITORS[:3]]
    assert audit.judgements(half, AUDITORS) == {}
    two = [s for s in panel_says(dict.fromkeys(TARGETS, 200)) if s.target in TARGETS[:2]]
    assert audit.judgements(two, AUDITORS) == {}


def test_an_auditor_that_is_audited_needs_one_score_fewer() -> None:
    among = [*AUDITORS[:1], *TARGETS[:3]]
    scores = [score(a, t) for a in AUDITORS[:4] for t in among if a != t]
    assert set(audit.judgements(scores, AUDITORS)) == set(TARGETS[:3])
    assert set(audit.judgements(scores, AUDITORS[:6])) == {*TARGETS[:3], AUDITORS[0]}


# ---- reputations --------------------------------------------------------------------------------


@given(st.lists(grades, max_size=60), st.booleans())
def test_reputations_are_bounded(said: list[int], joined: bool) -> None:
    found = after(said, audit.joiner(RULES) if joined else FOUNDER)
    assert -UNIT <= found.value <= UNIT
    assert 0 <= found.count <= RULES.memory
    assert 0 <= audit.factor(found, RULES) <= UNIT
    assert audit.admitted(found, RULES) == (audit.factor(found, RULES) > 0)


@given(st.lists(grades, max_size=20), grades)
def test_what_is_always_said_is_believed_in_the_end(before: list[int], said: int) -> None:
    assert after(before + [said] * 300).value == max(said, -UNIT)


@given(st.lists(st.integers(UNIT * 85 // 100, UNIT), min_size=1, max_size=60))
def test_who_works_as_others_do_keeps_its_whole_weight(said: list[int]) -> None:
    assert audit.factor(after(said), RULES) == UNIT


@given(st.lists(st.integers(-UNIT // 5, UNIT // 5), min_size=12, max_size=60))
def test_a_free_rider_ends_with_next_to_nothing_and_comes_back_by_working(said: list[int]) -> None:
    fallen = after(said)
    assert audit.factor(fallen, RULES) < UNIT // 20
    assert audit.factor(after([UNIT] * 2 * RULES.memory, fallen), RULES) == UNIT


def test_one_bad_judgement_costs_no_weight_and_one_failed_replay_costs_a_founder_its_own() -> None:
    trusted = after([UNIT] * RULES.memory)
    assert audit.factor(after([-UNIT], trusted), RULES) == UNIT
    assert audit.factor(after([audit.FAILED], FOUNDER), RULES) == 0


def test_a_joiner_is_admitted_by_its_last_trial() -> None:
    begin = audit.joiner(RULES)
    factors = [audit.factor(after([UNIT] * count, begin), RULES) for count in range(RULES.trials + 2)]
    assert factors == [0] * RULES.trials + [UNIT] * 2


@given(st.lists(grades, max_size=8))
def test_a_joiner_weighs_nothing_before_its_trials(said: list[int]) -> None:
    joined = after(said, audit.joiner(RULES))
    if len(said) < RULES.trials:
        assert audit.factor(joined, RULES) == 0
    elif min(said) >= RULES.full:
        assert audit.factor(joined, RULES) == UNIT
    elif max(said) <= RULES.floor:
        assert not audit.admitted(joined, RULES)


def test_who_was_not_judged_keeps_its_reputation() -> None:
    known = {PEERS[0]: Reputation(UNIT // 3, 5, 2)}
    assert audit.judged(known, {}, 9, RULES) == known
    assert audit.judged(known, {PEERS[1]: 0}, 9, RULES)[PEERS[0]] == known[PEERS[0]]


@given(st.sets(st.sampled_from(PEERS), min_size=1), st.sets(st.sampled_from(PEERS)))
def test_nobody_missed_a_round_that_most_missed(due: set[PeerId], came: set[PeerId]) -> None:
    absent = audit.missed(due, came)
    assert absent == (due - came if 2 * len(due - came) < len(due) else set())


@given(st.integers(-UNIT, UNIT), st.integers(0, 200), st.integers(0, 3))
def test_absence_alone_costs_no_weight(value: int, rounds: int, trials: int) -> None:
    was = {PEERS[0]: Reputation(value, 5, 2, trials)}
    known = was
    for _ in range(rounds):
        known = audit.after_missing(known, [PEERS[0]], RULES)
    assert audit.factor(known[PEERS[0]], RULES) == audit.factor(was[PEERS[0]], RULES)
    assert min(value, RULES.full) <= known[PEERS[0]].value <= value


# ---- the draw -----------------------------------------------------------------------------------


def test_each_contributor_has_its_turn_and_nobody_is_safe_after_it() -> None:
    known: dict[PeerId, Reputation] = {}
    last: dict[PeerId, int] = {}
    again = 0
    for round_, parent in enumerate(ROUNDS):
        drawn = audit.targets(parent, PEERS, known, RULES)
        assert len(set(drawn)) == RULES.targets
        assert set(drawn) <= set(PEERS)
        assert drawn == audit.targets(parent, PEERS[::-1], known, RULES)
        again += sum(last.get(peer) == round_ - 1 for peer in drawn)
        last |= dict.fromkeys(drawn, round_)
        known = audit.judged(known, dict.fromkeys(drawn, UNIT), round_, RULES)
        assert round_ < 5 or min(last.get(peer, -1) for peer in PEERS) >= round_ - 5
    assert again > len(ROUNDS) // 2


def test_panels_are_drawn_of_those_with_full_weight() -> None:
    half = (RULES.floor + RULES.full) // 2
    known = {
        peer: Reputation(value, 5) for peer, value in zip(PEERS, (0, 0, -UNIT, half, half), strict=False)
    }
    known[PEERS[5]] = audit.joiner(RULES)
    drawn = Counter(peer for parent in ROUNDS for peer in audit.panel(parent, PEERS, known, RULES))
    assert set(drawn) == set(PEERS[6:])
    assert max(drawn.values()) < 2 * min(drawn.values())


def test_a_panel_is_of_all_where_few_are_trusted() -> None:
    known = {peer: Reputation(0, 5) for peer in PEERS[4:]}
    drawn = {peer for parent in ROUNDS for peer in audit.panel(parent, PEERS, known, RULES)}
    assert drawn == set(PEERS)


def test_each_auditor_looks_at_steps_of_its_own() -> None:
    seen = Counter(
        step for auditor in PEERS for step in audit.steps_drawn(ROUNDS[0], auditor, PEERS[0], 30, 6)
    )
    assert set(seen) == set(range(30))
    one = audit.steps_drawn(ROUNDS[0], PEERS[1], PEERS[0], 30, 6)
    assert one == tuple(sorted(set(one)))
    assert len(one) == 6
    assert one != audit.steps_drawn(ROUNDS[1], PEERS[1], PEERS[0], 30, 6)
    assert audit.steps_drawn(ROUNDS[0], PEERS[1], PEERS[0], 4, 6) == (0, 1, 2, 3)


def test_half_of_the_replays_are_of_one_stretch_and_any_may_be_drawn() -> None:
    drawn = Counter(audit.stretches_drawn(p, peer, 4) for p in ROUNDS for peer in PEERS[:5])
    assert [drawn[n] / 1000 for n in (1, 2, 3, 4)] == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=0.05)
    assert {audit.stretches_drawn(parent, PEERS[0], 1) for parent in ROUNDS} == {1}


# ---- what may stand in a commit -----------------------------------------------------------------


def signed(said: Score) -> Score:
    return replace(said, signature=audit.score_message(PLACE, said))


def objection(scores: list[Score]) -> str | None:
    return audit.objection(scores, PLACE, PEERS[:3], PEERS[:5], lambda _, message, by: message == by)


def test_scores_stand_in_one_order_once_each() -> None:
    scores = [signed(score(a, t)) for t in PEERS[:5] for a in PEERS[:3] if a != t]
    assert objection(scores) is None
    assert objection([]) is None
    for wrong in (scores[::-1], [scores[0], *scores]):
        assert "one of each" in (objection(wrong) or "")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"auditor": PEERS[9]}, "not drawn"),
        ({"target": PEERS[9]}, "not drawn"),
        ({"target": PEERS[0]}, "audits itself"),
        ({"heldout": CHANGE_MAX + 1}, "beyond"),
        ({"assigned": -CHANGE_MAX - 1}, "beyond"),
        ({"control": 5}, "signature"),
        ({"assigned": 5}, "signature"),
        ({"heldout": -1000}, "signature"),
        ({"target": PEERS[2]}, "signature"),
        ({"replay": Replay.DIFFERS}, "signature"),
    ],
)
def test_what_may_not_stand_in_a_commit(change: dict[str, object], why: str) -> None:
    one = signed(score(PEERS[0], PEERS[1]))
    assert objection([one]) is None
    assert why in (objection([replace(one, **change)]) or "")


@given(numbers, numbers, numbers, st.sampled_from(Replay), st.sampled_from(PEERS), st.integers(0, 9))
def test_two_scores_are_never_signed_by_the_same_bytes(
    heldout: int, assigned: int, control: int, replay: Replay, target: PeerId, round_: int
) -> None:
    one = Score(PEERS[0], PEERS[1], 1, 2, 3)
    other = Score(PEERS[0], target, heldout, assigned, control, replay)
    same = (one, PLACE.round) == (other, round_)
    there = Place(PLACE.run_id, 0, round_)
    assert (audit.score_message(PLACE, one) == audit.score_message(there, other)) == same


def test_nothing_that_is_no_number_passes_for_a_good_score() -> None:
    assert audit.clamped(float("nan")) == audit.clamped(float("-inf")) == -CHANGE_MAX
    assert audit.clamped(float("inf")) == CHANGE_MAX
    assert audit.clamped(0.25) == 250_000


@pytest.mark.parametrize(
    "given",
    [{"auditors": 2}, {"targets": 2}, {"memory": 2}, {"floor": UNIT // 2}, {"full": UNIT + 1}, {"trials": 0}],
)
def test_rules_that_could_not_work_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        AuditRules(**given)
