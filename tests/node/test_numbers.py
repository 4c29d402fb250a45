"""The arithmetic of a round on a fragment: what one offers, all apply, and what remains for later."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from atoll.node.numbers import Numbers
from atoll.node.shared_round import SharedRound
from atoll.optim.rules import NesterovRule
from atoll.protocol.commits import Body, Contributor, Kind
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.fragments import anchor_digest
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_of
from atoll.protocol.manifest import Assignment, Manifest, MembershipRules, OuterRules, RoundRules
from atoll.protocol.roster import Member, Role

SIZES = (300, 500)
NUMEL = sum(SIZES)
NOTHING = Digest("0" * 64)


def numbers(
    codec: str = "fp32",
    exchange: str = "dense",
    mixing: float = 0.5,
    weights: str = "tokens",
    **outer: float | str,
) -> Numbers:
    blobs = tuple(BlobRef(digest_of(f"{size} {what}".encode()), 4 * size) for size in SIZES for what in "am")
    rules = RoundRules(fragments=2, overlap=1, exchange=exchange, mixing=mixing, weights=weights)
    made = Numbers(
        Manifest(
            name="a run",
            authority="",
            numel=NUMEL,
            anchor_blobs=blobs,
            assignment=Assignment(1, 1),
            rounds=rules,
            outer=replace(OuterRules(codec=codec), **outer),  # type: ignore[arg-type]
            membership=MembershipRules(),
        )
    )
    for fragment in range(2):
        made.part_bytes(fragment, 2)
    made.anchor.copy_(vector(NUMEL, 1))
    made.state(0)
    return made


def vector(numel: int, seed: int) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed))


def residual(of: Numbers) -> torch.Tensor:
    return torch.cat([each.buffer for each in of.residuals])


def body(round_: int, *weights: int) -> Body:
    contributors = tuple(Contributor(PeerId(str(i)), 10, 1, w) for i, w in enumerate(weights))
    return Body(NOTHING, round_, NOTHING, Kind.UPDATE, NOTHING, (), (), contributors)


def test_an_update_moves_its_fragment_alone() -> None:
    one, before = numbers(), numbers().anchor
    delta = vector(SIZES[1], 2)
    payloads = one.encode(1, delta, 2)
    state = one.apply(body(1, 7), payloads)
    wanted = before[300:].clone()
    NesterovRule(0.7, 0.9).step_(wanted, (torch.zeros(SIZES[1]),), delta)
    assert torch.equal(one.anchor[300:], wanted)
    assert torch.equal(one.anchor[:300], before[:300])
    assert state.round == 1
    assert state.anchor == anchor_digest(state.blobs)
    assert state == replace(numbers_like(one).state(1)), "digests that are kept are those of the bits"


def numbers_like(other: Numbers) -> Numbers:
    same = numbers()
    same.load(other.anchor, other.momentum)
    return same


def test_a_state_goes_through_its_blobs() -> None:
    one, other = numbers(), numbers()
    one.apply(body(2, 1), one.encode(2, vector(SIZES[0], 3), 2))
    flat = [one.anchor, one.momentum]
    other.load_bytes([v[piece].numpy().tobytes() for piece in one.pieces for v in flat])
    assert other.state(2) == one.state(2)
    other.load_residual(residual(one))
    assert torch.equal(residual(other), residual(one))


def test_a_sparse_update_is_the_weighted_mean_of_the_contributions() -> None:
    peers = [numbers("topk", "sparse", clip="none") for _ in range(3)]
    deltas = [vector(SIZES[1], seed) for seed in (4, 5, 6)]
    payloads = [
        peer.encode(3, delta, 1)[0] for peer, delta in zip(peers, map(torch.clone, deltas), strict=True)
    ]
    decoded = [peers[0].codec.decode(payload, SIZES[1]) for payload in payloads]
    states = [peer.apply(body(3, 1, 2, 3), payloads) for peer in peers]
    assert len({state.anchor for state in states}) == 1
    mean = (decoded[0] + 2 * decoded[1] + 3 * decoded[2]) / 6
    wanted = numbers().anchor[300:].clone()
    NesterovRule(0.7, 0.9).step_(wanted, (torch.zeros(SIZES[1]),), mean)
    torch.testing.assert_close(peers[0].anchor[300:], wanted)
    peers[0].accepted(3, payloads[:1])
    torch.testing.assert_close(residual(peers[0])[300:], deltas[0] - decoded[0])


@pytest.mark.parametrize(("mixing", "moved", "kept"), [(0.5, True, 0.5), (0.0, True, 1.0), (0.5, False, 0.0)])
def test_what_an_update_did_not_take_is_kept_once(mixing: float, moved: bool, kept: float) -> None:
    """The local model trains on: what stays in it is not offered a second time."""
    one, delta = numbers(mixing=mixing), vector(SIZES[0], 7)
    one.encode(2, delta.clone(), 2)
    one.missed(2, "carry", moved)
    torch.testing.assert_close(residual(one)[:300], kept * delta)
    one.carry(4, delta.clone(), "carry", moved)
    torch.testing.assert_close(residual(one)[:300], 2 * kept * delta)
    one.carry(6, delta.clone(), "drop", moved)
    torch.testing.assert_close(residual(one)[:300], 2 * kept * delta)


def test_bytes_of_no_part_are_refused() -> None:
    one = numbers("int8")
    good = one.encode(1, vector(SIZES[1], 8), 2)[0]
    one.check(good)
    with pytest.raises(RemoteProtocolError, match="no part has"):
        one.check(bytes(good) + b"\0")
    with pytest.raises(RemoteProtocolError):
        one.check(bytes(len(good)))


def test_a_run_without_feedback_holds_no_residual() -> None:
    one, delta = numbers("int8", feedback=0.0), vector(SIZES[1], 9)
    assert one.residuals == ()
    payloads = one.encode(1, delta.clone(), 2)
    assert payloads == [one.codec.encode(delta[start:stop]) for start, stop in one.bounds(1, 2)]
    one.accepted(1, payloads)
    one.missed(1, "carry", True)
    one.carry(3, delta.clone(), "carry", True)
    with pytest.raises(ValueError, match="NaN"):
        one.encode(3, torch.full((SIZES[1],), float("nan")), 2)
    assert one.encode(3, delta.clone(), 2) == payloads, "nothing of an earlier round is in it"


def test_what_was_cut_for_other_members_is_cut_again_from_the_same_offer() -> None:
    one = numbers("int8")
    one.encode(1, vector(SIZES[1], 4), 2)
    one.missed(1, "carry", True)
    other, delta = numbers("int8"), vector(SIZES[1], 5)
    other.load_residual(residual(one))
    whole, known = delta.clone(), one.encode(3, delta, 1)
    assert known == other.encode(3, whole, 1)
    parts = one.encode(3, delta, 2, again=True)
    assert [len(part) for part in parts] == list(one.part_bytes(1, 2))
    assert torch.equal(delta, whole)
    one.accepted(3, parts)
    left = torch.cat([piece for _, piece in one._decoded(1, parts)])
    assert torch.equal(one.residuals[1].buffer, whole - left)


def test_an_offer_lies_where_its_delta_was() -> None:
    one, delta = numbers(), vector(SIZES[1], 10)
    one.encode(1, delta.clone(), 2)
    one.missed(1, "carry", True)
    given = delta.clone()
    payloads = one.encode(3, given, 2)
    torch.testing.assert_close(given, residual(one)[300:] + delta)
    one.accepted(3, payloads)
    assert not residual(one)[300:].any(), "fp32 leaves nothing out"


def test_the_steps_are_taken_in_the_anchor_that_a_trainer_reads() -> None:
    alone, shares = numbers(), numbers()
    shared = SharedRound.alone(NUMEL, 2)
    shares.share(shared)
    assert torch.equal(shared.anchor, alone.anchor)
    for round_, size in ((1, SIZES[1]), (2, SIZES[0])):
        payloads = alone.encode(round_, vector(size, round_), 2)
        assert alone.apply(body(round_, 1), payloads) == shares.apply(body(round_, 1), payloads)
    assert torch.equal(shared.anchor, alone.anchor)
    assert shared.moves().tolist() == [1, 1]
    into = torch.zeros(NUMEL)
    assert shares.copy_anchor(into) == 2
    assert torch.equal(into, alone.anchor)
    alone.load_bytes([bytes(4 * size) for size in SIZES for _ in "am"])
    shares.load(alone.anchor, alone.momentum)
    assert not shared.anchor.any()
    assert not shares.momentum.any()


def moved(one: Numbers, payloads: list[bytes], weights: tuple[int, ...]) -> torch.Tensor:
    """How far the contributions to round 3 move the second fragment's anchor, with a learning rate of 1."""
    before = one.anchor[300:].clone()
    one.apply(body(3, *weights), payloads)
    return before - one.anchor[300:]


