"""`StreamingDiLoCo`: fragments, overlap and mixing around a user's loop. (Douillard et al. 2025)"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from library_replicas import Replica, adamw, flat, sgd, trained
from torch import Tensor, nn

from atoll.optim import DiLoCo, LocalGroup, NesterovRule, Streaming, StreamingDiLoCo, outer_rule
from atoll.optim.exchanges import Contributions, Exchange, Finish

RULE = NesterovRule(lr=0.7, momentum=0.9)


def streamed(replicas: int, steps: int, streaming: Streaming, **settings: Any) -> list[Replica]:
    return trained(replicas, steps, wrap=StreamingDiLoCo, streaming=streaming, **settings)


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_one_fragment_without_overlap_or_mixing_is_diloco(name: str) -> None:
    streaming = Streaming(4, fragments=1, overlap=0, mixing=0.0)
    one = streamed(2, 12, streaming, outer=RULE, codec=name, inner=adamw)
    other = trained(2, 12, every=4, outer=RULE, codec=name, inner=adamw)
    for streaming_replica, replica in zip(one, other, strict=True):
        assert torch.equal(flat(streaming_replica.model), flat(replica.model))
        assert streaming_replica.digests == replica.digests
        assert streaming_replica.losses == replica.losses


class Two(nn.Module):
    """Two fragments of one number each; `gradient` is the same at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(1))
        self.b = nn.Parameter(torch.zeros(1))


def history(gradients: list[float], overlap: int, mixing: float, steps: int = 12) -> list[list[list[float]]]:
    """Local a and b after every inner step, for each replica, with H = 6, inner lr 1 and outer SGD lr 2."""

    def train(place: int, exchange: Exchange) -> list[list[float]]:
        model = Two()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        streaming = Streaming(6, fragments=2, overlap=overlap, mixing=mixing)
        StreamingDiLoCo(
            model, optimizer, exchange, streaming, outer=outer_rule("sgd", {"lr": 2.0}), codec="fp32"
        )
        found = []
        for _ in range(steps):
            for parameter in model.parameters():
                parameter.grad = torch.full((1,), gradients[place])
            optimizer.step()
            found.append([model.a.item(), model.b.item()])
        return found

    return LocalGroup(len(gradients), timeout_s=20).run(train)


@pytest.mark.parametrize(
    ("overlap", "mixing", "a", "b"),
    [  # by hand: a is sent after steps 6 and 12, b after 3 and 9
        (0, 0.0, [-24, -26, -48], [-12, -14, -36, -38]),
        (0, 0.5, [-18, -20, -33], [-9, -11, -25.5, -27.5]),
        (0, 1.0, [-12, -14, -24], [-6, -8, -18, -20]),
        (1, 0.0, [-12, -24, -34], [-6, -12, -22, -32]),
        (1, 0.5, [-12, -19, -29], [-6, -10, -20, -25]),
        (1, 1.0, [-12, -14, -24], [-6, -8, -18, -20]),
    ],
)
def test_histories_by_hand(overlap: int, mixing: float, a: list[float], b: list[float]) -> None:
    """a after steps 6, 7 and 12; b after steps 3, 4, 9 and 10; between those every step subtracts 2.

    For example overlap 1 and mixing 1/2: b is -6 when sent, so its anchor becomes 0 - 2 * 6 = -12; one step
    later it is -8, and goes on from (-12 - 8) / 2 = -10. When sent again it is -20, 8 from its anchor, which
    becomes -28; one step later it is -22, and goes on from -25.
    """
    (found,) = history([2.0], overlap, mixing)
    assert [found[step - 1][0] for step in (6, 7, 12)] == a
    assert [found[step - 1][1] for step in (3, 4, 9, 10)] == b


@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize("mixing", [0.0, 0.25, 0.5, 1.0])
def test_histories_are_those_of_plain_numbers(overlap: int, mixing: float) -> None:
    """Replicas with different gradients against the recurrence written with Python's numbers (exact here)."""
    gradients = [2.0, 6.0]
    found = history(gradients, overlap, mixing, steps=18)
    for place, offset in (("a", 0), ("b", 3)):
        anchor, local, mean = 0.0, [0.0, 0.0], None
        for step in range(1, 19):
            local = [value - gradient for value, gradient in zip(local, gradients, strict=True)]
            if step % 6 == offset:
                mean = sum(anchor - value for value in local) / 2
            if step > overlap and (step - overlap) % 6 == offset and mean is not None:
                anchor -= 2 * mean
                local = [(1 - mixing) * anchor + mixing * value for value in local]
            got = [replica[step - 1][0 if place == "a" else 1] for replica in found]
            assert got == pytest.approx(local, rel=1e-6)


def test_replicas_agree_on_anchors_and_keep_some_of_their_own() -> None:
    replicas = streamed(3, 24, Streaming(8, fragments=4, overlap=1, mixing=0.5), inner=adamw)
    assert len({tuple(replica.digests) for replica in replicas}) == 1
    assert len(set(replicas[0].digests)) == 12
    assert len({flat(replica.model).numpy().tobytes() for replica in replicas}) == 3
    for replica in replicas:
        assert sum(replica.losses[-4:]) < 0.9 * sum(replica.losses[:4])


