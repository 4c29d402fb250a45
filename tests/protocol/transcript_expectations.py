"""What a transcript may expect: sentences after `expect`, and what must hold for each."""

from __future__ import annotations

from collections.abc import Callable

from protocol_samples import peer
from transcript_story import DEED, DEEDS, NAME, NAMES, Story

from atoll.protocol import actions as a
from atoll.protocol import messages as m
from atoll.protocol.ids import PeerId


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


def keeps(story: Story, receiver: str) -> None:
    """It may come of use later."""
    assert story.answer is not None
    machine, actions, same = story.answer
    assert machine.name == receiver
    assert actions == [], actions
    assert not same


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


def is_recovery(story: Story, round_: str) -> None:
    commit = story.commit(round_)
    assert commit.body.kind.name == "RECOVERY", commit.body.kind.name


def in_epoch(story: Story, names: str, epoch: str) -> None:
    for machine in story.called(names):
        found = story.peer(machine.name).ledger.epoch
        assert found == int(epoch), f"{machine.name} is in epoch {found}"


def begins_after(story: Story, names: str, round_: str) -> None:
    """It keeps no commit up to that round, and the snapshot instead."""
    for machine in story.called(names):
        begin = story.peer(machine.name).ledger.begin
        assert begin == int(round_), f"{machine.name}'s ledger begins after round {begin}"
        assert (begin == 0) == (machine.disk.base is None)
        assert all(commit.body.round > begin for commit in machine.disk.commits)


def took_none(story: Story, name: str, round_: str) -> None:
    """Neither from others nor from its disk."""
    log = story.swarm.machines[name].log
    records = [action.record for action in log if isinstance(action, a.Persist)]
    taken = [record.commit.body.round for record in records if isinstance(record, a.Committed)]
    assert min(taken, default=int(round_) + 1) > int(round_), f"took {taken}"


def committee_voted(story: Story, count: str, round_: str) -> None:
    commit = story.commit(round_)
    committee = voters_of(story, round_)
    found = {who for who, _ in commit.votes}
    assert len(found) == int(count), f"{len(found)} voted"
    assert found <= committee < {member.peer for member in commit.body.before}


def voters_of(story: Story, round_: str) -> frozenset[PeerId]:
    return story.peer(story.swarm.alive[0].name).ledger.voters(int(round_))


def committees_differ(story: Story, first: str, last: str) -> None:
    committees = [voters_of(story, str(round_)) for round_ in range(int(first), int(last) + 1)]
    assert len(set(committees)) > 1


def says(story: Story, name: str, words: str) -> None:
    assert words in story.peer(name).why, story.peer(name).why


def has_role(story: Story, round_: str, name: str, role: str) -> None:
    found = {m.peer: m.role for m in story.commit(str(int(round_) - 1)).body.members}
    assert found[peer(name)].name.lower() == role, found[peer(name)].name


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
    assert int(round_) not in {round_ for _, round_ in story.swarm.history}


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
        assert anchor == story.swarm.anchors[story.peer(machine.name).ledger.digest_of_round(at)]


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


EXPECTATIONS: tuple[tuple[str, Callable[..., None]], ...] = (
    (rf"{NAME} refuses {NAME}: (.+)", refuses),
    (rf"{NAME} ignores it", ignores),
    (rf"{NAME} keeps it for later", keeps),
    (rf"{NAME} answers {NAME} with an? (\w+)", answers),
    (r"commit (\d+) is an update by ([\w ]+?)(?: in view (\d+))?", is_update),
    (r"commit (\d+) is a skip(?: in view (\d+))?", is_skip),
    (r"commit (\d+) is a recovery", is_recovery),
    (rf"{NAMES} (?:is|are) in epoch (\d+)", in_epoch),
    (rf"the ledgers? of {NAMES} begins? after round (\d+)", begins_after),
    (rf"{NAME} has taken no commit up to (\d+)", took_none),
    (rf"{NAME} says: (.+)", says),
    (r"(\d+) of a committee voted for commit (\d+)", committee_voted),
    (r"the committees of rounds (\d+) to (\d+) are not all the same", committees_differ),
    (rf"in round (\d+) {NAME} is (worker|witness|paused)", has_role),
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
    (rf"{NAMES} (?:is|are) (training|offered|voting|joining|catching up|witnessing|gathering|paused)", phase),
    (r"nobody was rejected", nobody_rejected),
    (rf"{NAMES} never {DEED}", quiet),
)
