"""Owning parts: fetch the columns of the plan, report what is held, sum, and say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.duties import rounds
from atoll.protocol.ids import PeerId
from atoll.protocol.replicas import name_of
from atoll.protocol.terms import contributors_objection

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer

EARLY_VOTERS_MAX = 32
"""Where more vote, they get the update once it is proposed: to tell everybody of each part costs more."""


def react(peer: Peer) -> None:
    """Fetch what is missing, sum what is complete, report what has settled since the last report."""
    if not peer.owning.parts:
        return
    if peer.owning.asking:
        for contributor, ref in peer.owning.missing():
            peer.fetch(ref, (contributor,), "contribution")
    peer.out += peer.owning.sums(peer.terms.in_sum)
    for report in peer.owning.reports(peer.reported):
        peer.reported[report.part] = len(report.peers)
        peer.tell(peer.leader, report)
    for reduced in peer.owning.news():
        peer.tell(peer.leader, reduced)


def on_plan(peer: Peer, sender: PeerId, plan: m.Plan) -> None:
    if not rounds.obey(peer, sender, plan.view):
        return
    if reason := _plan_objection(peer, plan):
        peer.refuse(peer.leader, reason)
        return
    hold_ms = peer.terms.deadline_ms // 4
    if peer.terms.replicated and peer.owning.named != name_of(plan.participants):
        if plan.revision <= peer.owning.begun:
            return  # of an exchange that was given up
        peer.owning.renew(plan, peer.now_ms + hold_ms)
        peer.reported.clear()
    if peer.owning.plan(plan, peer.held):
        peer.timer("hold", hold_ms)
        peer.why = f"exchange among {len(plan.participants)}"
        if not peer.planned:
            peer.planned = True
            peer.syncs.begin(peer.now_ms)
            rounds.bear(peer)


def _plan_objection(peer: Peer, plan: m.Plan) -> str | None:
    if peer.rules.exchange == "sparse":
        return "nobody owns parts in a sparse exchange"
    sizes = peer.terms.part_bytes
    for column in plan.columns:
        if column.part >= len(sizes) or len(column.blobs) != len(plan.participants):
            return "a column of the plan does not fit its participants"
        if any(ref.size != sizes[column.part] for ref in column.blobs):
            return "a column of the plan has parts of other sizes than the codec gives"
    return contributors_objection(peer.terms, plan.participants)


def on_cut(peer: Peer, sender: PeerId, cut: m.Cut) -> None:
    if not rounds.obey(peer, sender, cut.view):
        return
    if reason := contributors_objection(peer.terms, cut.contributors):
        peer.refuse(peer.leader, reason)
    elif peer.owning.cut is None or cut.revision > peer.owning.cut.revision:
        peer.owning.follow(cut)
        rounds.bear(peer)
        peer.why = f"sums {len(cut.contributors)} contributions"


def on_hold(peer: Peer) -> None:
    """What has not arrived by now is left out of the cut; the timer may be of a plan that was given up."""
    if peer.now_ms >= peer.owning.hold_end_ms:
        peer.owning.impatient()


def on_aggregated(peer: Peer, event: e.Aggregated) -> None:
    peer.has(event.blob.digest)
    if (event.round, event.view) != (peer.round, peer.view) or not peer.owning.aggregated(event):
        return
    if len(peer.terms.voters) <= EARLY_VOTERS_MAX and not peer.terms.two_thirds:
        summed = m.Summed(event.round, event.view, event.part, event.blob)
        peer.post([(peer.terms.voters_but(peer.me), summed)])
