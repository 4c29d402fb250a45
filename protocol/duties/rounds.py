"""Entering rounds and views, and how long a silent leader is borne."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.duties import voter
from atoll.protocol.evidence import Notebook
from atoll.protocol.ids import PeerId, short
from atoll.protocol.leading import Leading
from atoll.protocol.owning import Owning
from atoll.protocol.proofs import farewell_message, promise_message
from atoll.protocol.terms import part_bytes_of, terms_of
from atoll.protocol.views import Views

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer

VIEW_MAX = 1 << 31


def on_started(peer: Peer, event: e.Started) -> None:
    peer.held = dict.fromkeys(event.held, peer.ledger.height)
    peer.catchup.state = event.state
    enter_round(peer)


def enter_round(peer: Peer) -> None:
    """Begin the round after the ledger's last commit, in the view that was promised for it if any."""
    rules, height = peer.rules, peer.ledger.height
    sizes = part_bytes_of(peer.ledger.members, height + 1, rules, peer.config.part_bytes)
    peer.terms, peer.round = terms_of(peer.ledger, peer.config.manifest, sizes), height + 1
    peer.since_ms, peer.asked_ms = peer.now_ms, peer.now_ms - rules.retry_ms
    peer.syncs.end(peer.now_ms)
    peer.retries = peer.hops = peer.progress = 0
    peer.answered = set()
    peer.views, peer.notebook = Views(), Notebook(peer.terms.place)
    peer.vouchers.clear()
    peer.evidence = {who: e for who, e in peer.evidence.items() if who in peer.terms.places}
    peer.farewells = {who: f for who, f in peer.farewells.items() if who in peer.terms.places}
    peer.leavers &= peer.terms.places.keys()
    peer.fetching.clear()
    kept = peer.round - rules.keep_rounds
    peer.held = {digest: round_ for digest, round_ in peer.held.items() if round_ >= kept}
    peer.out.append(a.Forget(kept))
    promised = peer.saved.promised
    start_view(peer, promised[1] if promised[0] == peer.round else 0)
    peer.timer("retry", rules.retry_ms)
    if peer.terms.complete:
        end(peer, f"the run has its {rules.rounds} updates")
    elif peer.finishing and set(peer.terms.peers) <= {peer.me}:
        end(peer, "left, as the last one")
    elif peer.finishing and not peer.is_member:
        end(peer, "left")


def start_view(peer: Peer, view: int) -> None:
    peer.view, peer.planned, peer.plan_ms = view, False, None
    peer.proposal, peer.voted, peer.fetch_failures, peer.reported = None, None, 0, {}
    peer.early = {}
    peer.prepared = peer.lock = peer.lacking = None
    leads = peer.is_member and peer.leader == peer.me
    peer.leading = Leading(peer.terms, view, peer.since_ms) if leads else None
    peer.owning = Owning(peer.round, view, len(peer.terms.part_bytes))
    peer.collecting = None
    peer.stage_ms = peer.view_ms = peer.now_ms
    bear(peer)
    if peer.is_member:
        peer.timer("deadline", peer.terms.patience_ms(view))


