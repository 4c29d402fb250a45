"""What remains of the demo: the exported model, a text that it wrote, its loss curve, and the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atoll.cli.demo import evidence as judge
from atoll.cli.demo.evidence import Evidence
from atoll.cli.demo.script import COORDINATOR, JOINER, PROMPT, SAMPLE_TOKENS, Script
from atoll.cli.demo.swarm import Swarm
from atoll.cli.export import export_newest, read_manifest
from atoll.protocol.manifest import Manifest

Status = Mapping[str, Any]


def collect(script: Script, swarm: Swarm, folder: Path) -> tuple[Evidence, str]:
    """The evidence of a swarm that has come to its end, and a text by its model."""
    last = swarm.statuses[COORDINATOR]
    manifest = read_manifest(swarm.children[COORDINATOR].state_dir)
    model = folder / "model"
    export_newest(swarm.children[COORDINATOR].state_dir, model)
    text = sample(manifest, model)
    losses, plot = last["evaluation"], folder / "loss.png"
    draw(losses, _marks(swarm), plot)
    moved, bound = _bytes(manifest, swarm)
    living = {swarm.statuses[name]["peer"]: swarm.statuses[name] for name in swarm.living}
    found = Evidence(
        seconds=round(swarm.seconds, 1),
        rounds=last["updates"],
        loss_first=losses[0]["loss"] if losses else None,
        loss_last=losses[-1]["loss"] if losses else None,
        anchor_digests={peer: status["anchor_digest"] for peer, status in living.items()},
        identical=judge.same_anchor(living.values()),
        killed=tuple(swarm.killed.values()),
        joined=tuple(_joined(swarm)),
        bytes_per_peer_round=moved,
        bytes_lower_bound=bound,
        export=str(model) if text is not None else None,
        plot=str(plot) if plot.exists() else None,
    )
    return found, text or ""


def _joined(swarm: Swarm) -> list[str]:
    """The late peer, if it is a member and ends with the same anchor as the coordinator."""
    late, first = swarm.statuses.get(JOINER), swarm.statuses[COORDINATOR]
    if late is None or not judge.same_anchor((late, first)):
        return []
    return [late["peer"]] if any(member["peer"] == late["peer"] for member in first["members"]) else []


def _bytes(manifest: Manifest, swarm: Swarm) -> tuple[float | None, float | None]:
    """Mean bytes that a peer sent in an undisturbed round, and the bound; of the most contributors seen."""
    from atoll.optim.codecs import codec

    witnesses = len(manifest.membership.witnesses)
    sent = judge.undisturbed(swarm.statuses.values(), witnesses)
    if not sent:
        return None, None
    most = max(sent)
    encoded = codec(manifest.outer.codec).payload_bytes(manifest.numel)
    return sum(sent[most]) / len(sent[most]), judge.lower_bound(encoded, most, witnesses)


def sample(manifest: Manifest, folder: Path) -> str | None:
    """Load the export as any user of transformers would, and let it write; None if it does not load."""
    from transformers import AutoModelForCausalLM

    from atoll.workload import sample as sampling
    from atoll.workload import tokens as token_sets

    try:
        model = AutoModelForCausalLM.from_pretrained(folder)
    except (OSError, ValueError):
        return None
    tokens = token_sets.load(str(manifest.model["tokenizer"]), str(manifest.model["tokenizer_sha256"]))
    return PROMPT + sampling.sample(model, tokens, PROMPT, SAMPLE_TOKENS)


def _marks(swarm: Swarm) -> dict[str, int]:
    """Rounds of note for the plot: the first one without the killed peer, the first with the late one."""
    commits = swarm.statuses[COORDINATOR]["commits"]
    marks: dict[str, int] = {}
    for name, peer in swarm.killed.items():
        gone = [commit["round"] for commit in commits if peer in commit["contributors"]]
        marks[f"{name} killed"] = max(gone, default=0) + 1
    late = swarm.statuses.get(JOINER)
    took_part = [commit["round"] for commit in commits if late and late["peer"] in commit["contributors"]]
    if took_part:
        marks[f"{JOINER} contributes"] = took_part[0]
    return marks


def draw(losses: Sequence[Mapping[str, float]], marks: Mapping[str, int], path: Path) -> None:
    """The held-out loss over the rounds as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot([point["round"] for point in losses], [point["loss"] for point in losses], marker="o")
    for text, round_ in marks.items():
        axes.axvline(round_, color="gray", linestyle=":")
        axes.annotate(text, (round_, axes.get_ylim()[1]), rotation=90, va="top", ha="right", color="gray")
    axes.set(xlabel="round", ylabel="held-out loss, nats per token", title="Atoll demo")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
