"""A node's arithmetic under each outer rule and codec that it runs: what peers agree on, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from atoll.node.exchange_rules import OUTER_KNOWN
from atoll.node.numbers import Numbers
from atoll.optim.codecs import CODECS
from atoll.optim.mean import mean_of
from atoll.optim.rules import outer_rule
from atoll.protocol.combinations import CODECS as NAMES
from atoll.protocol.combinations import FEEDBACK_CODECS
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import BlobRef, digest_of
from atoll.protocol.manifest import Assignment, Manifest, OuterRules

NUMEL = 5003
RUNNABLE = [name for name in CODECS if name not in FEEDBACK_CODECS]
OUTERS = {
    "nesterov": (OuterRules("nesterov", 0.7, 0.9), {"lr": 0.7, "momentum": 0.9}),
    "sgd": (OuterRules("sgd", 0.65, 0.0), {"lr": 0.65}),
    "average": (OuterRules("average", 1.0, 0.0), {}),
}


def manifest(outer: OuterRules, numel: int = NUMEL) -> Manifest:
    blobs = tuple(BlobRef(digest_of(name), 4 * numel) for name in (b"anchor", b"momentum"))
    return Manifest("a run", "", numel, blobs, Assignment(1, 1), outer=outer)


def vector(seed: int, size: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=NUMEL).astype(np.float32) * size)


def round_of(peers: list[Numbers], round_: int, parts: int) -> list[str]:
    """Every peer contributes, owners sum, every peer applies; the anchor digests after it."""
    (sizes,) = {peer.part_bytes(parts) for peer in peers}
    payloads = [peer.encode(vector(10 * round_ + place, 0.01), parts) for place, peer in enumerate(peers)]
    for each in payloads:
        assert tuple(map(len, each)) == sizes
    update = [
        peers[part % len(peers)].aggregate(
            part, parts, [(3 + place, p[part]) for place, p in enumerate(payloads)]
        )
        for part in range(parts)
    ]
    found = []
    for peer, own in zip(peers, payloads, strict=True):
        for payload in update:
            peer.check(payload)
        peer.accepted(own)
        found.append(peer.apply(round_, update).anchor)
    return found


@pytest.mark.parametrize("rule", OUTERS)
@pytest.mark.parametrize("codec", RUNNABLE)
def test_peers_agree_after_every_round(rule: str, codec: str) -> None:
    outer = OuterRules(rule, OUTERS[rule][0].learning_rate, OUTERS[rule][0].momentum, codec)
    peers = [Numbers(manifest(outer)) for _ in range(3)]
    for peer in peers:
        peer.load(vector(99), torch.zeros(NUMEL))
    before = set()
    for round_, parts in enumerate((2, 3, 1)):
        digests = round_of(peers, round_, parts)
        assert len(set(digests)) == 1
        before |= set(digests)
    assert len(before) == 3


@pytest.mark.parametrize("rule", OUTERS)
def test_a_round_is_the_rule_s_own_step(rule: str) -> None:
    outer, knobs = OUTERS[rule]
    numbers = Numbers(manifest(OuterRules(rule, outer.learning_rate, outer.momentum, "fp32")))
    numbers.load(vector(99), torch.zeros(NUMEL))
    anchor, oracle = vector(99), outer_rule(rule, knobs)
    state = oracle.state(NUMEL)
    for round_ in range(3):
        round_of([numbers], round_, 2)
        mean = mean_of([(3, vector(10 * round_, 0.01))], NUMEL)
        assert mean is not None
        oracle.step_(anchor, state, mean)
        assert torch.equal(numbers.anchor, anchor)
        assert torch.equal(numbers.momentum, state[0] if state else torch.zeros(NUMEL))


def test_a_state_is_an_anchor_and_a_momentum_whatever_the_rule() -> None:
    for outer, _ in OUTERS.values():
        numbers = Numbers(manifest(outer))
        assert [ref.size for ref in numbers.state(0).blobs] == [4 * NUMEL] * 2


@pytest.mark.parametrize("codec", RUNNABLE)
def test_every_part_of_every_cut_is_known_by_its_bytes(codec: str) -> None:
    """Parts whose encodings are equally long are all let through: an odd last one beside whole blocks."""
    for numel in (255, 256, 511, 512, 513, 1023):
        numbers = Numbers(manifest(OuterRules(codec=codec), numel))
        for parts in range(1, 6):
            numbers.part_bytes(parts)
            for start, stop in numbers.bounds(parts):
                numbers.check(numbers.codec.encode(torch.ones(stop - start)))
        with pytest.raises(RemoteProtocolError, match="no part has"):
            numbers.check(bytes(4 * numel + 17))
        payload = bytearray(numbers.codec.encode(torch.ones(numel)))
        payload[0] ^= 1
        with pytest.raises(RemoteProtocolError, match="magic"):
            numbers.check(bytes(payload))


@pytest.mark.parametrize(
    ("outer", "words"),
    [
        (OuterRules("adaptive"), "rule = 'adaptive'.*nesterov, average, sgd; nodes of this version"),
        (OuterRules("co2"), "rule = 'co2'"),
        (OuterRules(codec="topk"), "codec = 'topk'.*fp32, fp16, .*know no other"),
        (OuterRules(aggregation="rda"), "aggregation = 'rda'"),
        (OuterRules(feedback=0.5), "feedback = 0.5"),
    ],
)
def test_what_only_the_lab_runs_is_refused_in_one_line(outer: OuterRules, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Numbers(manifest(outer))
    assert "\n" not in str(caught.value)


def test_a_node_runs_every_codec_that_needs_no_error_feedback() -> None:
    assert set(OUTER_KNOWN["codec"]) == set(NAMES) - set(FEEDBACK_CODECS)
