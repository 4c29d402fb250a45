"""The inner optimizers by name: AdamW, Muon with AdamW, Schedule-Free AdamW."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from schedulefree import AdamWScheduleFree
from torch import nn
from torch.optim import AdamW, Optimizer

from atoll.protocol.errors import ConfigError
from atoll.workload.config import SCHEDULE_FREE, InnerConfig

Groups = list[dict[str, object]]

MUON_MOMENTUM = 0.95


class InnerOptimizer:
    """One or two torch optimizers that together train every parameter of one model once.

    Between two rounds the parameters hold what is evaluated and what a pseudo-gradient is taken from, and no
    state depends on their values, so the anchor may be written into them at any time: `begin` a round, take
    `step`s, `end` it.
    """

    def __init__(self, name: str, parts: tuple[Optimizer, ...]) -> None:
        self.name, self.parts = name, parts

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self, rate: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def begin(self) -> None:
        """Go on from the model's present parameters."""
        for part in self.parts:
            if isinstance(part, AdamWScheduleFree):
                _begin_schedule_free(part)

    def end(self) -> None:
        """Leave what this round trained in the parameters."""
        for part in self.parts:
            if isinstance(part, AdamWScheduleFree):
                _end_schedule_free(part)


def build(inner: InnerConfig, model: nn.Module) -> InnerOptimizer:
    """The optimizer that [inner] names, with no state yet. Raises ConfigError if this torch has none."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rest = trained
    parts: list[Optimizer] = []
    if inner.optimizer == SCHEDULE_FREE:
        groups = _groups(trained, inner.weight_decay)
        return InnerOptimizer(
            inner.optimizer, (AdamWScheduleFree(groups, lr=inner.learning_rate, betas=inner.betas),)
        )
    if inner.optimizer == "muon":
        hidden = hidden_matrices(model)
        parts.append(_muon(hidden, inner))
        known = {id(parameter) for parameter in hidden}
        rest = [parameter for parameter in trained if id(parameter) not in known]
    parts.append(_adamw(list(rest), inner))
    return InnerOptimizer(inner.optimizer, tuple(parts))


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The matrices between embedding and head: what Muon is for.

    An embedding's rows are no map between spaces, and a head's gradient is not spread evenly over its rows.
    Stacked (3-D) matrices are not among them.
    """
    others = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    others.add(id(getattr(head, "weight", None)))
    return [p for p in model.parameters() if p.requires_grad and p.dim() == 2 and id(p) not in others]


def _muon(hidden: list[nn.Parameter], inner: InnerConfig) -> Optimizer:
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(f"torch {torch.__version__} has no Muon", "[inner] optimizer", "torch 2.9 or newer")
    if not hidden:
        raise ConfigError("the model has no hidden matrix", "[inner] optimizer", '"adamw"')
    from atoll.workload.muon import Muon  # a subclass of what an older torch lacks

    return Muon(hidden, lr=inner.learning_rate, weight_decay=inner.weight_decay, momentum=MUON_MOMENTUM)


def _adamw(parameters: list[nn.Parameter], inner: InnerConfig) -> Optimizer:
    """On the CPU in one pass over the moments: 1.7 ms for a million parameters instead of 5.5.

    A GPU keeps torch's own choice; there the one pass would count steps on the GPU.
    """
    fused = True if all(parameter.device.type == "cpu" for parameter in parameters) else None
    groups = _groups(parameters, inner.weight_decay)
    return AdamW(groups, lr=inner.learning_rate, betas=inner.betas, fused=fused)


def _groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> Groups:
    """Decay matrices only; norms and biases have no direction to forget."""
    trained = list(parameters)
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


@torch.no_grad()
def _begin_schedule_free(optimizer: AdamWScheduleFree) -> None:
    """From the anchor x: z is as far from it as it was when the last round ended, and gradients are at y.

    So a sync moves x, y and z alike, and the sums of the average go on. (Schedule-Free, Defazio et al. 2024)
    """
    for parameter, state in optimizer.state.items():
        if "z" in state:
            state["z"].add_(parameter)
    optimizer.train()


@torch.no_grad()
def _end_schedule_free(optimizer: AdamWScheduleFree) -> None:
    """Leave x in the parameters, and z - x in place of z."""
    optimizer.eval()
    for parameter, state in optimizer.state.items():
        if "z" in state:
            state["z"].sub_(parameter)