PLAIN = {"learning_rate": 1.0, "momentum": 0.0}


def test_an_update_by_participation_is_as_long_as_the_share_that_is_here() -> None:
    """Two of four workers are here, one of them at three times its weight: a mean of four quarters of it."""
    one = numbers("fp32", "sparse", clip="none", rule="sgd", weights="participation", **PLAIN)
    deltas = [vector(SIZES[1], seed) for seed in (4, 5)]
    workers = tuple(Member(PeerId(str(place))) for place in range(4))
    late = Member(PeerId("5"), weight_from=9)
    update = replace(body(3, 1, 3), before=(*workers, late, Member(PeerId("6"), Role.WITNESS)))
    before = one.anchor[300:].clone()
    one.apply(update, [bytes(one.codec.encode(delta)) for delta in deltas])
    wanted = (deltas[0] + 3 * deltas[1]) / 4
    torch.testing.assert_close(before - one.anchor[300:], wanted)
    one.apply(replace(body(5, 2), before=update.before), [bytes(one.codec.encode(deltas[0]))])
    torch.testing.assert_close(before - one.anchor[300:], wanted + 2 * deltas[0] / 4)


def test_one_that_is_a_thousand_times_too_long_is_cut_to_the_median_length() -> None:
    honest = [vector(SIZES[1], seed) for seed in (4, 5)]
    deltas = [*honest, 1000 * honest[0]]
    lengths = {}
    for clip in ("median", "none"):
        one = numbers("fp32", "sparse", clip=clip, rule="sgd", **PLAIN)
        payloads = [bytes(one.codec.encode(delta)) for delta in deltas]
        lengths[clip] = float(moved(one, payloads, (1, 1, 1)).norm() / honest[0].norm())
    assert lengths["none"] > 100
    assert lengths["median"] < 1.1


