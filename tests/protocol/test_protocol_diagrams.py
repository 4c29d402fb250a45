"""The tables behind docs/protocol.md are true: who says what to whom, in which order, and when."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from atoll.protocol import messages as m
from atoll.protocol import peer as peers
from atoll.protocol.actions import Send
from atoll.protocol.diagrams import (
    ANYBODY,
    DENSE,
    KINDS,
    LEADER,
    MEMBER,
    MESSAGES,
    NOBODY,
    OWNER,
    SECTIONS,
    SPARSE,
    TAKE_OVER,
    TIMERS,
    VOTERS,
    Kind,
    Step,
    renewed,
)
from atoll.protocol.ids import PeerId
from atoll.protocol.manifest import AuditTable
from atoll.simulator.host import Host
from atoll.simulator.run import trial
from atoll.simulator.setting import setting

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
READ_BY_RECEIVE = {m.Elsewhere}


class Sent:
    """Every message that leaves a machine, with the ends that it has."""

    world: Any

    def __init__(self) -> None:
        self.order: dict[tuple[int, int], list[type]] = {}
        self.wrong: list[str] = []
        self.seen: Counter[type] = Counter()

    def on_send(self, host: Host, action: Send) -> None:
        message, receivers = action.message, action.to
        kind, peer = KINDS[type(message)], host.peer
        self.seen[type(message)] += 1
        said = self.order.setdefault((message.round, getattr(message, "view", 0)), [])
        if type(message) not in said:
            said.append(type(message))
        if peer is None or message.round != peer.round:
            return
        view = getattr(message, "view", peer.view)
        if not self.is_one(kind.sender, host.id, peer, view):
            self.wrong.append(f"{kind.name} by {host.name}, which is no {kind.sender}")
        for receiver in receivers:
            if (
                kind.receiver != OWNER
                and not self.led(message, receiver, peer)
                and not self.is_one(kind.receiver, receiver, peer, view)
            ):
                self.wrong.append(f"{kind.name} to {receiver[-8:]}, which is no {kind.receiver}")

    def led(self, message: Any, who: PeerId, peer: peers.Peer) -> bool:
        """One that led an earlier view is told by a sign of life that there is a later one."""
        return isinstance(message, m.Alive) and who in map(peer.terms.leader, range(message.view))

    def is_one(self, end: str, who: PeerId, peer: peers.Peer, view: int) -> bool:
        terms = peer.terms
        return {
            ANYBODY: True,
            MEMBER: who in terms.places,
            VOTERS: who in terms.voting,
            LEADER: who == terms.leader(view),
            OWNER: bool(peer.owning.parts),
            NOBODY: False,
        }[end]


def test_every_message_is_in_the_table_and_has_a_handler() -> None:
    classes = set(get_args(m.Message))
    assert {kind.message for kind in MESSAGES} == classes
    assert len(MESSAGES) == len(classes)
    handled = peers._ANYWHERE.keys() | peers._IN_ROUND.keys()
    assert handled | READ_BY_RECEIVE == classes


def test_every_timer_is_in_the_table() -> None:
    assert {clock.name for clock in TIMERS} == peers._TIMERS.keys()


AUDIT = {m.AskParts, m.Parts, m.Scores}


def test_messages_of_audits_have_the_ends_that_the_table_gives_them() -> None:
    sent = Sent()
    chosen = dataclasses.replace(setting(5, 6, "crash,partition"), audit=AuditTable(from_round=1))
    for seed in range(3):
        outcome = trial(seed, chosen, checkers=[sent])
        assert (outcome.violation, outcome.stuck) == (None, None)
    assert sent.seen.keys() >= AUDIT
    assert sent.wrong == []


@pytest.mark.parametrize("mode", ["streaming", "sparse"])
def test_messages_have_the_ends_that_the_table_gives_them(mode: str) -> None:
    """Looked at when they leave, a moment after they were written: then most are of the present view."""
    sent = Sent()
    for seed in range(3):
        outcome = trial(seed, setting(5, 6, "crash,partition,churn,burst", mode), checkers=[sent])
        assert (outcome.violation, outcome.stuck) == (None, None)
    common = {kind.message for kind in MESSAGES} - {m.Elsewhere, m.Seal, m.Refuse, m.Lock, m.Accuse} - AUDIT
    exchange = {m.Plan, m.Held, m.Cut, m.Reduced, m.Summed, m.Ahead}
    assert sent.seen.keys() >= (common if mode == "streaming" else common - exchange)
    assert mode == "streaming" or not sent.seen.keys() & exchange
    assert sent.wrong == []


@pytest.mark.parametrize(("mode", "steps"), [("dense", DENSE), ("sparse", SPARSE)])
def test_a_round_goes_as_the_diagram_tells(mode: str, steps: tuple[Step, ...]) -> None:
    """Sums are told early when they are ready, before the cut or after."""
    sent = Sent()
    trial(1, setting(4, 5, "none", mode), checkers=[sent])
    told = [step.message for step in steps if isinstance(step, Kind) and step.message is not m.Summed]
    assert (m.Summed in sent.seen) is (mode == "dense")
    for round_ in range(3, 6):
        said = [kind for kind in sent.order[round_, 0] if kind in told and kind is not m.Commits]
        assert [*said, m.Commits] == told


def test_a_take_over_goes_as_the_diagram_tells() -> None:
    told = [step.message for step in TAKE_OVER if isinstance(step, Kind)]
    taken_over: list[list[type]] = []
    for seed in range(4, 8):
        sent = Sent()
        trial(seed, setting(4, 4, "crash"), checkers=[sent])
        taken_over += [said for (_, view), said in sent.order.items() if view]
    assert len(taken_over) > 2
    for said in taken_over:
        assert {m.Promise, m.Prepare} & {*said[:2]}
        for before, after in ((m.Promise, m.Propose), (m.Propose, m.Vote)):
            assert after not in said or before in said[: said.index(after)]
    assert [kind for kind in told if kind in (m.Promise, m.Propose, m.Vote)][-3:] == [
        m.Promise,
        m.Propose,
        m.Vote,
    ]


def test_a_diamond_or_an_arrow_for_each_row_of_the_table() -> None:
    assert renewed(PAGE) == PAGE
    with pytest.raises(LookupError, match="messages"):
        renewed("nothing")
    assert "any --> commit_: commit" in SECTIONS["transitions"]()
    assert "catching_up --> voting: state" in SECTIONS["transitions"]()


def test_the_page_names_checkers_and_planted_bugs_that_there_are() -> None:
    planted = (ROOT / "tests" / "simulator" / "test_planted_bugs.py").read_text(encoding="utf-8")
    bugs = re.findall(r"`(test_\w+)`", PAGE)
    assert len(bugs) > 20
    assert [bug for bug in bugs if f"def {bug}(" not in planted] == []
    checkers = {path.name for path in (ROOT / "simulator" / "checkers").glob("[a-z]*.py")}
    assert [name for name in sorted(checkers) if f"`{name}`" not in PAGE] == []


def test_the_page_quotes_words_that_the_code_says() -> None:
    """The second column of the table of failures: each quotation is a text of the code, filled in."""
    texts = [text for path in SPEAKERS for text in texts_of(ast.parse(path.read_text(encoding="utf-8")))]
    table = PAGE.partition("## What may fail")[2].partition("## Reference")[0]
    rows = [row.split("|") for row in table.splitlines() if row.startswith("| ")]
    quoted = [quote for row in rows[1:] for quote in re.findall(r"`([^`]+)`", row[2])]
    assert len(quoted) > 20
    assert [quote for quote in quoted if not any(re.fullmatch(text, quote) for text in texts)] == []


SPEAKERS = [*(ROOT / "protocol").rglob("*.py"), ROOT / "node" / "status.py"]


def texts_of(tree: ast.AST) -> Iterator[str]:
    """Each text of a module as a pattern, but for those that would match anything."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            fixed = [str(part.value) for part in node.values if isinstance(part, ast.Constant)]
            if len("".join(fixed)) >= FIXED_MIN:
                yield "".join(
                    re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+"
                    for part in node.values
                )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.escape(node.value)


FIXED_MIN = 8
