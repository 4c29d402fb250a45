"""`DiLoCo` around a user's loop, on problems whose answer is known. (DiLoCo, Douillard et al. 2023)"""

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from library_replicas import (
    LargestEighth,
    Replica,
    adamw,
    batch,
    batches,
    flat,
    inner_step,
    network,
    sgd,
    trained,
)
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn

from atoll import optim
from atoll.optim import DiLoCo, LocalGroup, NesterovRule, Streaming, StreamingDiLoCo, outer_rule
from atoll.optim.codecs import CODECS, codec
from atoll.optim.exchanges import Contributions, Exchange, Finish
from atoll.optim.mean import weighted_mean
from atoll.optim.pseudo_gradient import pseudo_gradient
from atoll.protocol.errors import ConfigError, RemoteProtocolError

PLAIN = NesterovRule(lr=1.0, momentum=0.0)


def alone(payload: bytes, weight: int) -> Finish:
    """The exchange of a replica that has nobody to exchange with."""
    return lambda: [(weight, payload)]


def by_hand(
    replicas: int, rounds: int, every: int, weights: list[int], rule: NesterovRule, name: str
) -> Tensor:
    """DiLoCo in one plain loop, a replica after the other: the anchor at the end."""
    models = [network() for _ in range(replicas)]
    optimizers = [adamw(model) for model in models]
    anchor = flat(models[0])
    state = rule.state(anchor.numel())
    for round in range(rounds):
        payloads = []
        for place, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            for step in range(round * every, (round + 1) * every):
                inner_step(model, optimizer, batches(place, rounds * every)[step])
            payloads.append(codec(name).encode(pseudo_gradient(anchor, flat(model))))
        update = weighted_mean(zip(weights, payloads, strict=True), codec(name), anchor.numel())
        assert update is not None
        rule.step_(anchor, state, update)
        for model in models:
            nn.utils.vector_to_parameters(anchor.clone(), model.parameters())
    return anchor


def test_one_inner_step_is_large_batch_sgd() -> None:
    replicas = trained(3, 5, every=1, outer=PLAIN, codec="fp32")
    shards = [batches(place, 5) for place in range(3)]
    together = network()
    for step in range(5):
        parts = [shard[step] for shard in shards]
        whole = torch.cat([inputs for inputs, _ in parts]), torch.cat([wanted for _, wanted in parts])
        inner_step(together, sgd_of(together), whole)
    single = network()
    for one in shards[0]:
        inner_step(single, sgd_of(single), one)
    for replica in replicas:
        torch.testing.assert_close(flat(replica.model), flat(together), rtol=0, atol=2e-6)
        assert not torch.allclose(flat(replica.model), flat(single), rtol=0, atol=1e-4)


def sgd_of(model: nn.Module) -> torch.optim.Optimizer:
    return sgd(model)


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_it_is_the_loop_written_out_to_the_bit(name: str) -> None:
    rule = NesterovRule(lr=0.7, momentum=0.9)
    wanted = by_hand(3, 4, 3, [1, 1, 1], rule, name)
    for replica in trained(3, 12, every=3, outer=rule, codec=name, inner=adamw):
        assert torch.equal(flat(replica.model), wanted)
        assert torch.equal(torch.cat([v.flatten() for v in replica.outer.anchor().values()]), wanted)


def test_contributions_weigh_what_was_counted() -> None:
    rule = NesterovRule(lr=0.7, momentum=0.9)

    def train(place: int, exchange: Exchange) -> Tensor:
        replica = Replica(exchange, place, adamw, every=2, outer=rule, codec="fp32")
        for step in range(4):
            replica.outer.count([5, 11, 0][place])
            replica.train(range(step, step + 1))
        return flat(replica.model)

    wanted = by_hand(3, 2, 2, [10, 22, 0], rule, "fp32")
    for anchor in LocalGroup(3, timeout_s=20).run(train):
        assert torch.equal(anchor, wanted)
    assert not torch.equal(wanted, by_hand(3, 2, 2, [1, 1, 1], rule, "fp32"))


@pytest.mark.parametrize("name", list(CODECS))
def test_replicas_are_bit_identical_after_every_round(name: str) -> None:
    replicas = trained(3, 40, every=4, codec=name, inner=adamw)
    histories = {tuple(replica.digests) for replica in replicas}
    assert len(histories) == 1
    history = histories.pop()
    assert all(history[step] == history[step - 1] for step in range(1, 40) if (step + 1) % 4)
    assert len({history[step] for step in range(3, 40, 4)}) == 10
    assert len({flat(replica.model).numpy().tobytes() for replica in replicas}) == 1
    if name != "projection":  # too coarse for training from nothing
        for replica in replicas:
            assert sum(replica.losses[-4:]) < 0.9 * sum(replica.losses[:4])