@pytest.mark.parametrize("aggregation", ["krum", "multi-krum", "median", "trimmed-mean", "centered-clipping"])
def test_a_robust_rule_bears_the_share_of_liars_that_the_run_expects(aggregation: str) -> None:
    common = vector(SIZES[1], 3)
    honest = [common + 0.1 * vector(SIZES[1], seed) for seed in range(10, 16)]
    deltas = [*honest, -30 * common, -30 * common]
    one = numbers("fp32", "sparse", rule="sgd", aggregation=aggregation, faulty=0.25, **PLAIN)
    plain = numbers("fp32", "sparse", rule="sgd", clip="none", **PLAIN)
    payloads = [bytes(one.codec.encode(delta)) for delta in deltas]
    step = moved(one, payloads, (1,) * 8)
    assert (step - common).norm() < 0.75 * common.norm()
    assert (moved(plain, payloads, (1,) * 8) - common).norm() > 5 * common.norm()


def test_an_owner_sums_its_part_by_the_rule() -> None:
    """Each coordinate's median: what two of five send for the part counts for nothing."""
    one = numbers("fp32", aggregation="median", clip="none", faulty=0.4)
    start, stop = one.bounds(1, 2)[0]
    values = [torch.full((stop - start,), each) for each in (1.0, 2.0, 3.0, 1e6, -1e6)]
    inputs = [(7, bytes(one.codec.encode(value))) for value in values]
    found = one.codec.decode(one.aggregate(1, 0, 2, inputs), stop - start)
    assert torch.equal(found, torch.full((stop - start,), 2.0))
