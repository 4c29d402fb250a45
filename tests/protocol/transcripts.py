"""The language of tests/scenarios/*.txt: one sentence a line, said to a `Swarm` or expected of it.

    members: coordinator w1 w2 w3       who is there from round 1 on; "coordinator" and "witness" only vote
    outsiders: w4                       who may join later
    leaders: w1 w2                      who leads views 0, 1, … of round 1
    owners: w2 w3 w1                    who owns which part of round 1, if all take part
    rules: retry_ms 500, missed_max 1   what differs from the samples' rules

Then sentences, as the tables at the end of this module know them. `#` begins a comment.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from forgeries import FORGERIES
from protocol_samples import RULES, peer
from swarm_driver import Machine, Order, Swarm

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.ids import PeerId
from atoll.protocol.manifest import RoundRules
from atoll.protocol.peer import Peer
from atoll.protocol.wire.convert import decode, encode


def sends(kind: type) -> Callable[[a.Action], bool]:
    return lambda action: isinstance(action, a.Send) and isinstance(action.message, kind)


def writes(kind: type) -> Callable[[a.Action], bool]:
    return lambda action: isinstance(action, a.Persist) and isinstance(action.record, kind)


DEEDS: dict[str, Callable[[a.Action], bool]] = {
    "offers": sends(m.Offer),
    "plans": sends(m.Plan),
    "reports": sends(m.Held),
    "cuts": sends(m.Cut),
    "votes": sends(m.Vote),
    "sums": lambda action: isinstance(action, a.Aggregate),
    "hands in its sum": sends(m.Reduced),
    "proposes": writes(a.Proposed),
    "accepts": writes(a.Accepted),
    "promises": writes(a.Promised),
    "commits": writes(a.Committed),
    "loads a state": lambda action: isinstance(action, a.LoadState),
    "is asked to train": lambda action: isinstance(action, a.Train),
    "locks": sends(m.Lock),
    "gives its first vote": writes(a.Prepared),
    "notes evidence": writes(a.Accused),
    "ends": lambda action: isinstance(action, a.Ended),
}


@dataclasses.dataclass
class Story:
    """A swarm, and what came of the last message that somebody should not have sent."""

    swarm: Swarm
    answer: tuple[Machine, list[a.Action], bool] | None = None

    def called(self, names: str) -> list[Machine]:
        if names == "everybody":
            return [machine for machine in self.swarm.alive if machine.in_touch]
        return [self.swarm.machines[name] for name in names.split()]

    def peer(self, name: str) -> Peer:
        found = self.swarm.machines[name].peer
        assert found is not None, f"{name} is dead"
        return found

    def name(self, who: PeerId) -> str:
        return self.swarm.by_id[who].name

    def commit(self, round_: str) -> Any:
        """As somebody who is alive has it; that all have the same is the driver's concern."""
        number = int(round_)
        ledgers = [self.peer(machine.name).ledger for machine in self.swarm.alive]
        ledger = max(ledgers, key=lambda ledger: ledger.height)
        assert ledger.height >= number, f"the ledger has {ledger.height} commits"
        return ledger.commit(number)

    def report(self) -> str:
        lines = [f"after {self.swarm.now_ms} ms:"]
        for machine in self.swarm.alive:
            p = self.peer(machine.name)
            lines.append(f"  {machine.name}: round {p.round} view {p.view}, {p.phase}: {p.why}")
        return "\n".join(lines)


def play(text: str) -> Story:
    """Play a transcript to its end; AssertionError names the line that did not hold."""
    story: Story | None = None
    heading: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        sentence = line.partition("#")[0].strip()
        name, colon, rest = sentence.partition(": ")
        if colon and name in ("members", "outsiders", "leaders", "owners", "rules"):
            assert story is None, f"line {number}: headings come first"
            heading[name] = rest
        elif sentence:
            story = story or begin(heading)
            try:
                say(story, sentence)
            except AssertionError as error:
                raise AssertionError(f"line {number}: {sentence}\n{error}\n{story.report()}") from error
    assert story is not None, "nothing happens in this transcript"
    return story