def test_one_worker_is_plain_inner_training() -> None:
    single = network()
    optimizer = adamw(single)
    for one in batches(0, 12):
        inner_step(single, optimizer, one)
    (replica,) = trained(1, 12, every=4, outer=PLAIN, codec="fp32", inner=adamw)
    torch.testing.assert_close(flat(replica.model), flat(single), rtol=0, atol=1e-6)


def test_a_replica_that_raises_stops_nobody() -> None:
    """The others go on without it, as if it sat out from then on."""
    survivors: list[Replica] = []

    def train(place: int, exchange: Exchange, raises: bool) -> Replica:
        replica = Replica(exchange, place, adamw, every=2, codec="int8")
        for step in range(10):
            if place == 1 and step == 5 and raises:
                raise ArithmeticError("this machine is on fire")
            replica.outer.count(0 if place == 1 and step >= 4 else 7)
            replica.train(range(step, step + 1))
        survivors.append(replica)
        return replica

    with pytest.raises(ArithmeticError, match="on fire"):
        LocalGroup(3, timeout_s=20).run(partial(train, raises=True))
    assert sorted(replica.place for replica in survivors) == [0, 2]
    assert survivors[0].digests == survivors[1].digests
    assert len(set(survivors[0].digests)) == 6
    sat_out = LocalGroup(3, timeout_s=20).run(partial(train, raises=False))
    assert sat_out[1].digests == survivors[0].digests


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
def test_a_replica_that_diverges_sits_out_and_poisons_nobody(poison: float) -> None:
    def train(place: int, exchange: Exchange, spoil: bool, left_out: bool) -> Replica:
        replica = Replica(exchange, place, adamw, every=3, codec="int8")
        for step in range(12):
            if step == 5 and place == 1 and spoil:
                with torch.no_grad():
                    replica.model[0].weight[0, 0] = poison  # type: ignore[index]
            replica.outer.count(0 if left_out and place == 1 and 3 <= step < 6 else 7)
            replica.train(range(step, step + 1))
        return replica

    spoilt = LocalGroup(3, timeout_s=20).run(partial(train, spoil=True, left_out=False))
    assert len({tuple(replica.digests) for replica in spoilt}) == 1
    assert all(flat(replica.model).isfinite().all() for replica in spoilt)
    sat_out = LocalGroup(3, timeout_s=20).run(partial(train, spoil=False, left_out=True))
    assert spoilt[0].digests[:6] == sat_out[0].digests[:6]
    together = LocalGroup(3, timeout_s=20).run(partial(train, spoil=False, left_out=False))
    assert spoilt[0].digests[:5] == together[0].digests[:5]
    assert spoilt[0].digests[5] != together[0].digests[5]
    assert len(set(spoilt[0].digests)) == 5
    for state in spoilt[1].optimizer.state.values():
        assert state["step"] == 6  # its moments began anew after the sixth step
        assert all(value.isfinite().all() for value in state.values())


def test_nobody_contributes_and_nothing_moves() -> None:
    def train(place: int, exchange: Exchange) -> Replica:
        replica = Replica(exchange, place, every=2)
        replica.train(range(1))
        nn.init.constant_(replica.model[0].bias, math.nan)  # type: ignore[index]
        replica.train(range(1, 2))
        return replica

    for replica in LocalGroup(2, timeout_s=20).run(train):
        assert torch.equal(flat(replica.model), flat(network()))
        assert len(set(replica.digests)) == 1


def test_bf16_parameters_keep_an_fp32_anchor() -> None:
    """What bf16 cannot hold of the anchor is not taken for training, so small updates add up."""
    model = network().to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    updates = iter([0.0, 2.0**-12, 2.0**-12, 0.0])

    def exchange(payload: bytes, weight: int) -> Finish:
        if not payload.startswith(b"ATLC"):
            return lambda: [(weight, payload)]
        numel = sum(each.numel() for each in model.parameters())
        assert not codec("fp32").decode(payload, numel).any()  # nothing was trained
        return lambda: [(1, codec("fp32").encode(torch.full((numel,), next(updates))))]

    diloco = DiLoCo(model, optimizer, exchange, every=1, outer=PLAIN, codec="fp32")
    first = torch.cat([vector.flatten() for vector in diloco.anchor().values()])
    for _ in range(4):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    last = torch.cat([vector.flatten() for vector in diloco.anchor().values()])
    assert last.dtype == torch.float32
    assert torch.equal(last, (first - 2.0**-12) - 2.0**-12)
    assert torch.equal(flat(model), last.to(torch.bfloat16).float())
    assert not torch.equal(flat(model), last)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4, bias=False).requires_grad_(False)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.frozen(self.norm(self.embed(ids))))
        return found


