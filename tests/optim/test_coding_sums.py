"""Coded sums over payloads: what a worker sends, what is decoded, whose bits count, and who lies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from math import inf

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from optim_vectors import USUAL, integers_to_floats, tensor
from torch import Tensor

from atoll.optim import reference_coding as reference
from atoll.optim.codecs import codec
from atoll.optim.codecs.base import Payload
from atoll.optim.coding.codes import Code, circulant, identity, random_cyclic, repetition
from atoll.optim.coding.decoding import Decoding, Refusal, approximate_vector, decode_vector
from atoll.optim.coding.replicas import Dispute, disputes
from atoll.optim.coding.sums import combined, decoded_mean
from atoll.optim.coding.units import Unit, holders_of, row_of, shard_name, unit_of, units_of
from atoll.optim.digest import tensor_digest
from atoll.optim.flat import PIECE, VALUE_MAX
from atoll.optim.mean import weighted_mean
from atoll.protocol.errors import RemoteProtocolError

NUMEL = PIECE + 1003
FP32, INT8 = codec("fp32"), codec("int8")


def units(code: Code, numel: int = NUMEL) -> list[Tensor]:
    """Products: sums of them round, so that another order has other bits."""
    return [
        integers_to_floats(numel, unit + 1, exponent=-27)
        * integers_to_floats(numel, unit + 101, exponent=-23)
        for unit in range(code.units)
    ]


def sent(code: Code, numel: int = NUMEL) -> list[Tensor]:
    """What each worker adds up."""
    held = units(code, numel)
    return [combined((held[unit] for unit, _ in row), row, numel) for row in code.rows]


def decoding_of(code: Code, survivors: object, amplification_max: float = inf) -> Decoding:
    found = decode_vector(code, survivors, amplification_max)  # type: ignore[arg-type]
    assert isinstance(found, Decoding), found
    return found


def mean_of_units(code: Code, numel: int = NUMEL) -> Tensor:
    return torch.stack(units(code, numel)).double().mean(0)


# ---- a worker's sum ----------------------------------------------------------------------------------


@given(st.lists(st.lists(USUAL, min_size=5, max_size=5), min_size=1, max_size=5), st.data())
def test_a_sum_is_the_oracles_to_the_bit(values: list[list[float]], data: st.DataObject) -> None:
    coefficients = data.draw(
        st.lists(st.floats(-4, 4).filter(lambda x: abs(x) > 1e-3), min_size=len(values), max_size=len(values))
    )
    found = combined(map(tensor, values), tuple(enumerate(coefficients)), 5)
    assert found.tolist() == reference.summed(coefficients, values)


def test_replicas_send_the_plain_sum_in_unit_order() -> None:
    code = repetition(6, 2)
    held = units(code)
    assert torch.equal(sent(code)[4], held[3].add(held[4]).add(held[5]))
    assert not torch.equal(sent(code)[4], held[5].add(held[4]).add(held[3]))


def test_units_are_taken_one_after_another() -> None:
    """An iterator that overwrites its vector, as one does that trains unit after unit."""
    code, room = circulant(5, 2), torch.empty(NUMEL)

    def one_by_one() -> Iterator[Tensor]:
        for unit, _ in code.rows[4]:
            yield room.copy_(units(code)[unit])

    out = torch.full((NUMEL,), torch.nan)
    assert combined(one_by_one(), code.rows[4], NUMEL, out) is out
    assert torch.equal(out, sent(code)[4])


def test_units_of_another_number_or_shape() -> None:
    row = repetition(4, 1).rows[0]
    for given_ in ([torch.ones(3)], [torch.ones(3)] * 3, [torch.ones(3), torch.ones(4)]):
        with pytest.raises(ValueError, match=r"zip|must have 3"):
            combined(given_, row, 3)
    with pytest.raises(ValueError, match="out must have 3"):
        combined([torch.ones(3)] * 2, row, 3, torch.empty(4))


# ---- the decoded mean --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fp32", "int8"])
@pytest.mark.parametrize(("workers", "stragglers"), [(6, 1), (6, 2), (7, 1)])
def test_replicas_give_the_same_bits_whoever_answers(name: str, workers: int, stragglers: int) -> None:
    """Of a group any that is not empty may answer: all these patterns, and the digest is one."""
    code, chosen = repetition(workers, stragglers), codec(name)
    payloads = [chosen.encode(vector) for vector in sent(code)]
    answering = [
        [subset for size in range(1, len(group) + 1) for subset in combinations(group, size)]
        for group in code.groups
    ]
    digests, patterns = set(), 0
    for pattern in product(*answering):
        survivors = [place for subset in pattern for place in subset]
        found = decoded_mean(
            ((place, payloads[place]) for place in survivors), decoding_of(code, survivors), chosen, NUMEL
        )
        digests.add(tensor_digest(found))
        patterns += 1
    assert patterns == {(6, 1): 27, (6, 2): 49, (7, 1): 63}[workers, stragglers]
    assert len(digests) == 1
    groups = [[place for place in range(workers) if place not in group] for group in code.groups]
    assert all(isinstance(decode_vector(code, rest), Refusal) for rest in groups)


def test_the_mean_of_replicas_is_that_of_the_groups_in_order() -> None:
    """To the bit: ((l0 + l1) + l2) / units, as the run without stragglers and the run with them have it."""
    code = repetition(6, 1)
    vectors = sent(code)
    payloads = [(place, FP32.encode(vectors[place])) for place in (0, 3, 4, 5)]
    found = decoded_mean(payloads, decoding_of(code, (0, 3, 4, 5)), FP32, NUMEL)
    assert torch.equal(found, vectors[0].add(vectors[2]).add(vectors[4]).div(6.0))


def test_identity_is_the_mean_with_equal_weights() -> None:
    code = identity(5)
    payloads = [INT8.encode(vector) for vector in sent(code)]
    found = decoded_mean(enumerate(payloads), decoding_of(code, range(5)), INT8, NUMEL)
    expected = weighted_mean(((1, payload) for payload in payloads), INT8, NUMEL)
    assert expected is not None
    assert torch.equal(found, expected)


@pytest.mark.parametrize("code", [circulant(7, 2), circulant(9, 2), random_cyclic(5, 1, b"seed")])
def test_every_set_of_survivors_gives_the_mean_of_all_units(code: Code) -> None:
    """Within fp32 rounding, amplified. The bits differ between sets, and are not asked for."""
    numel = 300
    vectors, expected = sent(code, numel), mean_of_units(code, numel)
    payloads = [FP32.encode(vector) for vector in vectors]
    largest = max(float(vector.abs().max()) for vector in units(code, numel))
    for survivors in combinations(range(code.workers), code.workers - code.stragglers):
        found = decoded_mean(
            [(place, payloads[place]) for place in survivors], decoding_of(code, survivors), FP32, numel
        )
        assert float((found.double() - expected).abs().max()) < 3e-7 * largest * 5


def test_a_codecs_error_is_amplified_no_more_than_said() -> None:
    """|error| <= A * max_i |error of l_i| / |B_i|: what `amplification` promises, in the largest element."""
    code = circulant(8, 3)
    vectors = sent(code)
    payloads = [INT8.encode(vector) for vector in vectors]
    worst = max(
        float((INT8.decode(payload, NUMEL) - vector).abs().max())
        for payload, vector in zip(payloads, vectors, strict=True)
    )
    for survivors in ((0, 1, 2, 3, 4), (0, 2, 4, 5, 7), (1, 2, 3, 6, 7)):
        found = decoding_of(code, survivors, 8.0)
        mean = decoded_mean([(place, payloads[place]) for place in survivors], found, INT8, NUMEL)
        error = float((mean.double() - mean_of_units(code)).abs().max())
        assert error <= found.amplification * worst * 1.001
        assert error > 0.05 * worst


def test_the_approximate_mean_is_that_of_the_units_that_are_left() -> None:
    code = repetition(6, 1)
    found = approximate_vector(code, (1, 4))
    assert isinstance(found, Decoding)
    vectors, held = sent(code), units(code)
    mean = decoded_mean([(place, FP32.encode(vectors[place])) for place in (1, 4)], found, FP32, NUMEL)
    expected = torch.stack([held[unit] for unit in (0, 1, 4, 5)]).double().mean(0)
    assert torch.allclose(mean.double(), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_only_payloads_that_count_are_read() -> None:
    code = repetition(4, 1)
    payloads: list[Payload] = [FP32.encode(vector) for vector in sent(code)]
    found = decoding_of(code, range(4))
    expected = decoded_mean(enumerate(payloads), found, FP32, NUMEL)
    payloads[1] = payloads[3] = b"not looked at"
    assert torch.equal(decoded_mean(enumerate(payloads), found, FP32, NUMEL), expected)
    out = torch.full((NUMEL,), torch.nan)
    assert decoded_mean([(0, payloads[0]), (2, payloads[2])], found, FP32, NUMEL, out) is out
    assert torch.equal(out, expected)
    payloads[2] = payloads[2][:-1]
    with pytest.raises(RemoteProtocolError, match="bytes"):
        decoded_mean(enumerate(payloads), found, FP32, NUMEL)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((0,), "1 of 2 payloads"),
        ((), "0 of 2 payloads"),
        ((2, 0), "row 2 is out of place"),
        ((0, 0), "row 0 is out of place"),
        ((0, 2, 2), "row 2 is out of place"),
        ((0, 4), "4 is not one of 4 workers"),
        ((-4, 2), "-4 is not one of 4 workers"),
    ],
)
def test_rows_that_do_not_fit_the_decoding(rows: tuple[int, ...], words: str) -> None:
    code = repetition(4, 1)
    payload = FP32.encode(torch.ones(3))
    with pytest.raises(ValueError, match=words):
        decoded_mean([(place, payload) for place in rows], decoding_of(code, range(4)), FP32, 3)


def test_the_largest_values_stay_within_bounds() -> None:
    code = circulant(8, 3)
    survivors = (0, 1, 2, 3, 4)
    found = decoding_of(code, survivors)
    signs = [1.0 if value > 0 else -1.0 for value in found.coefficients]
    payloads = [(place, FP32.encode(torch.full((3,), VALUE_MAX * signs[place]))) for place in survivors]
    assert decoded_mean(payloads, found, FP32, 3).tolist() == [VALUE_MAX] * 3


# ---- replicas that disagree --------------------------------------------------------------------------


def test_replicas_that_agree_are_not_disputed() -> None:
    code = repetition(6, 1)
    assert disputes(code, {0: "a", 1: "a", 2: "b", 4: "c", 5: "c"}) == ()
    assert disputes(code, {}) == ()


def test_a_pair_that_differs_is_disputed_and_both_are_suspect() -> None:
    found = disputes(repetition(6, 1), {0: "a", 1: "a", 2: "b", 3: "x", 4: "c", 5: "y"})
    assert found == (Dispute(1, (("b", (2,)), ("x", (3,)))), Dispute(2, (("c", (4,)), ("y", (5,)))))
    assert [dispute.suspects for dispute in found] == [(2, 3), (4, 5)]


def test_a_majority_of_a_group_accuses_the_rest() -> None:
    code = repetition(8, 3)
    (found,) = disputes(code, {0: "x", 1: "a", 2: "a", 3: "a", 4: "b"})
    assert found.answers == (("a", (1, 2, 3)), ("x", (0,)))
    assert found.suspects == (0,)
    (even,) = disputes(code, {0: "x", 1: "a", 2: "a", 3: "x"})
    assert even.answers == (("x", (0, 3)), ("a", (1, 2)))
    assert even.suspects == (0, 1, 2, 3)


def test_a_changed_payload_is_found() -> None:
    code = repetition(6, 2)
    vectors = sent(code)
    vectors[4] = -vectors[4]
    digests = {place: tensor_digest(vector) for place, vector in enumerate(vectors)}
    (found,) = disputes(code, digests)
    assert (found.group, found.suspects) == (1, (4,))


def test_where_nothing_can_be_compared() -> None:
    with pytest.raises(ValueError, match="circulant code has no replicas"):
        disputes(circulant(7, 2), {0: "a"})
    with pytest.raises(ValueError, match="6 is not one of 6"):
        disputes(repetition(6, 1), {6: "a"})


# ---- units and rows ----------------------------------------------------------------------------------


def test_rows_follow_the_rank_of_the_worker() -> None:
    workers = ("ann", "bob", "cid", "dee")
    code = repetition(4, 1)
    assert [row_of(worker, workers) for worker in workers] == [0, 1, 2, 3]
    assert units_of("cid", workers, code, 7) == units_of("dee", workers, code, 7) == (Unit(7, 2), Unit(7, 3))
    assert holders_of(2, workers, code) == ("cid", "dee")
    for listed, words in (
        (("bob", "ann"), "sorted"),
        (("ann", "ann"), "sorted"),
        (("bob", "cid"), "not among"),
    ):
        with pytest.raises(ValueError, match=words):
            row_of("ann", listed)
    with pytest.raises(ValueError, match="not among"):
        row_of("eve", workers)
    with pytest.raises(ValueError, match="a code for 4 workers, and 3"):
        units_of("ann", workers[:3], code, 7)


@pytest.mark.parametrize("code", [repetition(6, 1), repetition(7, 2), circulant(7, 2), identity(4)])
def test_losing_any_stragglers_loses_no_shard(code: Code) -> None:
    workers = [f"peer{place:02d}" for place in range(code.workers)]
    for shard in range(code.units):
        holders = holders_of(shard, workers, code)
        assert len(holders) > code.stragglers
        assert all(unit_of(shard, 3) in units_of(worker, workers, code, 3) for worker in holders)


def test_names_sort_as_units_do() -> None:
    found = [unit_of(shard, round_) for round_ in (0, 9, 10, 123456) for shard in (0, 9, 10, 63)]
    assert found == sorted(found)
    assert [unit.name for unit in found] == sorted(unit.name for unit in found)
    assert unit_of(12, 34).name == "round-000000034/shard-0012"
    assert shard_name(12) == "shard-0012"
    for shard, round_ in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="count from 0"):
            unit_of(shard, round_)
