"""The ledger and the state behind it: taking in commits, catching up, and helping others to; joiners."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol import private, relay
from atoll.protocol.admission import refusal
from atoll.protocol.commits import COMMITS_BYTES_MAX, Body, Commit, Kind, Snapshot
from atoll.protocol.duties import ahead, recovery, repeat, rounds
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import PeerId, short
from atoll.protocol.proofs import Farewell, Joining, joining_message
from atoll.protocol.proven import farewell_objection, joining_objection
from atoll.protocol.replicas import counts
from atoll.protocol.roster import MEMBERS_MAX, Role
from atoll.protocol.terms import groups_in

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer

JOINERS_MAX = MEMBERS_MAX
FOLLOWERS_MAX = relay.FAN_OUT
FOUND_ASKED = 2


def react(peer: Peer) -> None:
    """Bring the state one step nearer to the ledger's head."""
    if peer.ready:
        return
    for action in peer.catchup.step(peer.ledger, peer.held, peer.me):
        if isinstance(action, a.Fetch):
            peer.fetch(action.ref, action.holders, action.kind)
        else:
            peer.out.append(action)


def adopt(peer: Peer, commits: tuple[Commit, ...], tell: Collection[PeerId] = ()) -> str | None:
    """Take certified commits in order, pass the first on, go to the next round; why not, if not."""
    height, first, fault = peer.ledger.height, None, None
    for commit in commits:
        again = commit.body.round <= peer.ledger.height
        if again and not peer.ledger.replaces(commit):
            continue
        try:
            peer.ledger.append(commit, peer.signer)
        except RemoteProtocolError as error:
            fault = str(error)
            break
        if again:
            _rewind(peer, commit.body.round)
        peer.out.append(a.Persist(a.Committed(commit)))
        first = first or commit
    if first is not None:
        _move_on(peer, min(height, first.body.round - 1), first, tell)
    return fault


def _rewind(peer: Peer, round_: int) -> None:
    """A recovery took the place of commits that this peer had: so did the state that they led to."""
    peer.out.append(a.Persist(a.Rewound(round_)))
    peer.catchup.rewound(round_)
    peer.sealed = peer.early_seal = None
    if not peer.finishing:
        peer.ended = None  # a run that was complete goes on, as its last updates are history no more
    _give_up_work(peer)


def _give_up_work(peer: Peer) -> None:
    """The ledger jumped: nothing that was trained for is one of its rounds any more."""
    peer.ahead = {}
    for round_ in peer.working.drop():
        peer.out.append(a.Settle(round_, False, peer.rules.given_up))


def _move_on(peer: Peer, height: int, first: Commit, tell: Collection[PeerId]) -> None:
    """Settle what this peer did for the round that is over, and enter the one after the last commit."""
    tell = dict.fromkeys((*(tell or relay.receivers(peer.terms, peer.me)), *_following(peer)))
    if tell:
        news = m.Commits(peer.round, (first,), peer.ledger.height)
        peer.out.append(a.Send(tuple(tell), news, peer.ledger.epoch))
    for round_ in range(first.body.round, peer.ledger.height + 1):
        if round_ in peer.working.work:
            _settle(peer, peer.ledger.commit(round_).body)
    peer.why = f"commit {peer.ledger.height} ({peer.ledger.commits[-1].body.kind.name.lower()})"
    rounds.enter_round(peer)
    ahead.begin(peer)
    for who in peer.joiners.keys() & peer.terms.places.keys():
        if peer.terms.role_of(who) is peer.joiners[who][0]:
            del peer.joiners[who]
            peer.joinings.pop(who, None)
    recovery.seal(peer, height)


def _settle(peer: Peer, body: Body) -> None:
    """What a round made of this peer's work for it. Late work may be for the next round now."""
    groups = groups_in(body.before, body.round, peer.rules) if peer.rules.replicated else ()
    included = counts(body, peer.me, groups)
    if not included and _merges(peer):
        moved = body.kind is Kind.UPDATE
        if peer.working.late(body.round, moved, peer.rules.staleness_max):
            return
    begun = peer.working.settle(body.round)
    assert begun is not None
    peer.out.append(a.Settle(begun, included, peer.rules.given_up))


def _merges(peer: Peer) -> bool:
    """Whether a later round may take this peer's late work: it is to be one of its workers."""
    if peer.rules.late != "merge" or peer.finishing or peer.role is not Role.WORKER:
        return False
    return any(member.peer == peer.me and member.role is Role.WORKER for member in peer.ledger.members)


