"""The demo as it is watched, and its result as it is read."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from atoll.cli.demo.evidence import Evidence
from atoll.cli.demo.swarm import Swarm
from atoll.cli.status_view import bytes_text

EVENTS_SHOWN = 10


def live(swarm: Swarm) -> RenderableType:
    """One line for each process, in 80 columns, and what happened."""
    columns = ("process", "peer", "leads", "phase", "step", "loss", "done", "held-out", "anchor")
    table = Table(*columns, box=None, pad_edge=False)
    for name in swarm.children:
        table.add_row(*map(Text, (name, *_cells(swarm, name))), style="dim" if name in swarm.killed else "")
    return Group(table, Text("\n".join(["", *swarm.events[-EVENTS_SHOWN:], ""])))


def _cells(swarm: Swarm, name: str) -> tuple[str, ...]:
    status = swarm.statuses.get(name)
    if status is None:
        return "", "", "starting", "", "", "", "", ""
    dead = name in swarm.killed
    training, losses = status["training"] or {}, status["evaluation"]
    return (
        status["peer"][-8:],
        "leads" if status["leads"] and not dead else "",
        "killed" if dead else status["phase"],
        f"{training['step']}/{training['steps']}" if training.get("steps") else "",
        f"{training['loss']:.2f}" if training.get("loss") is not None else "",
        f"{status['updates']}/{status['rounds_total']}",
        f"{losses[-1]['loss']:.3f}" if losses else "",
        (status["anchor_digest"] or "")[:7],
    )


def result(evidence: Evidence, text: str) -> RenderableType:
    """The evidence for a person."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(evidence, text):
        table.add_row(name, Text(value))
    return Group(table, Text(), _anchors(evidence))


def _lines(e: Evidence, text: str) -> list[tuple[str, str]]:
    share = ""
    if e.bytes_per_peer_round and e.bytes_lower_bound:
        ratio = e.bytes_per_peer_round / e.bytes_lower_bound
        share = f"{bytes_text(e.bytes_per_peer_round)} per peer and round, {ratio:.3f} × the lower bound"
    loss = "" if e.loss_first is None or e.loss_last is None else f"{e.loss_first:.3f} to {e.loss_last:.3f}"
    return [
        ("rounds", f"{e.rounds} in {e.seconds:.0f} s"),
        ("held-out loss", loss),
        ("sent", share),
        ("killed", ", ".join(e.killed)),
        ("joined", ", ".join(e.joined)),
        ("a text by it", text.strip()),
        ("model", e.export or ""),
        ("loss curve", e.plot or ""),
    ]


def _anchors(e: Evidence) -> Table:
    agree = "identical" if e.identical else "NOT identical"
    table = Table("living peer", f"anchor digest, {agree}", box=None, pad_edge=False)
    for peer, digest in e.anchor_digests.items():
        table.add_row(peer, (digest or "none")[:24])
    return table