def due(peer: Peer, interval_ms: int) -> bool:
    """Whether something said only now and then is to be said at this retry."""
    return peer.retries % max(1, interval_ms // peer.rules.retry_ms) == 0


def bear(peer: Peer) -> None:
    """The leader showed that it goes on: bear its silence for another while."""
    peer.patience_end_ms = peer.now_ms + peer.terms.patience_ms(peer.view)
    if peer.terms.liars_max and peer.leader != peer.me:
        trained_ms = max(peer.view_ms, peer.since_ms + peer.rules.train_ms_max)
        end_ms = trained_ms + 2 * peer.terms.patience_ms(peer.view)
        peer.patience_end_ms = min(peer.patience_end_ms, end_ms)  # it may only seem to go on


def may_wait(peer: Peer) -> bool:
    """Whether a leader's word that it waits for offers still counts."""
    return peer.terms.gathering or peer.now_ms < peer.since_ms + peer.rules.train_ms_max


def enter_view(peer: Peer, view: int) -> None:
    """Promise `view`: no vote below it any more. Tell its leader what was accepted, and offer again."""
    if peer.votes:
        peer.out.append(a.Persist(a.Promised(peer.round, view)))
        peer.saved.promised = (peer.round, view)
    start_view(peer, view)
    peer.why = f"view {view}: {short(peer.leader)} leads"
    prepare(peer)
    promise(peer)
    offer(peer)
    announce(peer)


def announce(peer: Peer) -> None:
    """Where one word moves nobody, everybody must hear who is in which later view."""
    if peer.terms.two_thirds and peer.view:
        peer.post([(peer.terms.voters_but(peer.me), m.Alive(peer.round, peer.view, peer.progress))])


def hear_view(peer: Peer, sender: PeerId, message: m.Message) -> None:
    """Note which view a member is in; follow when more have gone there than may lie."""
    view = getattr(message, "view", 0)
    if sender == peer.me or not 0 < view <= VIEW_MAX:
        return
    before = together(peer)
    peer.views.hear(sender, view)
    vouched = peer.views.vouched(peer.terms.liars_max)
    if vouched > peer.view:
        enter_view(peer, vouched)
    elif not before and together(peer):
        bear(peer)


def together(peer: Peer) -> bool:
    """Whether enough members are in this view to leave it together, if they must."""
    return not peer.terms.two_thirds or peer.views.together(peer.view, peer.terms.majority)


def prepare(peer: Peer) -> None:
    """A leader that lacks promises calls for them, so that members in other views come to this one."""
    if peer.leading is not None and not peer.leading.may_propose:
        peer.post([(peer.terms.voters_but(peer.me), m.Prepare(peer.round, peer.view))])


def promise(peer: Peer) -> None:
    if not peer.votes:
        return
    accepted = peer.accepted
    if not peer.terms.two_thirds:
        peer.tell(peer.leader, m.Promise(peer.round, peer.view, accepted))
        return
    word = None if accepted is None else (accepted[0], accepted[1].digest)
    signature = peer.signer.sign(promise_message(peer.terms.place, peer.view, word))
    certificate = peer.saved.certificate if accepted is not None else ()
    peer.tell(peer.leader, m.Promise(peer.round, peer.view, accepted, signature, certificate, peer.sighting))


def offer(peer: Peer) -> None:
    """Offer the pseudo-gradient of this round, if it is there, to whoever leads now."""
    mine, bye = peer.mine, farewell(peer) if peer.finishing else b""
    if mine is not None:
        work = (mine.anchor, mine.tokens, mine.steps, mine.parts)
        train_ms = mine.train_ms if peer.terms.by_speed else 0
        slack = peer.rules.wait == "slack"
        spare_ms = peer.working.spare_ms(peer.round, peer.rules.overlap, peer.now_ms) if slack else 0
        times = (peer.config.uplink(), train_ms, spare_ms, mine.staleness)
        peer.tell(peer.leader, m.Offer(peer.round, peer.view, *work, peer.finishing, bye, *times))


def farewell(peer: Peer) -> bytes:
    """This peer's own word that it goes, where a leader's is not enough."""
    return peer.signer.sign(farewell_message(peer.terms.place)) if peer.terms.two_thirds else b""


def follow(peer: Peer, view: int) -> bool:
    """Whether a message of `view` is of my view, after entering it if it is a later one."""
    if peer.view < view <= VIEW_MAX and peer.active and not peer.terms.two_thirds:
        enter_view(peer, view)
    return view == peer.view


def obey(peer: Peer, sender: PeerId, view: int) -> bool:
    """Whether a leader's order counts: it leads that view, and the view is not below my promise."""
    if sender != peer.terms.leader(view):
        peer.refuse(sender, f"you do not lead view {view} of round {peer.round}")
        return False
    if view < peer.view:  # no fault: it does not know yet
        if sender != peer.me:
            peer.tell(sender, m.Alive(peer.round, peer.view, peer.progress))
        return False
    return follow(peer, view)


def hop(peer: Peer) -> None:
    """Leave a leader that is surely gone, without waiting; once around per deadline at most."""
    if peer.active and peer.hops < len(peer.terms.voters) and together(peer):
        peer.hops += 1
        enter_view(peer, next_view(peer))


def next_view(peer: Peer) -> int:
    """The next view whose leader is not known to be gone; just the next one if all are.

    Where some may lie all go through the same views, or too few would be together in any.
    """
    if peer.terms.two_thirds:
        return peer.view + 1
    later = range(peer.view + 1, peer.view + 1 + len(peer.terms.voters))
    return next((view for view in later if peer.terms.leader(view) not in peer.lost), peer.view + 1)


def end(peer: Peer, reason: str) -> None:
    if peer.ended is None:
        peer.ended = peer.why = reason
        peer.out.append(a.Ended(reason))


def on_deadline(peer: Peer) -> None:
    if not peer.active:
        return
    if peer.now_ms < peer.patience_end_ms:
        peer.timer("deadline", peer.patience_end_ms - peer.now_ms)
        return
    if not together(peer):
        peer.timer("deadline", peer.rules.retry_ms)
        return
    peer.hops = 0
    peer.why = f"{short(peer.leader)} led view {peer.view} for too long"
    if not peer.terms.two_thirds:  # else a lying leader could name any as who holds a blob
        peer.lost |= voter.withholding(peer)
    enter_view(peer, next_view(peer))


def on_alive(peer: Peer, sender: PeerId, alive: m.Alive) -> None:
    if follow(peer, alive.view) and peer.leading is not None and sender in peer.terms.eligible:
        peer.leading.watch.report(sender, alive.steps, peer.now_ms)


def on_prepare(peer: Peer, sender: PeerId, prepare: m.Prepare) -> None:
    obey(peer, sender, prepare.view)


def on_waiting(peer: Peer, sender: PeerId, waiting: m.Waiting) -> None:
    if obey(peer, sender, waiting.view) and sender != peer.me:
        if may_wait(peer):
            bear(peer)
        peer.why = f"{short(sender)} waits: {waiting.reason}"