def audience(peer: Peer, commit: Commit) -> tuple[PeerId, ...]:
    """Whom the leader itself tells: those who vote, those who join, and its place in the tree."""
    body = commit.body
    joined = {member.peer for member in body.members} - peer.terms.places.keys()
    told = {*peer.terms.voters, *joined, *relay.receivers(peer.terms, peer.me)}
    return tuple(sorted(told - {peer.me}))


def rebase(peer: Peer, snapshot: Snapshot) -> None:
    """Begin the ledger after this snapshot."""
    peer.ledger.rebase(snapshot)
    peer.out.append(a.Persist(a.Rebased(snapshot, tuple(peer.ledger.commits))))


# ---- commits ------------------------------------------------------------------------------------


def answer_old(peer: Peer, sender: PeerId, round_: int) -> None:
    """One that lags gets the commits it lacks; once in a round is enough, it asks if they were lost."""
    if sender != peer.me and sender not in peer.answered and len(peer.answered) < JOINERS_MAX:
        peer.answered.add(sender)
        _send_commits(peer, sender, round_)


def answer_epoch(peer: Peer, sender: PeerId, message: m.Message, epoch: int) -> None:
    """One of an earlier epoch gets the commits that lead to this one."""
    round_ = min(message.round, peer.ledger.first_after(epoch))
    if isinstance(message, m.AskCommits):
        _send_commits(peer, sender, round_)
    else:
        answer_old(peer, sender, round_)


def ask_new(peer: Peer, sender: PeerId) -> None:
    """Somebody is ahead: ask for what this peer lacks, now and then."""
    if peer.now_ms - peer.asked_ms >= peer.rules.retry_ms:
        peer.asked_ms = peer.now_ms
        peer.tell(sender, m.AskCommits(peer.round))


def _send_commits(peer: Peer, to: PeerId, round_: int) -> None:
    """Commits from a round on; before them the snapshot that they follow, if the receiver lacks that too."""
    ledger = peer.ledger
    commits = ledger.since(round_, COMMITS_BYTES_MAX)
    snapshot = ledger.base if round_ <= ledger.begin else None
    if commits or snapshot:
        peer.tell(to, m.Commits(peer.round, commits, ledger.height, snapshot))


def on_ask_commits(peer: Peer, sender: PeerId, ask: m.AskCommits) -> None:
    follows = sender != peer.me and sender not in peer.terms.places
    if follows and (sender in peer.following or len(peer.following) < FOLLOWERS_MAX):
        peer.following[sender] = peer.now_ms
    if ask.round > peer.round:
        ask_new(peer, sender)
    elif ask.round < peer.round:
        _send_commits(peer, sender, ask.round)


def on_commits(peer: Peer, sender: PeerId, message: m.Commits) -> None:
    if message.snapshot is not None:
        _take_snapshot(peer, sender, message.snapshot)
    before = peer.ledger.height
    if not message.commits or message.commits[0].body.round > before + 1:
        return ask_new(peer, sender) if message.height > before else None
    if fault := adopt(peer, message.commits):
        peer.refuse(sender, fault)
    elif message.height > peer.ledger.height > before:
        peer.tell(sender, m.AskCommits(peer.round))
    elif peer.ledger.height > before and peer.catchup.needs_state(peer.ledger):
        ask_state(peer)
    return None


def _following(peer: Peer) -> list[PeerId]:
    """Who is no member and asked for commits lately: it is told of the next ones, too.

    Rounds may be so much shorter than a retry that it would never come near otherwise.
    """
    since_ms = peer.now_ms - 2 * peer.rules.retry_ms
    for who in [who for who, at_ms in peer.following.items() if at_ms < since_ms or who in peer.terms.places]:
        del peer.following[who]
    return list(peer.following)


def _take_snapshot(peer: Peer, sender: PeerId, snapshot: Snapshot) -> None:
    """Go on from what the authority signed, if that is further than this peer came, or of a later epoch."""
    ledger = peer.ledger
    if (snapshot.epoch, snapshot.round) <= (ledger.epoch, ledger.height):
        return
    try:
        ledger.check_snapshot(snapshot, peer.signer)
    except RemoteProtocolError as error:
        peer.refuse(sender, str(error))
        return
    if snapshot.epoch > ledger.epoch:
        _rewind(peer, 1)
    else:
        _give_up_work(peer)
    rebase(peer, snapshot)
    rounds.enter_round(peer)


# ---- states -------------------------------------------------------------------------------------


def ask_state(peer: Peer) -> None:
    """Ask one of the others for its state, another one each time."""
    if others := peer.others():
        peer.tell(others[peer.retries % len(others)], m.AskState(max(0, peer.catchup.round)))


def on_ask_state(peer: Peer, sender: PeerId, ask: m.AskState) -> None:
    state = peer.catchup.state
    if state is not None and state.round >= ask.round:
        peer.tell(sender, m.State(state.round, state.anchor, state.blobs))


