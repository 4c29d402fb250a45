from __future__ import annotations

import pytest
import torch
from blake3 import blake3
from hypothesis import given
from optim_vectors import tensor, vectors
from torch import Tensor

from atoll.optim import reference
from atoll.optim.digest import state_digest, tensor_digest


@given(vectors())
def test_it_is_blake3_of_the_little_endian_bytes(x: Tensor) -> None:
    assert tensor_digest(x) == reference.tensor_digest(x.tolist())


def test_it_is_what_b3sum_says() -> None:
    assert tensor_digest(tensor([1.0])) == blake3(b"\x00\x00\x80\x3f").hexdigest()


def test_one_bit_matters_even_the_sign_of_zero() -> None:
    digests = {tensor_digest(tensor(values)) for values in ([0.0, 1.0], [-0.0, 1.0], [1.0, 0.0], [0.0])}
    assert len(digests) == 4


def test_the_state_digest_covers_each_digest_in_order() -> None:
    one, two = tensor_digest(tensor([1.0])), tensor_digest(tensor([2.0]))
    assert state_digest([one, two]) == blake3(bytes.fromhex(one + two)).hexdigest()
    assert len({state_digest([one, two]), state_digest([two, one]), state_digest([one])}) == 3


def test_what_has_no_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="fp32"):
        tensor_digest(torch.ones(2).double())
    with pytest.raises(ValueError, match="64 hexadecimal"):
        state_digest(["ab"])
    with pytest.raises(ValueError):
        state_digest(["no digest"])
