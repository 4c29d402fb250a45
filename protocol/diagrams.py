"""Who says what to whom, and when; and docs/protocol.md's diagrams, made of the protocol's own tables.

Everything is text in, text out: tools/generate_diagrams.py puts it between the marks in docs/protocol.md.
Tests hold the tables against simulated rounds: sender, receiver and order are what is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from atoll.protocol import messages as m
from atoll.protocol.phases import HAPPENINGS, PHASES, TAKING_PART, TRANSITIONS

ANYBODY, MEMBER, VOTERS, LEADER, OWNER = "anybody", "member", "voters", "leader", "owner"
NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of message: its stage of a round, who sends it to whom, and what it carries."""

    message: type
    stage: str
    sender: str
    receiver: str
    carries: str

    @property
    def name(self) -> str:
        return self.message.__name__


MESSAGES = (
    Kind(
        m.Alive,
        "train",
        MEMBER,
        LEADER,
        "the inner step it is at; to one that led before, also that another leads",
    ),
    Kind(m.Waiting, "train", LEADER, MEMBER, "what it waits for, in words"),
    Kind(m.Offer, "offer", MEMBER, LEADER, "tokens, steps, what it started from, digests of its parts"),
    Kind(m.Plan, "exchange", LEADER, OWNER, "the participants, and the columns that this owner is to fetch"),
    Kind(m.Held, "exchange", OWNER, LEADER, "whose contributions to a part are here"),
    Kind(m.Cut, "exchange", LEADER, OWNER, "the one set of contributors, with weights"),
    Kind(m.Reduced, "exchange", OWNER, LEADER, "digest of the encoded mean of a part"),
    Kind(
        m.Summed,
        "exchange",
        OWNER,
        VOTERS,
        "the same, sent as soon as a part is summed, so that they get it meanwhile",
    ),
    Kind(m.Propose, "agree", LEADER, VOTERS, "the body, and who holds its blobs"),
    Kind(m.Lock, "agree", LEADER, VOTERS, "two-thirds: the certificate of first votes"),
    Kind(m.Vote, "agree", VOTERS, LEADER, "a signature over (run, round, view, body)"),
    Kind(
        m.Ahead, "agree", MEMBER, ANYBODY, "what it will offer to the next round, where training runs ahead"
    ),
    Kind(m.Prepare, "take over", LEADER, VOTERS, "the view that is to be promised"),
    Kind(m.Promise, "take over", VOTERS, LEADER, "the view, and the body accepted last, if any"),
    Kind(
        m.Commits, "commit", ANYBODY, ANYBODY, "certified commits in order, the height, a snapshot if asked"
    ),
    Kind(m.AskCommits, "catch up", ANYBODY, ANYBODY, "from which round on"),
    Kind(m.AskState, "catch up", ANYBODY, ANYBODY, "the round of the state that it has"),
    Kind(m.Accuse, "any", VOTERS, LEADER, "two-thirds: two votes that convict who signed them"),
    Kind(m.State, "catch up", ANYBODY, ANYBODY, "round, anchor digest and blobs of a whole state"),
    Kind(m.Join, "come and go", ANYBODY, ANYBODY, "the role that it wants, and a token"),
    Kind(m.Leave, "come and go", MEMBER, VOTERS, "why"),
    Kind(m.AskParts, "audit", MEMBER, ANYBODY, "the round whose contribution it was drawn to look at"),
    Kind(m.Parts, "audit", ANYBODY, MEMBER, "digests of the parts that it sent to that round"),
    Kind(m.Scores, "audit", MEMBER, LEADER, "what it measured of the round before the last, signed"),
    Kind(m.Seal, "commit", ANYBODY, MEMBER, "the authority's signature under a snapshot that all can make"),
    Kind(m.Refuse, "any", ANYBODY, ANYBODY, "why a message was not accepted"),
    Kind(m.Elsewhere, "any", NOBODY, ANYBODY, "what is read of a body whose parent the reader lacks"),
)
KINDS = {kind.message: kind for kind in MESSAGES}


@dataclass(frozen=True, slots=True)
class Pull:
    """Bytes are pulled: who gets which blobs of whom."""

    by: str
    of: str
    what: str


@dataclass(frozen=True, slots=True)
class Note:
    who: str
    text: str


Step = Kind | Pull | Note
"""What a sequence diagram shows."""
AGREEING: tuple[Step, ...] = (
    Note(VOTERS, "on disk: what I accept"),
    KINDS[m.Vote],
    Note(LEADER, "on disk: the commit, with a majority of votes"),
    KINDS[m.Commits],
    Note(MEMBER, "takes the outer step"),
)
DENSE: tuple[Step, ...] = (
    Note(MEMBER, "trains, encodes in parts"),
    KINDS[m.Offer],
    Note(LEADER, "quorum, then grace"),
    KINDS[m.Plan],
    Pull(OWNER, MEMBER, "a column: everybody's piece of my part"),
    Note(OWNER, "sums each column that is whole, encodes"),
    KINDS[m.Held],
    KINDS[m.Summed],
    Pull(VOTERS, OWNER, "the mean, part by part, to disk"),
    KINDS[m.Cut],
    Note(OWNER, "sums again where somebody was left out"),
    KINDS[m.Reduced],
    Note(LEADER, "on disk: what I propose"),
    KINDS[m.Propose],
    *AGREEING,
)
SPARSE: tuple[Step, ...] = (
    Note(MEMBER, "trains, encodes in one blob, to disk"),
    KINDS[m.Offer],
    Note(LEADER, "quorum, then grace"),
    Pull(LEADER, MEMBER, "every contribution, to disk"),
    Note(LEADER, "on disk: what I propose"),
    KINDS[m.Propose],
    Pull(VOTERS, MEMBER, "every contribution, to disk"),
    *AGREEING,
)
TAKE_OVER: tuple[Step, ...] = (
    Note(VOTERS, "the leader is silent or gone: on disk, the next view is promised"),
    KINDS[m.Promise],
    KINDS[m.Prepare],
    Note(VOTERS, "who sat in another view promises this one"),
    KINDS[m.Promise],
    Note(LEADER, "a majority: bound to the accepted body of the highest view, if any"),
    KINDS[m.Propose],
    *AGREEING,
)