def on_state(peer: Peer, sender: PeerId, state: m.State) -> None:
    sizes = tuple(ref.size for ref in peer.config.manifest.anchor_blobs)
    if tuple(ref.size for ref in state.blobs) != sizes:
        peer.refuse(sender, "your state has other sizes than the manifest's model")
        return
    if not _vouched(peer, sender, state):
        return
    load = peer.catchup.take(state, sender, peer.ledger, peer.others())
    if load is not None:
        peer.why = f"fetches the state of round {state.round}"
        peer.out.append(load)
    elif state.round > peer.ledger.height:
        ask_new(peer, sender)


def _vouched(peer: Peer, sender: PeerId, state: m.State) -> bool:
    """Whether a state that no commit has confirmed yet is the word of more members than may lie."""
    if not peer.terms.two_thirds or state.round != peer.ledger.height or state.round == 0:
        return True
    if sender not in peer.terms.voters:
        return False
    peer.vouchers[sender] = state.anchor
    return sum(anchor == state.anchor for anchor in peer.vouchers.values()) > peer.terms.liars_max


def on_state_loaded(peer: Peer, event: e.StateLoaded) -> None:
    peer.catchup.loaded(event)
    if not peer.is_member:
        repeat.ask_for_role(peer)


def on_state_failed(peer: Peer, event: e.StateFailed) -> None:
    peer.catchup.loading = None


# ---- coming and going ---------------------------------------------------------------------------


def on_join(peer: Peer, sender: PeerId, join: m.Join) -> None:
    """Somebody who holds the state wants to be a member; a few rounds behind it can still replay.

    Asking for the very last state would keep joiners out of runs whose rounds are shorter than a retry.
    """
    if join.round > peer.round:
        return ask_new(peer, sender)
    if join.round < peer.round:
        answer_old(peer, sender, join.round)
        if join.round < peer.round - peer.rules.keep_rounds // 2:
            return None
    if reason := _join_objection(peer, sender, join):
        return peer.refuse(sender, reason)
    peer.leavers.discard(sender)
    known = sender in peer.joiners or len(peer.joiners) < JOINERS_MAX
    if peer.terms.role_of(sender) is not join.role and known:
        peer.joiners[sender] = (join.role, peer.now_ms, join.shard)
        if peer.terms.two_thirds:
            peer.joinings[sender] = Joining(sender, join.round, join.token, join.signature)
    return None


def _join_objection(peer: Peer, sender: PeerId, join: m.Join) -> str | None:
    rules = peer.config.manifest.membership
    if reason := private.refusal(peer.rules, join.role, join.shard):
        return reason
    if not peer.terms.two_thirds:
        return refusal(rules, peer.terms.run_id, sender, join.role, join.token)
    wish = Joining(sender, join.round, join.token, join.signature)
    return joining_objection(peer.terms, wish, join.role, rules, peer.ledger.banned, peer.signer.verify)


def joining(peer: Peer) -> bytes:
    """This peer's own word that it wants to join, where a leader's is not enough."""
    if not peer.terms.two_thirds:
        return b""
    return peer.signer.sign(joining_message(peer.terms.place, peer.role))


def on_leave(peer: Peer, sender: PeerId, leave: m.Leave) -> None:
    if abs(leave.round - peer.round) > 1:
        return None  # of long ago: it may have come back since
    if peer.terms.two_thirds:
        return take_farewell(peer, Farewell(sender, leave.round, leave.signature))
    peer.joiners.pop(sender, None)
    if sender in peer.terms.places:
        peer.leavers.add(sender)
    return None


def take_farewell(peer: Peer, farewell: Farewell) -> None:
    """Keep a member's own word that it goes, for the next body."""
    if farewell.peer in peer.terms.places:
        if reason := farewell_objection(peer.terms, farewell, peer.signer.verify):
            return peer.refuse(farewell.peer, reason)
        peer.farewells[farewell.peer] = farewell
    return None


def on_found(peer: Peer, event: e.Found) -> None:
    """Know them; who has nothing yet asks the first whom it finds at once, whoever of the genesis is gone."""
    first, peer.found = not peer.found, event.peers[:JOINERS_MAX]
    if first and peer.catchup.state is None:
        for other in peer.found[:FOUND_ASKED]:
            peer.tell(other, m.AskCommits(peer.round))
            peer.tell(other, m.AskState(0))


def on_refuse(peer: Peer, sender: PeerId, refuse: m.Refuse) -> None:
    if not peer.is_member:
        peer.why = f"{short(sender)} refused: {refuse.reason}"
