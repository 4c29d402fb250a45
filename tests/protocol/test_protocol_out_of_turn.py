"""What comes too early, too late or to somebody else: it changes nothing that it should not."""

from __future__ import annotations

import dataclasses

import pytest
from forgeries import body
from protocol_samples import RULES, digest, key, manifest, member, peer, votes
from swarm_driver import Machine, Order, Swarm
from transcript_story import Story, essence
from transcripts import say

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.commits import Kind
from atoll.protocol.duties.leader import STRAY
from atoll.protocol.ids import BlobRef
from atoll.protocol.keys import Signer
from atoll.protocol.ledger import Ledger
from atoll.protocol.manifest import RoundRules
from atoll.protocol.peer import Peer, PeerConfig, Saved
from atoll.protocol.roster import Role

NAMES = ["coordinator", "w1", "w2", "w3"]
BLOB = BlobRef(digest("a blob"), 333)


def story(*sentences: str, names: list[str] = NAMES, rules: RoundRules = RULES) -> Story:
    """`w1` leads round 1, then `w2`; some time has passed."""
    swarm = Swarm(names, [], rules, Order(("w1", "w2"), ("w2", "w3", "w1")))
    swarm.deliver()
    told = Story(swarm)
    for sentence in ("1000 ms pass", *sentences):
        say(told, sentence)
    return told


def taken(told: Story, name: str, event: e.Event) -> tuple[Peer, list[a.Action], bool]:
    """The peer after an event, what it wants, and whether it is as it was."""
    machine: Machine = told.swarm.machines[name]
    before = essence(told.peer(name))
    actions = machine.take(event)
    return told.peer(name), actions, essence(told.peer(name)) == before


def stateless(told: Story, name: str) -> Peer:
    """The process starts again, and its disk lost the state."""
    told.swarm.kill(name)
    told.swarm.machines[name].disk.states.clear()
    told.swarm.machines[name].start()
    found = told.peer(name)
    assert not found.ready
    return found


# ---- the shell reports what nobody waits for ----------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        e.Encoded(9, (BLOB,)),
        e.Encoded(1, (BLOB,)),
        e.Trained(9, 1000, 10),
        e.Progress(9, 5),
        e.StateLoaded(5, digest("a state"), ()),
        e.BlobFailed(digest("nobody's blob")),
        e.PeerLost(peer("w9")),
        e.PeerLost(peer("w2")),
        e.TimerFired(e.Timer("exchange", 1)),
        e.TimerFired(e.Timer("deadline", 7)),
        e.TimerFired(e.Timer("deadline", 1, 3)),
    ],
    ids=str,
)
def test_what_is_not_waited_for_changes_nothing(event: e.Event) -> None:
    _, actions, same = taken(story(), "w2", event)
    assert actions == []
    assert same


def test_progress_is_what_the_leader_hears() -> None:
    told = story()
    p, actions, _ = taken(told, "w2", e.Progress(1, 7))
    assert (p.progress, actions) == (7, [])
    told.swarm.pass_time(3000)
    sent = [x.message for x in told.swarm.machines["w2"].log if isinstance(x, a.Send)]
    assert m.Alive(1, 0, 7) in sent


def test_a_sum_of_another_round_is_kept_and_not_sent() -> None:
    p, actions, _ = taken(story(), "w2", e.Aggregated(5, 0, 1, 0, BLOB))
    assert actions == []
    assert BLOB.digest in p.held


def test_a_state_that_could_not_be_had_is_asked_for_again() -> None:
    told = story("w1 w2 w3 train", "deliver")
    p = stateless(told, "w3")
    told.swarm.pass_time(600, lambda: p.catchup.loading is not None)
    assert p.catchup.loading == 1
    told.swarm.chores.clear()
    taken(told, "w3", e.StateFailed(1))
    assert p.catchup.needs_state(p.ledger)
    told.swarm.pass_time(3000)
    assert p.ready


# ---- who cannot judge yet -----------------------------------------------------------------------


def test_offers_from_a_wrong_anchor_are_found_out_once_the_anchor_is_known() -> None:
    told = story()
    p = stateless(told, "w1")
    offer = m.Offer(
        1,
        0,
        digest("another anchor"),
        1000,
        10,
        tuple(BlobRef(digest(str(part)), size) for part, size in enumerate(p.terms.part_bytes)),
    )
    _, actions, _ = taken(told, "w1", e.Received(peer("w2"), offer))
    assert actions == []
    assert p.leading is not None
    assert set(p.leading.offers) == {peer("w2")}
    told.swarm.pass_time(4000)
    assert p.ready
    assert not p.leading.offers
    refused = [x for x in told.swarm.machines["w1"].log if isinstance(x, a.Rejected)]
    assert refused == [a.Rejected(peer("w2"), STRAY)]