def test_a_fragment_is_exchanged_while_training_goes_on() -> None:
    """What is sent after step 4 is asked for after step 6, and by nobody in between."""
    events: list[str] = []

    def exchange(payload: bytes, weight: int) -> Finish:
        events.append(f"send {len(payload)}")

        def finish() -> Contributions:
            events.append("wait")
            return [(weight, payload)]

        return finish

    replica = Replica(
        exchange, 0, sgd, StreamingDiLoCo, streaming=Streaming(8, fragments=2, overlap=2), codec="fp32"
    )
    sizes = [[], [], [], ["send"], [], ["wait"], [], ["send"], [], ["wait"], [], ["send"]]
    replica.train(range(1))
    assert events == ["send 37", "wait"]  # the greeting
    for step, wanted in enumerate(sizes[1:], 1):
        events.clear()
        replica.train(range(step, step + 1))
        assert [event.split()[0] for event in events] == wanted


def test_a_sync_ends_what_is_in_flight_and_joins_all() -> None:
    def train(place: int, exchange: Exchange) -> Tensor:
        replica = Replica(
            exchange, place, adamw, StreamingDiLoCo, streaming=Streaming(8, fragments=2, overlap=3)
        )
        replica.train(range(9))
        replica.outer.sync()
        return flat(replica.model)

    one, other = LocalGroup(2, timeout_s=20).run(train)
    assert torch.equal(one, other)


@pytest.mark.parametrize("stop", [5, 9, 14])
def test_a_state_saved_in_flight_resumes_to_the_bit(stop: int) -> None:
    streaming = Streaming(8, fragments=2, overlap=3, mixing=0.5)

    def saving(place: int, exchange: Exchange) -> tuple[Any, Tensor]:
        replica = Replica(exchange, place, adamw, StreamingDiLoCo, streaming=streaming)
        replica.train(range(stop))
        parts = (replica.model, replica.optimizer, replica.outer)
        saved = [copy.deepcopy(part.state_dict()) for part in parts]
        replica.train(range(stop, 20))
        return saved, flat(replica.model)

    first = LocalGroup(2, timeout_s=20).run(saving)
    flying = [fragment["received"] is not None for fragment in first[0][0][2]["fragments"]]
    assert any(flying) == (stop in (5, 9, 14))
    replicas = trained(2, 20, wrap=StreamingDiLoCo, streaming=streaming, inner=adamw)
    assert [replica.digests[-1] for replica in replicas] == [replicas[0].digests[-1]] * 2
    for replica, (_, wanted) in zip(replicas, first, strict=True):
        assert torch.equal(flat(replica.model), wanted)  # saving changed nothing

    def resuming(place: int, exchange: Exchange) -> Tensor:
        replica = Replica(exchange, place, adamw, StreamingDiLoCo, streaming=streaming)
        for part, state in zip(
            (replica.model, replica.optimizer, replica.outer), first[place][0], strict=True
        ):
            part.load_state_dict(copy.deepcopy(state))
        replica.train(range(stop, 20))
        return flat(replica.model)

    for (_, wanted), found in zip(first, LocalGroup(2, timeout_s=20).run(resuming), strict=True):
        assert torch.equal(found, wanted)


def test_a_replica_that_diverges_comes_back_whole() -> None:
    """Every fragment starts again at once: one that stayed would spoil the others with its next gradient."""

    def train(place: int, exchange: Exchange) -> Replica:
        replica = Replica(
            exchange, place, adamw, StreamingDiLoCo, streaming=Streaming(6, fragments=2, overlap=1)
        )
        replica.train(range(10))
        if place == 0:
            nn.init.constant_(replica.model[2].bias, math.nan)  # type: ignore[index]
        replica.train(range(10, 24))
        return replica

    replicas = LocalGroup(2, timeout_s=20).run(train)
    assert replicas[0].digests == replicas[1].digests
    assert all(flat(replica.model).isfinite().all() for replica in replicas)
    assert math.isnan(replicas[0].losses[11])
    assert all(math.isfinite(loss) for loss in replicas[0].losses[12:])


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
        self.head = nn.Linear(8, 1)


@pytest.mark.parametrize(
    ("cut", "wanted"),
    [
        ("strided", [["layers.0", "layers.2"], ["layers.1", "layers.3"], ["embed", "head"]]),
        ("sequential", [["layers.0", "layers.1"], ["layers.2", "layers.3"], ["embed", "head"]]),
    ],
)
def test_fragments_may_follow_the_layers(cut: str, wanted: list[list[str]]) -> None:
    model = Layers()

    def alone(payload: bytes, weight: int) -> Finish:
        return lambda: [(weight, payload)]

    outer = StreamingDiLoCo(model, sgd(model), alone, Streaming(6, fragments=3, cut=cut))
    names = [[slot.name for slot in fragment.layout.slots] for fragment in outer._fragments]
    assert names == [[f"{each}.{kind}" for each in group for kind in ("weight", "bias")] for group in wanted]
    together = {name for group in names for name in group}
    assert together == {name for name, _ in model.named_parameters()}
    assert isinstance(DiLoCo(model, sgd(model), alone, every=1), DiLoCo)