def begin(heading: dict[str, str]) -> Story:
    changes: dict[str, Any] = {}
    for rule in filter(None, heading.get("rules", "").split(", ")):
        name, value = rule.split()
        changes[name] = type(getattr(RoundRules(), name))(value)
    order = Order(tuple(heading.get("leaders", "").split()), tuple(heading.get("owners", "").split()))
    rules = dataclasses.replace(RULES, **changes)
    story = Story(Swarm(heading["members"].split(), heading.get("outsiders", "").split(), rules, order))
    story.swarm.deliver()
    return story


def say(story: Story, sentence: str) -> None:
    first, _, rest = sentence.partition(" ")
    table, words = (EXPECTATIONS, rest) if first == "expect" else (SENTENCES, sentence)
    for pattern, act in table:
        if match := re.fullmatch(pattern, words):
            act(story, *match.groups())
            return
    raise AssertionError("nobody knows what this means")


# ---- what happens -------------------------------------------------------------------------------


def train(story: Story, names: str, tokens: str | None) -> None:
    for machine in story.called(names):
        machine.train(int(tokens or 1000))


def happens(story: Story, name: str, deed: str) -> Callable[[], bool]:
    log = story.swarm.machines[name].log
    before = len(log)
    return lambda: any(DEEDS[deed](action) for action in log[before:])


def deliver_until(story: Story, name: str, deed: str) -> None:
    assert story.swarm.deliver(happens(story, name, deed)), "it did not happen"


def pass_until(story: Story, for_ms: str, name: str, deed: str) -> None:
    assert story.swarm.pass_time(int(for_ms), happens(story, name, deed)), "it did not happen"


def lose(story: Story, kind: str, sender: str, receivers: str) -> None:
    """Letters of one kind that lie in the mail."""
    to = story.called(receivers)
    lost = [
        letter
        for letter in story.swarm.mail
        if type(letter[2]).__name__ == kind and letter[0].name == sender and letter[1] in to
    ]
    assert {letter[1].name for letter in lost} == {machine.name for machine in to}, "no such letter is there"
    for letter in lost:
        story.swarm.mail.remove(letter)


def see_gone(story: Story, names: str, gone: str) -> None:
    for machine in story.called(names):
        machine.take(e.PeerLost(peer(gone)))


def finish(story: Story, name: str, how: str) -> None:
    story.swarm.machines[name].take(e.Finish(now=how == "leaves at once"))


def touch(story: Story, name: str, how: str) -> None:
    story.swarm.machines[name].in_touch = how == "is back in touch"


def stall(story: Story, name: str) -> None:
    story.swarm.machines[name].stalls = True


def start(story: Story, names: str) -> None:
    for machine in story.called(names):
        assert machine.peer is None, f"{machine.name} runs already"
        machine.start()


def forge(story: Story, sender: str, receiver: str, what: str) -> None:
    machine = story.swarm.machines[receiver]
    message = FORGERIES[what](story.peer(receiver))
    before = essence(story.peer(receiver))
    actions = machine.take(e.Received(peer(sender), decode(encode(message))))
    story.answer = (machine, actions, before == essence(story.peer(receiver)))


def essence(p: Peer) -> str:
    """All that a peer knows, but for when it heard of whom and what it says about it."""
    passing = {"heard", "why", "asked_ms", "now_ms", "lost"}
    return repr(sorted((name, value) for name, value in vars(p).items() if name not in passing))


# ---- what is expected ---------------------------------------------------------------------------


def refuses(story: Story, receiver: str, sender: str, reason: str) -> None:
    """Told, counted, and nothing else."""
    assert story.answer is not None
    machine, actions, same = story.answer
    assert machine.name == receiver
    reasons = [action.reason for action in actions if isinstance(action, a.Rejected)]
    assert len(reasons) == 1, f"rejected: {reasons}"
    assert reason in reasons[0], reasons[0]
    assert reasons[0].isprintable()
    assert len(reasons[0]) <= 500
    told = [action for action in actions if isinstance(action, a.Send)]
    assert told == [a.Send((peer(sender),), m.Refuse(story.peer(receiver).round, reasons[0]))]
    assert len(actions) == 2, actions
    assert same, f"{receiver} is not as it was"


def ignores(story: Story, receiver: str) -> None:
    assert story.answer is not None
    machine, actions, same = story.answer
    assert machine.name == receiver
    assert actions == [], actions
    assert same, f"{receiver} is not as it was"