def test_a_promise_of_a_body_waits_until_it_can_be_judged() -> None:
    told = story("w1 dies", "w2 sees that w1 is gone")
    sound = body(told.peer("w2"))
    p = stateless(told, "w2")
    assert p.view == 1
    promise = e.Received(peer("w3"), m.Promise(1, 1, (0, sound)))
    _, actions, _ = taken(told, "w2", promise)
    assert p.leading is not None
    assert peer("w3") not in p.leading.promises
    assert actions == []
    told.swarm.pass_time(4000, lambda: p.ready)
    taken(told, "w2", promise)
    assert p.leading.promises[peer("w3")] == (0, sound)


def test_a_leader_does_not_ask_to_be_borne_for_ever() -> None:
    told = story("w2 trains", rules=dataclasses.replace(RULES, train_ms_max=3000))
    told.swarm.pass_time(2500)
    p = told.peer("w1")
    assert p.view == 0
    borne_ms = p.patience_end_ms
    told.swarm.now_ms = p.since_ms + 3001
    p.handle(e.Progress(1, 1), told.swarm.now_ms)
    assert p.leading is None or p.leading.body is not None or p.patience_end_ms == borne_ms


# ---- messages that are not for this moment ------------------------------------------------------


def test_a_vote_of_one_that_does_not_vote_this_round_is_refused() -> None:
    names = ["coordinator", *(f"w{number}" for number in range(1, 7))]
    swarm = Swarm(names, [], dataclasses.replace(RULES, voters_max=3), Order())
    swarm.deliver()
    told = Story(swarm)
    leader = told.name(told.peer("coordinator").leader)
    for sentence in ("1000 ms pass", "w1 w2 w3 w4 w5 w6 train", f"deliver until {leader} proposes"):
        say(told, sentence)
    p = told.peer(leader)
    assert p.leading is not None
    assert p.leading.body is not None
    silent = told.name(p.terms.others[0])
    ((_, signature),) = votes(p.leading.body, (silent,))
    vote = m.Vote(1, 0, p.leading.body.digest, signature)
    _, actions, _ = taken(told, leader, e.Received(peer(silent), vote))
    assert a.Rejected(peer(silent), "you do not vote this round") in actions
    assert peer(silent) not in p.leading.votes


def test_a_cut_of_before_is_not_followed() -> None:
    told = story("w1 w2 w3 train", "deliver until w2 hands in its sum")
    p = told.peer("w2")
    cut = p.owning.cut
    assert cut is not None
    for older in (cut, dataclasses.replace(cut, revision=cut.revision - 1)):
        _, actions, same = taken(told, "w2", e.Received(peer("w1"), older))
        assert same
        assert actions == []


def test_a_message_of_a_round_to_come_makes_a_peer_ask_now_and_then() -> None:
    told = story()
    p = told.peer("w2")
    ahead = e.Received(peer("w3"), m.Alive(5, 0, 1))
    _, actions, _ = taken(told, "w2", ahead)
    assert actions == [a.Send((peer("w3"),), m.AskCommits(1))]
    _, actions, _ = taken(told, "w2", ahead)
    assert actions == []
    told.swarm.now_ms += p.rules.retry_ms
    _, actions, _ = taken(told, "w2", ahead)
    assert len(actions) == 1


@pytest.mark.parametrize("message", [m.Elsewhere(1), m.Elsewhere(9), m.AskCommits(1), m.Alive(1, 0, 1)])
def test_a_message_of_a_later_epoch_makes_a_peer_ask(message: m.Message) -> None:
    told = story()
    _, actions, _ = taken(told, "w2", e.Received(peer("w3"), message, epoch=3))
    assert actions == [a.Send((peer("w3"),), m.AskCommits(1))]