def test_tied_weights_come_once_frozen_ones_not_and_buffers_stay_local() -> None:
    torch.manual_seed(0)
    model = Tied()
    sent: list[int] = []

    def exchange(payload: bytes, weight: int) -> Finish:
        sent.append(len(payload))
        return alone(payload, weight)

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with pytest.warns(UserWarning, match=r"buffers are not synced.*norm.running_mean"):
        diloco = DiLoCo(model, optimizer, exchange, every=1, codec="fp32", outer=NesterovRule(0.5, 0.0))
    assert list(diloco.anchor()) == ["embed.weight", "norm.weight", "norm.bias"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.tensor([0, 1, 2, 3])).square().sum().backward()
    gradient = model.embed.weight.grad.clone()  # type: ignore[union-attr]
    optimizer.step()
    assert sent[1:] == [16 + 4 * (20 + 4 + 4)]
    torch.testing.assert_close(model.head.weight, before["embed.weight"] - 0.5 * 0.1 * gradient)
    assert torch.equal(model.frozen.weight, before["frozen.weight"])
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])  # type: ignore[arg-type]


def test_replicas_that_start_apart_are_told_before_anything_is_averaged() -> None:
    def train(place: int, exchange: Exchange) -> str:
        model = network(seed=place // 2)
        DiLoCo(model, sgd(model), exchange, every=50)
        return ""

    def stepping(place: int, exchange: Exchange) -> str:
        model = network(seed=place // 2)
        optimizer = sgd(model)
        DiLoCo(model, optimizer, exchange, every=50)
        with pytest.raises(ConfigError, match="seed alike, or load one checkpoint") as caught:
            inner_step(model, optimizer, batch(0))
        return caught.value.what

    assert LocalGroup(3, timeout_s=20).run(train) == [""] * 3
    found = LocalGroup(3, timeout_s=20).run(stepping)
    assert found == ["of 3 replicas those at [2] differ from this one"] * 2 + [
        "of 3 replicas those at [0, 1] differ from this one"
    ]


def test_leaving_the_block_gives_the_optimizer_back() -> None:
    calls: list[int] = []

    def exchange(payload: bytes, weight: int) -> Finish:
        calls.append(weight)
        return alone(payload, weight)

    model = network()
    optimizer = sgd(model)
    with DiLoCo(model, optimizer, exchange, every=1) as diloco:
        inner_step(model, optimizer, batch(0))
        assert len(calls) == 2  # one greeting, one round
        digest = diloco.digest()
        diloco.sync()
        assert len(calls) == 2  # nothing new, so not even momentum moves the anchor
        assert diloco.digest() == digest
    inner_step(model, optimizer, batch(1))
    assert len(calls) == 2


def test_a_sync_at_the_end_joins_what_is_left() -> None:
    def train(place: int, exchange: Exchange) -> Tensor:
        replica = Replica(exchange, place, every=4)
        replica.train(range(6))
        assert replica.digests[-1] == replica.digests[3]
        replica.outer.sync()
        return flat(replica.model)

    one, other = LocalGroup(2, timeout_s=20).run(train)
    assert torch.equal(one, other)


def muon_and_adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    return [torch.optim.Muon(matrices, lr=0.01), torch.optim.AdamW(rest, lr=0.01)]


def test_several_optimizers_count_as_one() -> None:
    def train(place: int, exchange: Exchange) -> tuple[Tensor, Tensor]:
        model = network()
        muon, rest = muon_and_adamw(model)
        with pytest.raises(ConfigError, match=r"does not train 0\.weight, 2\.weight"):
            DiLoCo(model, rest, exchange, every=2)
        diloco = DiLoCo(model, (muon, rest), exchange, every=2)
        for one in batches(place, 4):
            rest.zero_grad()
            muon.zero_grad()
            nn.functional.mse_loss(model(one[0]), one[1]).backward()
            muon.step()
            rest.step()
        return flat(model), torch.cat([vector.flatten() for vector in diloco.anchor().values()])

    (one, anchor), (other, _) = LocalGroup(2, timeout_s=20).run(train)
    assert torch.equal(one, other)
    assert torch.equal(one, anchor)


def schedule_free(model: nn.Module) -> AdamWScheduleFree:
    optimizer = AdamWScheduleFree(model.parameters(), lr=0.02, betas=(0.9, 0.95))
    optimizer.train()
    return optimizer


def test_schedule_free_syncs_x_and_goes_on() -> None:
    single = network()
    optimizer = schedule_free(single)
    for one in batches(0, 12):
        inner_step(single, optimizer, one)
    optimizer.eval()
    (replica,) = trained(1, 12, every=4, outer=PLAIN, codec="fp32", inner=schedule_free)
    anchor = torch.cat([vector.flatten() for vector in replica.outer.anchor().values()])
    torch.testing.assert_close(anchor, flat(single), rtol=0, atol=2e-6)
    assert not torch.allclose(flat(replica.model), anchor, rtol=0, atol=1e-5)  # it holds y, and trains on
    replica.optimizer.eval()  # type: ignore[attr-defined]
    torch.testing.assert_close(flat(replica.model), anchor, rtol=0, atol=1e-6)
    several = trained(3, 12, every=4, inner=schedule_free)
    assert len({tuple(each.digests) for each in several}) == 1
    for each in several:  # z moved with the anchor: it is no farther from x than training carries it
        for parameter in each.model.parameters():
            z = each.optimizer.state[parameter]["z"]
            assert (z - parameter).abs().max() < 0.2
            assert (z - parameter).abs().max() > 0


def test_a_payload_that_is_none_is_refused_and_changes_nothing() -> None:
    def exchange(payload: bytes, weight: int) -> Finish:
        return lambda: [(1, payload if payload.startswith(b"atoll") else payload[:-1] + b"\x80")]

    model = network()
    optimizer = sgd(model)
    diloco = DiLoCo(model, optimizer, exchange, every=1, codec="int8")
    before = diloco.digest()
    with pytest.raises(RemoteProtocolError, match="code below"):
        inner_step(model, optimizer, batch(0))
    assert diloco.digest() == before


@pytest.mark.parametrize("fails", ["start", "finish"])
def test_an_exchange_that_fails_loses_nothing(fails: str) -> None:
    """The model keeps what it trained and the next round carries it; the residual is what it was."""
    broken = False
    weights: list[int] = []

    def exchange(payload: bytes, weight: int) -> Finish:
        weights.append(weight)

        def finish() -> Contributions:
            if broken and fails == "finish":
                raise ConnectionError("cable cut")
            return [(weight, payload)]

        if broken and fails == "start":
            raise ConnectionError("cable cut")
        return finish

    def anchor_after(lengths: list[tuple[int, bool]]) -> Tensor:
        nonlocal broken
        model = network()
        optimizer = sgd(model)
        data = iter(batches(0, 6))
        diloco = DiLoCo(model, optimizer, exchange, every=10**6, outer=PLAIN, codec=LargestEighth())
        for steps, cut in lengths:
            for _ in range(steps):
                diloco.count(5)
                inner_step(model, optimizer, next(data))
            broken = cut
            with pytest.raises(ConnectionError) if cut else nullcontext():
                diloco.sync()
            broken = False
        return torch.cat([vector.flatten() for vector in diloco.anchor().values()])

    wanted = anchor_after([(2, False), (4, False)])
    weights.clear()
    assert torch.equal(anchor_after([(2, False), (2, True), (2, False)]), wanted)
    assert weights == [1, 10, 10, 20]
    assert not torch.equal(anchor_after([(2, False), (2, False), (2, False)]), wanted)


def test_error_feedback_comes_with_the_codec_that_needs_it() -> None:
    """What one round leaves out the next ones send: in the end everything that was trained arrives."""
    (replica,) = trained(1, 1, every=1, outer=PLAIN, codec=LargestEighth())
    start, one_round = flat(network()), flat(replica.model)
    assert ((one_round - start) != 0).sum() == -(-start.numel() // 8)
    trained_alone = network()
    inner_step(trained_alone, sgd(trained_alone), batch(0))
    for group in replica.optimizer.param_groups:
        group["lr"] = 0.0
    replica.train(range(1, 9))
    torch.testing.assert_close(flat(replica.model), flat(trained_alone), rtol=0, atol=1e-6)


def test_replicas_that_load_different_states_are_told() -> None:
    def train(place: int, exchange: Exchange) -> None:
        replica = Replica(exchange, place, every=2)
        replica.train(range(1))
        early = copy.deepcopy(replica.outer.state_dict())
        replica.train(range(1, 4))
        replica.outer.load_state_dict(early if place else replica.outer.state_dict())
        with pytest.raises(ConfigError, match="of 2 replicas"):
            replica.train(range(4, 5))

    LocalGroup(2, timeout_s=20).run(train)


def test_a_sync_moves_z_as_far_as_x() -> None:
    def nothing(payload: bytes, weight: int) -> Finish:
        return lambda: [(weight, payload if payload.startswith(b"atoll") else zeros)]

    zeros = codec("fp32").encode(torch.zeros(flat(network()).numel()))
    offsets = []
    for synced in (False, True):
        model = network()
        optimizer = schedule_free(model)
        if synced:
            DiLoCo(model, optimizer, nothing, every=6, outer=PLAIN, codec="fp32")
        for one in batches(0, 6):
            inner_step(model, optimizer, one)
        optimizer.eval()
        offsets.append(torch.cat([(optimizer.state[p]["z"] - p).flatten() for p in model.parameters()]))
        assert torch.allclose(flat(model), flat(network()), atol=1e-6) is synced
    assert offsets[0].abs().max() > 1e-3
    torch.testing.assert_close(offsets[1], offsets[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every": 0}, "at least 1"),
        ({"every": 1, "codec": "int9"}, "did you mean 'int8'"),
        ({"every": 1, "outer": outer_rule("eager", {})}, "differ from replica to replica"),
        ({"every": 1, "outer": outer_rule("co2", {})}, "one round late"),
        ({"every": 1, "outer": outer_rule("delayed-nesterov", {})}, "single pushes"),
        ({"streaming": Streaming(10, fragments=3)}, "no multiple"),
        ({"streaming": Streaming(10, fragments=2, overlap=5)}, "overlap must be from 0 to 4"),
        ({"streaming": Streaming(10, fragments=2, mixing=1.5)}, "`mixing` is 1.5"),
        ({"streaming": Streaming(10, fragments=2, cut="random")}, "sequential, strided, balanced"),
        ({"streaming": Streaming(10, fragments=2, cut="strided")}, "0 layers do not fill"),
        ({"streaming": Streaming(10, fragments=5, overlap=0)}, "4 tensors do not fill 5"),
    ],
)
def test_what_cannot_train_is_one_clear_line(settings: dict[str, Any], words: str) -> None:
    model = network()
    wrap: Any = StreamingDiLoCo if "streaming" in settings else DiLoCo
    with pytest.raises(ConfigError, match=words) as caught:
        wrap(model, sgd(model), alone, **settings)
    assert "\n" not in str(caught.value)


def test_the_names_are_there_without_torch() -> None:
    code = "import sys, atoll.optim as o; dir(o); o.__all__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert all(getattr(optim, name).__name__ == name for name in optim.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Diloco'"):
        optim.Diloco  # noqa: B018


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As users save it, and read without unpickling code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("name", ["int8", LargestEighth()], ids=["int8", "feedback"])
def test_a_saved_state_resumes_to_the_bit(name: str | LargestEighth) -> None:
    Saved = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]

    def saving(place: int, exchange: Exchange) -> tuple[Saved, Tensor]:
        replica = Replica(exchange, place, adamw, every=3, codec=name)
        replica.outer.count(5)
        replica.train(range(7))  # in the midst of a round
        parts = (replica.model, replica.optimizer, replica.outer)
        saved: Any = tuple(copy.deepcopy(part.state_dict()) for part in parts)
        replica.outer.count(5)
        replica.train(range(7, 12))
        return saved, flat(replica.model)

    first = LocalGroup(2, timeout_s=20).run(saving)

    def resuming(place: int, exchange: Exchange) -> Tensor:
        replica = Replica(exchange, place, adamw, every=3, codec=name)
        for part, state in zip(
            (replica.model, replica.optimizer, replica.outer), first[place][0], strict=True
        ):
            part.load_state_dict(through_a_file(state))
        replica.outer.count(5)
        replica.train(range(7, 12))
        return flat(replica.model)

    for (_, wanted), found in zip(first, LocalGroup(2, timeout_s=20).run(resuming), strict=True):
        assert torch.equal(found, wanted)


def test_a_state_of_another_method_is_refused_and_changes_nothing() -> None:
    model = network()
    diloco = DiLoCo(model, sgd(model), alone, every=3)
    other = network()
    streaming = StreamingDiLoCo(other, sgd(other), alone, Streaming(4, fragments=2))
    plain = DiLoCo(other, sgd(other), alone, every=3, outer=outer_rule("sgd", {}))
    before = diloco.digest()
    with pytest.raises(ValueError, match="2 fragments, here are 1"):
        diloco.load_state_dict(streaming.state_dict())
    with pytest.raises(ValueError, match="another rule's"):
        diloco.load_state_dict(plain.state_dict())
    larger = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="another model or method"):
        diloco.load_state_dict(DiLoCo(larger, sgd(larger), alone, every=3).state_dict())
    assert diloco.digest() == before
