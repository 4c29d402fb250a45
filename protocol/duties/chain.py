"""The ledger and the state behind it: taking in commits, catching up, and helping others to; joiners."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.admission import refusal
from atoll.protocol.duties import rounds
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import PeerId, short
from atoll.protocol.ledger import Commit
from atoll.protocol.proofs import Farewell, Joining, joining_message
from atoll.protocol.proven import farewell_objection, joining_objection

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer

JOINERS_MAX = 1024
COMMITS_BYTES_MAX = 256 << 10


def react(peer: Peer) -> None:
    """Bring the state one step nearer to the ledger's head."""
    for action in peer.catchup.step(peer.ledger, peer.held, peer.me):
        if isinstance(action, a.Fetch):
            peer.fetch(action.ref, action.holders, action.kind)
        else:
            peer.out.append(action)


def adopt(peer: Peer, commits: tuple[Commit, ...], tell: Collection[PeerId] = ()) -> str | None:
    """Take certified commits in order, pass the first on, go to the next round; why not, if not."""
    height, fault = peer.ledger.height, None
    for commit in commits:
        if commit.body.round <= peer.ledger.height:
            continue
        try:
            peer.ledger.append(commit, peer.signer)
        except RemoteProtocolError as error:
            fault = str(error)
            break
        peer.out.append(a.Persist(a.Committed(commit)))
    if peer.ledger.height > height:
        _move_on(peer, peer.ledger.commit(height + 1), tell)
    return fault


def _move_on(peer: Peer, first: Commit, tell: Collection[PeerId]) -> None:
    """Settle what this peer did for the round that is over, and enter the one after the last commit."""
    if tell:
        peer.out.append(a.Send(tuple(tell), m.Commits(peer.round, (first,), peer.ledger.height)))
    if peer.training == first.body.round:
        included = any(c.peer == peer.me for c in first.body.contributors)
        peer.out.append(a.Settle(peer.training, included, peer.rules.late))
    peer.why = f"commit {peer.ledger.height} ({peer.ledger.commits[-1].body.kind.name.lower()})"
    for member in peer.ledger.members:
        peer.joiners.pop(member.peer, None)
        peer.joinings.pop(member.peer, None)
    rounds.enter_round(peer)


# ---- commits ------------------------------------------------------------------------------------


def answer_old(peer: Peer, sender: PeerId, round_: int) -> None:
    """One that lags gets the commits it lacks; once in a round is enough, it asks if they were lost."""
    if sender != peer.me and sender not in peer.answered and len(peer.answered) < JOINERS_MAX:
        peer.answered.add(sender)
        _send_commits(peer, sender, round_)


def ask_new(peer: Peer, sender: PeerId) -> None:
    """Somebody is ahead: ask for what this peer lacks, now and then."""
    if peer.now_ms - peer.asked_ms >= peer.rules.retry_ms:
        peer.asked_ms = peer.now_ms
        peer.tell(sender, m.AskCommits(peer.round))


def _send_commits(peer: Peer, to: PeerId, round_: int) -> None:
    commits = peer.ledger.since(round_, COMMITS_BYTES_MAX)
    if commits:
        peer.tell(to, m.Commits(peer.round, commits, peer.ledger.height))


def on_ask_commits(peer: Peer, sender: PeerId, ask: m.AskCommits) -> None:
    if ask.round > peer.round:
        ask_new(peer, sender)
    elif ask.round < peer.round:
        _send_commits(peer, sender, ask.round)


def on_commits(peer: Peer, sender: PeerId, message: m.Commits) -> None:
    before = peer.ledger.height
    if message.commits and message.commits[0].body.round > before + 1:
        return ask_new(peer, sender)
    if fault := adopt(peer, message.commits):
        peer.refuse(sender, fault)
    elif message.height > peer.ledger.height > before:
        peer.tell(sender, m.AskCommits(peer.round))
    return None


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
    if sender not in peer.terms.voters and (sender in peer.joiners or len(peer.joiners) < JOINERS_MAX):
        peer.joiners[sender] = (join.role, peer.now_ms)
        if peer.terms.two_thirds:
            peer.joinings[sender] = Joining(sender, join.round, join.token, join.signature)
    return None


def _join_objection(peer: Peer, sender: PeerId, join: m.Join) -> str | None:
    rules = peer.config.manifest.membership
    if not peer.terms.two_thirds:
        return refusal(rules, peer.terms.run_id, sender, join.role, join.token)
    wish = Joining(sender, join.round, join.token, join.signature)
    return joining_objection(peer.terms, wish, join.role, rules, peer.ledger.banned, peer.signer.verify)


def joining(peer: Peer) -> bytes:
    """This peer's own word that it wants to join, where a leader's is not enough."""
    if not peer.terms.two_thirds:
        return b""
    return peer.signer.sign(joining_message(peer.terms.run_id, peer.round, peer.config.role))


def on_leave(peer: Peer, sender: PeerId, leave: m.Leave) -> None:
    if abs(leave.round - peer.round) > 1:
        return None  # of long ago: it may have come back since
    if peer.terms.two_thirds:
        return take_farewell(peer, Farewell(sender, leave.round, leave.signature))
    peer.joiners.pop(sender, None)
    if sender in peer.terms.voters:
        peer.leavers.add(sender)
    return None


def take_farewell(peer: Peer, farewell: Farewell) -> None:
    """Keep a member's own word that it goes, for the next body."""
    if farewell.peer in peer.terms.voters:
        if reason := farewell_objection(peer.terms, farewell, peer.signer.verify):
            return peer.refuse(farewell.peer, reason)
        peer.farewells[farewell.peer] = farewell
    return None


def on_found(peer: Peer, event: e.Found) -> None:
    peer.found = event.peers[:JOINERS_MAX]


def on_refuse(peer: Peer, sender: PeerId, refuse: m.Refuse) -> None:
    if not peer.is_member:
        peer.why = f"{short(sender)} refused: {refuse.reason}"