def answers(story: Story, receiver: str, sender: str, kind: str) -> None:
    """Nothing but one message back."""
    assert story.answer is not None
    machine, actions, _ = story.answer
    assert machine.name == receiver
    (action,) = actions
    assert isinstance(action, a.Send)
    assert (action.to, type(action.message).__name__) == ((peer(sender),), kind)


def is_update(story: Story, round_: str, names: str, view: str | None) -> None:
    commit = story.commit(round_)
    assert commit.body.kind.name == "UPDATE", commit.body.kind.name
    found = {story.name(c.peer) for c in commit.body.contributors}
    assert found == set(names.split()), f"by {found}"
    assert view is None or commit.view == int(view), f"in view {commit.view}"


def is_skip(story: Story, round_: str, view: str | None) -> None:
    commit = story.commit(round_)
    assert commit.body.kind.name == "SKIP", commit.body.kind.name
    assert view is None or commit.view == int(view), f"in view {commit.view}"


def weighs(story: Story, round_: str, name: str, weight: str) -> None:
    found = {story.name(c.peer): c.weight for c in story.commit(round_).body.contributors}
    assert found.get(name) == int(weight), found


def gives_reason(story: Story, round_: str, name: str, reason: str) -> None:
    found = {story.name(r.peer): r.reason for r in story.commit(round_).body.rejected}
    assert found.get(name) == reason, found


def certified(story: Story, round_: str, names: str) -> None:
    found = {story.name(who) for who, _ in story.commit(round_).votes}
    assert found == set(names.split()), f"by {found}"


def nothing_committed(story: Story, round_: str) -> None:
    assert int(round_) not in story.swarm.history


def members_of(story: Story, round_: str, names: str) -> None:
    found = {story.name(member.peer) for member in story.commit(str(int(round_) - 1)).body.members}
    assert found == set(names.split()), found


def in_round(story: Story, names: str, round_: str, view: str | None) -> None:
    for machine in story.called(names):
        p = story.peer(machine.name)
        assert p.round == int(round_), f"{machine.name} is in round {p.round}"
        assert view is None or p.view == int(view), f"{machine.name} is in view {p.view}"


def same_anchor(story: Story, names: str, round_: str) -> None:
    for machine in story.called(names):
        at, anchor = story.peer(machine.name).catchup.round, story.peer(machine.name).catchup.anchor
        assert at == int(round_), f"{machine.name} has the anchor of round {at}"
        assert anchor == story.swarm.anchors[at]


def may_train(story: Story, name: str, negated: str | None) -> None:
    order = story.swarm.machines[name].order
    if negated:
        assert order is None or order.round < story.peer(name).round
    else:
        assert order is not None
        assert order.round == story.peer(name).round


def may_train_for(story: Story, name: str, round_: str) -> None:
    order = story.swarm.machines[name].order
    assert order is not None
    assert order.round == int(round_), f"for round {order.round}"


def for_fragment(story: Story, round_: str, fragment: str) -> None:
    assert story.commit(round_).body.fragment == int(fragment), story.commit(round_).body.fragment


def has_blobs(story: Story, round_: str, count: str) -> None:
    assert len(story.commit(round_).body.blobs) == int(count)


def hold_blobs(story: Story, names: str, round_: str) -> None:
    """On disk."""
    for machine in story.called(names):
        missing = [ref for ref in story.commit(round_).body.blobs if ref.digest not in machine.disk.results]
        assert not missing, f"{machine.name} lacks {len(missing)}"


def settled(story: Story, name: str, round_: str, outcome: str) -> None:
    found = [x for x in story.swarm.machines[name].log if isinstance(x, a.Settle) and x.round == int(round_)]
    assert len(found) == 1, f"settled {len(found)} times"
    assert found[0].included == (outcome == "is part of the update"), found[0]
    assert outcome == "is part of the update" or outcome.endswith(found[0].late)


def sums(story: Story, name: str, part: str, round_: str) -> None:
    wanted = (int(part), int(round_))
    log = story.swarm.machines[name].log
    assert any(isinstance(x, a.Aggregate) and (x.part, x.round) == wanted for x in log)


