"""A daemon's status as a person reads it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Status = dict[str, Any]
AUDITED_SHOWN = 8
SHARDS_SHOWN = 12
DIFFERENCES_SHOWN = 8


def view(status: Status) -> RenderableType:
    """The whole status: facts, members, the latest commits."""
    if "run_id" not in status:
        return Text(f"{status['peer']}  {status['phase']}, process {status['pid']}")
    return Group(_facts(status), Text(), _members(status), Text(), _commits(status))


def bytes_text(count: float) -> str:
    """A number of bytes in units of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def rounds_text(status: Status) -> str:
    """How many updates there were, of how many."""
    total = status.get("rounds_total") or 0
    return f"{status['updates']} of {total}" if total else str(status["updates"])


def training_text(status: Status) -> str:
    training = status.get("training") or {}
    if not training.get("steps"):
        return ""
    loss = training.get("loss")
    shown = "" if loss is None else f", loss {loss:.3f}"
    speed = training.get("tokens_per_s")
    fast = "" if speed is None else f", {speed:.0f} tokens/s"
    return f"step {training['step']} of {training['steps']}{shown}{fast}"


def trainer_text(status: Status) -> str:
    """How much of the last minutes went into inner steps, and how many rounds went on without them."""
    training = status.get("training") or {}
    share = training.get("utilisation")
    if share is None:
        return ""
    became = training["contributions"]
    settled, missed = sum(became.values()), became.get("missed", 0)
    return f"trains {share:.1%} of the time; {missed} of {settled} contributions missed their round"


def heldout_text(status: Status) -> str:
    evaluation = status.get("evaluation") or []
    if not evaluation:
        return ""
    first, last = evaluation[0], evaluation[-1]
    return (
        f"{last['loss']:.3f} after round {last['round']} ({first['loss']:.3f} after round {first['round']})"
    )


def _facts(status: Status) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines(status):
        if text:
            table.add_row(name, Text(text))
    return table


def _lines(status: Status) -> list[tuple[str, str]]:
    sent = sum(kind["sent"] for kind in (status.get("traffic") or {}).values())
    received = sum(kind["received"] for kind in (status.get("traffic") or {}).values())
    rejected = ", ".join(f"{count} × {reason}" for reason, count in (status.get("rejected") or {}).items())
    epoch = f" of epoch {status['epoch']}" if status.get("epoch") else ""
    leads = " (this peer)" if status.get("leads") else ""
    return [
        ("run", f"{status.get('run')}  {status['run_id'][:12]}"),
        ("peer", f"{status['peer']}  {status['role']}, process {status['pid']}"),
        ("phase", f"{status['phase']}: {status['why']}"),
        ("paused", "trains no more, until `atoll resume`" if status.get("paused") else ""),
        ("updates", rounds_text(status)),
        (
            "round",
            f"{status['round']}{epoch}, view {status['view']}, leader {_short(status['leader'])}{leads}",
        ),
        ("training", training_text(status)),
        ("trainer", trainer_text(status)),
        ("held-out loss", heldout_text(status)),
        ("anchor", f"{(status['anchor_digest'] or 'none yet')[:16]} of round {status['anchor_round']}"),
        ("bytes", f"{bytes_text(sent)} sent, {bytes_text(received)} received"),
        ("health", health_text(status)),
        ("audits", audits_text(status)),
        ("rejected", rejected),
        ("shards", shards_text(status)),
        ("differ", differing_text(status)),
        ("ended", status.get("ended") or ""),
        ("invite", status.get("invite") or ""),
        ("state", str(status.get("state_dir", ""))),
    ]


def health_text(status: Status) -> str:
    """The members that hold the others up, and how."""
    said = []
    for member in status["members"]:
        health = member.get("health") or {}
        if health.get("verdict", "unknown") not in ("fine", "unknown"):
            said.append(f"{_short(member['peer'])} is {health['verdict']}: {health['why']}")
    return "; ".join(said)


def audits_text(status: Status) -> str:
    """How many workers audits leave all their weight, and whom not."""
    found = {member["peer"]: member.get("reputation") for member in status["members"]}
    known = {peer: reputation for peer, reputation in found.items() if reputation}
    less = {peer: reputation for peer, reputation in known.items() if reputation["weight"] < 1}
    lightest = sorted(less, key=lambda peer: (less[peer]["weight"], peer))[:AUDITED_SHOWN]
    said = [f"{_short(peer)} {_reputation_text(less[peer])}" for peer in lightest]
    return "; ".join([f"{len(known) - len(less)} of {len(known)} workers weigh all", *said]) if known else ""


def _reputation_text(found: dict[str, Any]) -> str:
    trials = f", {found['trials']} are to come" if found["trials"] else ""
    judged = f"{found['value']:.2f} of {found['judgements']} judgements{trials}"
    return f"weighs {found['weight']:.2f}: its reputation is {judged}"


def shards_text(status: Status) -> str:
    """How many workers hold each shard, where members bring their data; the ones that would be lost first."""
    held = Counter(member["shard"] for member in status["members"] if member.get("shard"))
    rare = sorted(held, key=lambda name: (held[name], name))
    more = f", and {len(rare) - SHARDS_SHOWN} more" if len(rare) > SHARDS_SHOWN else ""
    return ", ".join(f"{name} × {held[name]}" for name in rare[:SHARDS_SHOWN]) + more


def differing_text(status: Status) -> str:
    """Whose work was other than that of a replica of the same unit, in the latest commits."""
    said = [
        f"{_short(peer)} in round {commit['round']}: {reason}"
        for commit in status["commits"]
        for peer, reason in (commit.get("differ") or {}).items()
    ]
    return "; ".join(said[-DIFFERENCES_SHOWN:])


def _members(status: Status) -> Table:
    table = _table("Members", "member", "role", "missed", "path")
    for member in status["members"]:
        path = "this peer" if member.get("you") else str(member.get("path") or "")
        table.add_row(*map(Text, (member["peer"], member["role"], str(member["missed"]), path)))
    return table


def _table(title: str, *columns: str) -> Table:
    """Without borders: a peer id and its neighbours fit into 80 columns."""
    return Table(*columns, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)


def _commits(status: Status) -> Table:
    table = _table("Latest commits", "round", "commit", "contributors", "view", "seconds", "sent", "received")
    for commit in status["commits"][-8:]:
        table.add_row(
            str(commit["round"]),
            str(commit["kind"]),
            str(len(commit["contributors"])),
            str(commit["view"]),
            "" if commit["seconds"] is None else f"{commit['seconds']:.1f}",
            bytes_text(commit["sent_bytes"]),
            bytes_text(commit["received_bytes"]),
        )
    return table


def _short(peer: str | None) -> str:
    return (peer or "nobody")[-8:]
