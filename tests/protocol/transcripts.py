"""The language of tests/scenarios/*.txt: one sentence a line, said to a `Swarm` or expected of it.

    members: coordinator w1 w2 w3       who is there from round 1 on; "coordinator" and "witness" only vote
    outsiders: w4                       who may join later
    leaders: w1 w2                      who leads views 0, 1, … of round 1
    owners: w2 w3 w1                    who owns which part of round 1, if all take part
    rules: retry_ms 500, missed_max 1   what differs from the samples' rules

Then sentences, as the tables at the end of this module and of transcript_expectations.py know them. `#`
begins a comment.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from forgeries import FORGERIES
from protocol_samples import RULES, peer
from swarm_driver import Order, Swarm
from transcript_expectations import EXPECTATIONS
from transcript_story import DEED, DEEDS, NAME, NAMES, Story, essence

from atoll.protocol import events as e
from atoll.protocol.manifest import RoundRules
from atoll.protocol.wire.convert import decode_with_epoch as read
from atoll.protocol.wire.convert import encode


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


def pause(story: Story, name: str, how: str) -> None:
    story.swarm.machines[name].take(e.Pause(how == "pause"))


def recover(story: Story, names: str | None) -> None:
    """The coordinator's machine holds the authority's key."""
    keep = tuple(map(peer, (names or "").split()))
    story.swarm.machines["coordinator"].take(e.Recover(keep))


def kill_leader(story: Story) -> None:
    """Whoever leads in the view that most are in."""
    leader = story.peer(story.swarm.alive[0].name).leader
    story.swarm.kill(story.name(leader))


def train_all(story: Story) -> None:
    for machine in story.called("everybody"):
        if machine.order is not None:
            machine.train()


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
    ledger = story.peer(receiver).ledger
    epoch, message = read(encode(FORGERIES[what](story.peer(receiver)), ledger.epoch), ledger.members_after)
    before = essence(story.peer(receiver))
    actions = machine.take(e.Received(peer(sender), message, epoch))
    story.answer = (machine, actions, before == essence(story.peer(receiver)))


SENTENCES: tuple[tuple[str, Callable[..., None]], ...] = (
    (rf"{NAMES} trains?(?: (\d+) tokens)?", train),
    (r"deliver", lambda story: story.swarm.deliver()),
    (rf"deliver until {NAME} {DEED}", deliver_until),
    (r"(\d+) ms pass", lambda story, ms: story.swarm.pass_time(int(ms))),
    (rf"within (\d+) ms {NAME} {DEED}", pass_until),
    (rf"the (\w+) from {NAME} to {NAMES} is lost", lose),
    (r"the leader dies", kill_leader),
    (r"all who may train do", train_all),
    (rf"{NAME} dies", lambda story, name: story.swarm.kill(name)),
    (rf"{NAMES} starts?(?: again)?", start),
    (rf"{NAME} (is cut off|is back in touch)", touch),
    (rf"{NAME} begins to give its blobs and never ends", stall),
    (rf"{NAMES} sees? that {NAME} is gone", see_gone),
    (rf"{NAME} (finishes|leaves at once)", finish),
    (rf"{NAME} is told to (pause|go on)", pause),
    (rf"the authority recovers(?: with {NAMES})?", recover),
    (rf"{NAME} sends {NAME} ({'|'.join(FORGERIES)})", forge),
)