@pytest.mark.parametrize(
    "message", [m.Elsewhere(1), m.Elsewhere(9), m.AskCommits(9), m.Alive(9, 4, 1), m.Seal(9, 9, b"")]
)
def test_a_message_of_an_older_epoch_is_answered_with_what_leads_to_this_one(message: m.Message) -> None:
    told = story("w1 w2 w3 train", "deliver", "the authority recovers", "deliver")
    p = told.peer("w2")
    assert p.ledger.epoch == 1
    _, actions, _ = taken(told, "w2", e.Received(peer("w3"), message, epoch=0))
    (action,) = actions
    assert isinstance(action, a.Send)
    assert isinstance(action.message, m.Commits)
    rounds = [commit.body.round for commit in action.message.commits]
    assert rounds == list(range(min(message.round, 2), 3))
    assert action.message.commits[-1].body.kind is Kind.RECOVERY
    assert action.epoch == 1


def test_a_seal_that_is_ahead_of_its_commit_is_not_lost() -> None:
    """The authority heard of the commit on another way, and says once that it signed it."""
    rules = dataclasses.replace(RULES, snapshot_rounds=2, keep_rounds=2)
    told = story("w1 w2 w3 train", "deliver", "w3 dies", "w1 w2 train", rules=rules)
    log = told.swarm.machines["coordinator"].log

    def seals() -> list[m.Seal]:
        return [x.message for x in log if isinstance(x, a.Send) and isinstance(x.message, m.Seal)]

    told.swarm.pass_time(20_000, lambda: bool(seals()))
    (seal,) = seals()
    assert seal.at == 2
    say(told, "w3 starts again")
    p, actions, _ = taken(told, "w3", e.Received(peer("coordinator"), seal))
    assert (p.ledger.height, actions, p.sealed) == (1, [], None)
    told.swarm.pass_time(6000, lambda: p.ledger.height == 2)
    assert p.ledger.height == 2
    assert p.sealed is not None
    assert p.sealed.round == 2
    told.swarm.pass_time(4000)
    for _ in range(2):
        say(told, "w1 w2 w3 train")
        told.swarm.pass_time(4000)
    assert p.ledger.begin == 2


# ---- alone, going, resting ----------------------------------------------------------------------


def lonely(name: str, authority: Signer | None = None) -> Peer:
    """One that knows the manifest and nobody."""
    made = manifest()
    ledger = Ledger(made.genesis(digest("a lonely run")))
    config = PeerConfig(made, member(name).role, lambda fragment, parts: (333,) * parts, authority=authority)
    p = Peer(config, key(name), ledger, Saved())
    p.handle(e.Started(), 0)
    return p


def test_who_knows_nobody_asks_nobody() -> None:
    p = lonely("coordinator")
    p.found = ()
    actions = p.handle(e.TimerFired(e.Timer("retry", 1)), 500)
    assert not [x for x in actions if isinstance(x, a.Send)]


def test_an_outsider_that_leaves_tells_nobody() -> None:
    p = lonely("w1")
    actions = p.handle(e.Finish(), 0)
    assert actions == [a.Ended("left")]
    assert p.role is Role.WORKER


def test_a_recovery_needs_the_key_and_a_state() -> None:
    for p in (lonely("w1"), lonely("coordinator"), lonely("coordinator", key("authority"))):
        assert p.handle(e.Recover(), 0) == []
        assert p.why.startswith("cannot recover the run")
        assert p.ledger.height == 0


def test_who_finishes_before_it_has_trained_says_so() -> None:
    told = story("w2 finishes")
    told.swarm.pass_time(1200)
    sent = [x.message for x in told.swarm.machines["w2"].log if isinstance(x, a.Send)]
    assert m.Leave(1, "finish") in sent


def test_a_witness_that_is_told_to_pause_witnesses() -> None:
    told = story()
    p, actions, _ = taken(told, "coordinator", e.Pause(True))
    assert (p.role, actions) == (Role.WITNESS, [])


def test_pausing_twice_says_it_again_and_no_more() -> None:
    told = story()
    for _ in range(2):
        p, actions, _ = taken(told, "w3", e.Pause(True))
        (action,) = actions
        assert isinstance(action, a.Send)
        assert action.message == m.Join(1, Role.PAUSED)
    p, actions, _ = taken(told, "w3", e.Pause(False))
    assert (p.role, actions) == (Role.WORKER, [])


def test_nobody_passes_commits_on_to_itself() -> None:
    swarm = Swarm(NAMES, ["w4"], RULES, Order(("w1", "w2"), ("w2", "w3", "w1")))
    swarm.machines["w4"].start()
    told = Story(swarm)
    p, _, _ = taken(told, "w4", e.Received(peer("w4"), m.AskCommits(1)))
    assert p.following == {}
    p, _, _ = taken(told, "w4", e.Received(peer("w9"), m.AskCommits(1)))
    assert p.following.keys() == {peer("w9")}