@dataclass(frozen=True, slots=True)
class Clock:
    """One of the timers in peer.py."""

    name: str
    whose: str
    after: str
    then: str


PATIENCE = "deadline · min(4, 1 + view // 2), again while the leader shows that it goes on"
TIMERS = (
    Clock("retry", ANYBODY, "`retry_ms`", "says again whatever somebody waits for; asks for what it lacks"),
    Clock("deadline", MEMBER, PATIENCE, "enters the next view, whose leader is not known to be gone"),
    Clock(
        "plan",
        LEADER,
        "the end of the grace, or of `train_ms_max` without a quorum",
        "looks whether to go on",
    ),
    Clock(
        "exchange",
        LEADER,
        "deadline / 2, from the last stage on",
        "moves the parts of owners that are silent",
    ),
    Clock("hold", OWNER, "deadline / 4", "reports what is held; the rest is left out of the cut"),
    Clock("collect", LEADER, "deadline / 4 (sparse)", "leaves out what has not arrived"),
)


# ---- text ---------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def mermaid(kind: str, lines: Sequence[str]) -> str:
    return "\n".join(["```mermaid", kind, *(f"    {line}" for line in lines), "```"])


def _state(word: str) -> str:
    return word.replace(" ", "_")


def phases() -> str:
    """States, and a node for each happening after which one of several may come."""
    lines = ['state "any phase but finished" as any']
    lines += [f'state "{phase.word}" as {_state(phase.word)}' for phase in PHASES]
    lines += ["[*] --> joining", "[*] --> catching_up"]
    for row in TRANSITIONS:
        rest = [word for word in row.before if word not in TAKING_PART]
        everybody = {*TAKING_PART} <= {*row.before}
        sources = [_state(word) for word in (rest if everybody else row.before)] + ["any"] * everybody
        targets = [_state(word) for word in row.after]
        if len(row.before) > 1 < len(targets):
            node = f"{row.by}_"
            lines.append(f"state {node} <<choice>>")
            lines += [f"{source} --> {node}: {row.by}" for source in sources]
            lines += [f"{node} --> {target}" for target in targets]
        else:
            lines += [f"{source} --> {target}: {row.by}" for source in sources for target in targets]
    return mermaid("stateDiagram-v2", [*lines, "finished --> [*]"])


def phase_table() -> str:
    return table(("phase", "meaning"), [(f"`{phase.word}`", phase.means) for phase in PHASES])


def happening_table() -> str:
    return table(("by", "what happens"), [(what.word, what.means) for what in HAPPENINGS])


def message_table() -> str:
    rows = [(kind.stage, f"`{kind.name}`", kind.sender, kind.receiver, kind.carries) for kind in MESSAGES]
    return table(("stage", "message", "from", "to", "carries"), rows)


def timer_table() -> str:
    rows = [(f"`{clock.name}`", clock.whose, clock.after, clock.then) for clock in TIMERS]
    return table(("timer", "whose", "after", "then"), rows)


def sequence(steps: Sequence[Step]) -> str:
    """A round as told: messages as arrows, pulls as dotted ones."""
    present = [who for who in (MEMBER, VOTERS, OWNER, LEADER) if any(who in _who(step) for step in steps)]
    lines = [f"participant {who}" for who in present]
    return mermaid("sequenceDiagram", lines + [_line(step) for step in steps])


def _who(step: Step) -> tuple[str, ...]:
    if isinstance(step, Kind):
        return _ends(step)
    return (step.by, step.of) if isinstance(step, Pull) else (step.who,)


def _ends(kind: Kind) -> tuple[str, str]:
    """A commit may come from anybody; in a round it comes from its leader."""
    return (LEADER, MEMBER) if kind.message is m.Commits else (kind.sender, kind.receiver)


def _line(step: Step) -> str:
    if isinstance(step, Kind):
        sender, receiver = _ends(step)
        return f"{sender}->>{receiver}: {step.name} ({step.carries})"
    if isinstance(step, Pull):
        return f"{step.of}-->>{step.by}: {step.what}"
    return f"Note over {step.who}: {step.text}"


SECTIONS: dict[str, Callable[[], str]] = {
    "messages": message_table,
    "dense round": lambda: sequence(DENSE),
    "sparse round": lambda: sequence(SPARSE),
    "take-over": lambda: sequence(TAKE_OVER),
    "phases": phase_table,
    "happenings": happening_table,
    "transitions": phases,
    "timers": timer_table,
}


def renewed(text: str) -> str:
    """The same document, with every generated section as it is now."""
    for name, make in SECTIONS.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise LookupError(f"no section {name!r}: it is to stand between {begin.strip()} and {end}")
        text = f"{head}{begin}{make()}\n{end}{tail}"
    return text