def loads(story: Story, name: str, round_: str) -> None:
    log = story.swarm.machines[name].log
    found = [x.round for x in log if isinstance(x, a.LoadState)]
    assert found[-1:] == [int(round_)], f"loaded {found}"


def loads_none(story: Story, name: str) -> None:
    assert not any(isinstance(x, a.LoadState) for x in story.swarm.machines[name].log)


def ended(story: Story, name: str, reason: str) -> None:
    assert story.peer(name).ended is not None, "it goes on"
    assert reason in str(story.peer(name).ended)


def phase(story: Story, names: str, word: str) -> None:
    for machine in story.called(names):
        assert story.peer(machine.name).phase == word, f"{machine.name}: {story.peer(machine.name).phase}"


def nobody_rejected(story: Story) -> None:
    for machine in story.swarm.machines.values():
        found = [x for x in machine.log if isinstance(x, a.Rejected)]
        assert not found, f"{machine.name}: {found}"


def quiet(story: Story, names: str, deed: str) -> None:
    """It never did this in its present life."""
    for machine in story.called(names):
        assert not any(DEEDS[deed](action) for action in machine.log)


NAME, NAMES = r"(\w+)", r"(everybody|\w+(?: \w+)*)"
DEED = f"({'|'.join(DEEDS)})"
SENTENCES: tuple[tuple[str, Callable[..., None]], ...] = (
    (rf"{NAMES} trains?(?: (\d+) tokens)?", train),
    (r"deliver", lambda story: story.swarm.deliver()),
    (rf"deliver until {NAME} {DEED}", deliver_until),
    (r"(\d+) ms pass", lambda story, ms: story.swarm.pass_time(int(ms))),
    (rf"within (\d+) ms {NAME} {DEED}", pass_until),
    (rf"the (\w+) from {NAME} to {NAMES} is lost", lose),
    (rf"{NAME} dies", lambda story, name: story.swarm.kill(name)),
    (rf"{NAMES} starts?(?: again)?", start),
    (rf"{NAME} (is cut off|is back in touch)", touch),
    (rf"{NAME} begins to give its blobs and never ends", stall),
    (rf"{NAMES} sees? that {NAME} is gone", see_gone),
    (rf"{NAME} (finishes|leaves at once)", finish),
    (rf"{NAME} sends {NAME} ({'|'.join(FORGERIES)})", forge),
)
EXPECTATIONS: tuple[tuple[str, Callable[..., None]], ...] = (
    (rf"{NAME} refuses {NAME}: (.+)", refuses),
    (rf"{NAME} ignores it", ignores),
    (rf"{NAME} answers {NAME} with an? (\w+)", answers),
    (r"commit (\d+) is an update by ([\w ]+?)(?: in view (\d+))?", is_update),
    (r"commit (\d+) is a skip(?: in view (\d+))?", is_skip),
    (rf"in commit (\d+) {NAME} weighs (\d+)", weighs),
    (rf"commit (\d+) leaves {NAME} out: (.+)", gives_reason),
    (r"commit (\d+) has the votes of ([\w ]+)", certified),
    (r"no commit (\d+)", nothing_committed),
    (r"the members of round (\d+) are ([\w ]+)", members_of),
    (rf"{NAMES} (?:is|are) in round (\d+)(?: view (\d+))?", in_round),
    (rf"{NAMES} ha(?:s|ve) the anchor of round (\d+)", same_anchor),
    (rf"{NAME} may (not )?train", may_train),
    (rf"{NAME} may train for round (\d+)", may_train_for),
    (r"commit (\d+) is for fragment (\d+)", for_fragment),
    (r"commit (\d+) has (\d+) blobs", has_blobs),
    (rf"{NAMES} holds? the blobs of commit (\d+)", hold_blobs),
    (rf"what {NAME} did in round (\d+) (is part of the update|is left out: \w+)", settled),
    (rf"{NAME} sums part (\d+) of round (\d+)", sums),
    (rf"{NAME} loads the state of round (\d+)", loads),
    (rf"{NAME} loads no state", loads_none),
    (rf"{NAME} has ended: (.+)", ended),
    (rf"{NAMES} (?:is|are) (training|offered|voting|joining|catching up|witnessing)", phase),
    (r"nobody was rejected", nobody_rejected),
    (rf"{NAMES} never {DEED}", quiet),
)
