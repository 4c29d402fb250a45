"""A checker that catches nothing checks nothing: break one rule at a time, and see it caught."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any

import pytest

from atoll.protocol import catchup, ledger, peer, terms, weighing
from atoll.protocol import messages as m
from atoll.protocol.actions import Accepted, Apply, Encode, Promised, Proposed, Train
from atoll.protocol.catchup import Catchup
from atoll.protocol.commits import Body, Contributor, Kind, Snapshot, vote_message
from atoll.protocol.duties import chain, leader, recovery, rounds, voter, worker
from atoll.protocol.events import Recover, StateLoaded
from atoll.protocol.fragments import start_digest
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.leading import Leading
from atoll.protocol.ledger import Ledger
from atoll.protocol.participation import Gaps
from atoll.protocol.peer import Peer
from atoll.protocol.weights import UNIT
from atoll.protocol.working import Working
from atoll.simulator import host
from atoll.simulator.checkers.held_by_majority import HeldByMajority
from atoll.simulator.disk import Disk
from atoll.simulator.host import Host
from atoll.simulator.run import trial
from atoll.simulator.setting import setting

SEEDS = 60


def findings(what: str, faults: str, moments: tuple[str, ...] = (), peers: int = 4, **more: Any) -> str:
    """What the first seed that fails has to say, or an assertion that none of the seeds did."""
    chosen = dataclasses.replace(setting(peers, 6, faults), **more)
    if moments:
        chosen = dataclasses.replace(chosen, moments=moments)
    for seed in range(SEEDS):
        outcome = trial(seed, chosen)
        found = outcome.violation or outcome.stuck
        if found is not None:
            assert what in found, f"seed {seed} finds something else: {found}"
            return found
    raise AssertionError(f"none of {SEEDS} seeds found it")


def _on(monkeypatch: pytest.MonkeyPatch, timer: str, extra: Callable[[Any], None]) -> None:
    """Do something more when this timer fires."""
    usual = peer._TIMERS[timer]

    def both(one: Peer) -> None:
        usual(one)
        extra(one)

    monkeypatch.setitem(peer._TIMERS, timer, both)


def test_a_vote_before_the_blobs_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def vote_at_once(one: Peer) -> None:
        if one.proposal is not None and one.voted is None and one.ready and one.active:
            voter._vote(one, one.proposal)

    monkeypatch.setattr(voter, "react", vote_at_once)
    findings("but held by", "none")


def test_a_vote_below_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    take = voter.on_propose

    def vote_anyway(one: Peer, sender: PeerId, propose: m.Propose) -> None:
        if propose.view >= one.view or sender != one.terms.leader(propose.view):
            take(one, sender, propose)
        elif all(ref.digest in one.held for ref in propose.body.blobs):
            message = vote_message(one.terms.place, propose.view, propose.body.digest)
            signature = one.signer.sign(message)
            one.tell(sender, m.Vote(one.round, propose.view, propose.body.digest, signature))

    monkeypatch.setitem(peer._IN_ROUND, m.Propose, vote_anyway)
    findings("after promising", "freeze,partition", ("propose",))


def test_a_promise_that_a_crash_wipes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rule, broken by the disk: what was promised is not there after a restart."""
    boot = Host.boot

    def forgetful(machine: Host) -> None:
        machine.disk.promised = machine.disk.accepted = None
        boot(machine)

    monkeypatch.setattr(Host, "boot", forgetful)
    found = findings("", "crash", ("vote", "promise"))
    assert any(words in found for words in ("after promising", "hides what it accepted", "two"))


def test_a_new_leader_that_forgets_the_accepted_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leading, "bound_to", property(lambda self: None))
    findings("two histories", "crash", ("commits", "write committed"))


@pytest.mark.parametrize(
    ("record", "faults", "moments"),
    [
        (Accepted, "crash", ("vote", "promise")),
        (Promised, "crash,slow", ("prepare", "promise")),
        (Proposed, "crash", ("propose",)),
    ],
)
def test_a_record_that_is_not_on_disk_before_it_is_sent(
    record: type, faults: str, moments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Disk.write
    monkeypatch.setattr(
        Disk, "write", lambda disk, one: None if isinstance(one, record) else write(disk, one)
    )
    found = findings("", faults, moments, peers=2)
    assert any(words in found for words in ("after promising", "hides what it accepted", "two")), found


def test_a_leader_that_plans_again_in_a_view_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    boot = Host.boot

    def forgetful(machine: Host) -> None:
        machine.disk.proposed = None
        boot(machine)

    monkeypatch.setattr(Host, "boot", forgetful)
    findings("proposes two bodies", "crash", ("propose",), peers=2)


def test_a_promise_that_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    take = leader.on_promise

    def count_again(one: Peer, sender: PeerId, promise: m.Promise) -> None:
        take(one, sender, promise)
        if one.leading is not None and sender in one.leading.promises:
            one.leading.promises[PeerId(f"{sender} again")] = one.leading.promises[sender]

    monkeypatch.setitem(peer._IN_ROUND, m.Promise, count_again)
    findings("with promises of", "crash,partition,suspect")


def test_members_that_are_never_found_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lease the dead stay members, until they are a majority."""
    monkeypatch.setattr(leader, "_heard", lambda one, members: {*members})
    findings("gone for good", "wipe")


def test_an_update_applied_to_another_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest update is taken, not the one that follows the state."""
    step = Catchup.step

    def newest(one: Catchup, book: Ledger, held: Collection[Digest], me: PeerId) -> list[Any]:
        body = book.commits[-1].body if book.commits else None
        return [
            Apply(body) if isinstance(do, Apply) and body is not None and body.kind is Kind.UPDATE else do
            for do in step(one, book, held, me)
        ]

    monkeypatch.setattr(Catchup, "step", newest)
    found = findings("applies", "crash,partition")
    assert "to another state" in found or "does not hold" in found


def test_a_contribution_that_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Leading.make_body

    def twice(lead: Leading, *what: Any) -> Body:
        body = make(lead, *what)
        double = dataclasses.replace(body, contributors=(*body.contributors, *body.contributors[:1]))
        double.__dict__["encoded"] = body.encoded + b"twice"  # the wire has no words for it
        return double

    monkeypatch.setattr(Leading, "make_body", twice)
    monkeypatch.setattr(terms, "contributors_objection", lambda *what: None)
    findings("counts twice", "none")


def test_half_the_members_as_majority(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(members: int) -> int:
        return max(1, members // 2)

    monkeypatch.setattr(ledger, "majority", half)
    monkeypatch.setattr(terms, "majority", half)
    findings("are no majority", "none")


def test_a_weight_above_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def weigh_double(lead: Leading, sender: PeerId, offer: m.Offer) -> Contributor:
        return Contributor(sender, 2 * offer.tokens, offer.steps, 10_000)

    monkeypatch.setattr(Leading, "weigh", weigh_double)
    findings("is not its due", "none")


def test_an_update_that_a_peer_takes_for_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state stays behind its ledger, so it stands for a round whose anchor it does not have."""
    monkeypatch.setattr(catchup, "Kind", SimpleNamespace(UPDATE=None))
    findings("starts from", "none")


def test_one_machine_that_computes_other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As faulty memory or a fused multiply-add would."""
    apply = Host._applied

    def other_bits(machine: Host, state: StateLoaded, *what: Any) -> None:
        if machine.name == "p1":
            state = dataclasses.replace(state, blobs=state.blobs[::-1])
        apply(machine, state, *what)

    monkeypatch.setattr(Host, "_applied", other_bits)
    findings("anchors differ: p1", "none")


def test_timers_that_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    _on(monkeypatch, "retry", lambda one: [one.timer("hold", 30_000) for _ in range(8)])
    findings("timers", "none")


def test_memory_that_piles_up(monkeypatch: pytest.MonkeyPatch) -> None:
    enter = rounds.enter_round

    def leak(one: Peer) -> None:
        enter(one)
        for name in range(400):
            one.heard[PeerId(f"{one.round} {name}")] = 0

    monkeypatch.setattr(rounds, "enter_round", leak)
    findings("entries", "none")


def test_a_leader_that_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "enter_view", lambda one, view: None)
    findings("lag", "churn")


def test_messages_that_are_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peer._TIMERS, "retry", lambda one: None)
    findings("lag", "loss")


# ---- fragments, training ahead, and contributions that are the update ---------------------------


def test_a_contribution_from_an_older_fragment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker runs further ahead than there are fragments, and says that it started from the newest."""
    offer = rounds.offer

    def offer_as_if_new(one: Peer) -> None:
        if one.mine is not None:
            one.mine.anchor = one.catchup.start(one.round) or one.mine.anchor
        offer(one)

    def start_of_what_is_here(self: catchup.Catchup, round_: int) -> Digest | None:
        return self.state and start_digest(self.state.blobs, round_, self.fragments)

    monkeypatch.setattr(worker, "_ahead", lambda one: 6)
    monkeypatch.setattr(catchup.Catchup, "start", start_of_what_is_here)
    monkeypatch.setattr(rounds, "offer", offer_as_if_new)
    monkeypatch.setitem(host._PERFORM, Train, _train_unheard)
    findings("started from an older fragment", "slow", mode="streaming")


def test_a_late_contribution_that_counts_as_a_fresh_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker says that it started from the newest anchor, and the leader does not look."""
    late = Working.late

    def late_as_if_fresh(self: Working, round_: int, moved: bool, staleness_max: int) -> bool:
        return late(self, round_, False, staleness_max)

    monkeypatch.setattr(Working, "late", late_as_if_fresh)
    monkeypatch.setattr(leader, "_start", lambda one, offer: None)
    monkeypatch.setattr(Leading, "strays", lambda self, anchor: [])
    findings("started from an older fragment", "slow", late="merge")


def test_a_late_contribution_that_all_weigh_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighing, "stale", lambda staleness, staleness_max: UNIT)
    findings("is its due", "slow", late="merge")


def test_a_rare_member_that_all_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gaps, "after", lambda self, present: Gaps(UNIT, 1))
    findings("is its due", "slow", weights="participation")


def _train_unheard(machine: Host, action: Train) -> None:
    """As Host does, but for what it requires itself: that what is too far ahead was settled."""
    machine.rules = dataclasses.replace(machine.rules, overlap=9)
    Host._train(machine, action)


def test_an_offer_from_an_older_fragment_that_the_leader_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker says what it started from, and the leader does not look."""

    def take(one: Peer, sender: PeerId, offer: m.Offer) -> None:
        if rounds.follow(one, offer.view) and one.leading is not None:
            one.leading.offer(sender, offer, one.now_ms)

    def train_from_the_first_state(machine: Host, action: Train) -> None:
        newest = machine.state
        machine.state = StateLoaded(0, machine.config.manifest.anchor, machine.config.manifest.anchor_blobs)
        Host._train(machine, action)
        machine.state = newest

    monkeypatch.setitem(peer._IN_ROUND, m.Offer, take)
    monkeypatch.setattr(Leading, "strays", lambda self, anchor: [])
    monkeypatch.setitem(host._PERFORM, Train, train_from_the_first_state)
    findings("started from an older fragment", "none", mode="fragments")


def test_contributions_summed_before_all_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    step = catchup.Catchup.step

    class Everything(frozenset[Digest]):
        def __contains__(self, digest: object) -> bool:
            return True

    def step_at_once(self: catchup.Catchup, chain: ledger.Ledger, held: Any, me: PeerId) -> list[Any]:
        return step(self, chain, Everything(), me)

    monkeypatch.setattr(catchup.Catchup, "step", step_at_once)
    findings("applies an update that it does not hold", "crash,loss", mode="sparse")


def test_a_sparse_vote_before_the_contributions_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def vote_at_once(one: Peer) -> None:
        if one.proposal is not None and one.voted is None and one.ready and one.active:
            voter._vote(one, one.proposal)

    monkeypatch.setattr(voter, "react", vote_at_once)
    findings("but held by", "none", mode="sparse")


def test_a_round_that_is_for_another_fragment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms.Terms, "fragment", property(lambda self: self.updates % self.rules.fragments))
    findings("is for fragment", "loss,freeze", mode="fragments")


def test_work_that_is_settled_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(self: Working, round_: int) -> int | None:
        return self.work[round_].begun if round_ in self.work else None

    monkeypatch.setattr(Working, "settle", settle)

    def adopt_again(one: Peer, height: int, first: ledger.Commit, tell: Any) -> None:
        move_on(one, height, one.ledger.commit(max(one.ledger.begin + 1, first.body.round - 1)), tell)

    move_on = chain._move_on
    monkeypatch.setattr(chain, "_move_on", adopt_again)
    findings("twice", "none", mode="streaming")


def test_work_ahead_that_is_never_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what was done for the first of several commits is: enough without overlap."""
    move_on = chain._move_on

    def only_first(one: Peer, height: int, first: ledger.Commit, tell: Any) -> None:
        for round_ in range(first.body.round + 1, one.ledger.height + 1):
            one.working.settle(round_)
        move_on(one, height, first, tell)

    monkeypatch.setattr(chain, "_move_on", only_first)
    findings("never heard what became of", "partition,freeze,loss", mode="streaming")


def test_a_sparse_contribution_that_lives_in_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker votes for the update that it is part of, dies, and comes back without it."""

    def encode_in_memory(machine: Host, action: Encode) -> None:
        Host._encode(machine, dataclasses.replace(action, lasting=False))

    monkeypatch.setitem(host._PERFORM, Encode, encode_in_memory)
    findings("but held by", "crash", ("vote",), mode="sparse", peers=2)


# ---- epochs, snapshots, committees --------------------------------------------------------------


def test_a_recovery_that_is_taken_whatever_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then one that is heard again, or an older one, takes back what followed."""

    def replaces(book: Ledger, commit: ledger.Commit) -> bool:
        return commit.body.kind is Kind.RECOVERY and book.begin < commit.body.round

    monkeypatch.setattr(Ledger, "replaces", replaces)
    monkeypatch.setattr(Ledger, "_check_recovery", lambda *what: None)
    findings("into its ledger of", "doom,loss", peers=5)


def test_a_recovery_that_another_than_the_authority_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    def recover_alone(one: Peer) -> None:
        own = dataclasses.replace(one.config, authority=one.signer)
        if one.config.authority is None and one.view:
            one.config, usual = own, one.config
            recovery.on_recover(one, Recover())
            one.config = usual

    monkeypatch.setattr(Ledger, "_check_recovery", lambda *what: None)
    _on(monkeypatch, "deadline", recover_alone)
    findings("is not the authority's", "partition,crash")


def test_a_majority_of_all_members_where_a_committee_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Votes of members that are not in the committee count."""
    everybody = property(lambda self: self.peers)
    monkeypatch.setattr(terms.Terms, "voters", everybody)
    monkeypatch.setattr(Ledger, "voters", lambda self, round_: {m.peer for m in self.members_of(round_)})
    findings("but held by", "none", peers=6, voters=3)
    monkeypatch.delattr(HeldByMajority, "on_decided")
    findings("is of no voter", "none", peers=6, voters=3)


def test_a_ledger_that_is_cut_on_anybodys_word(monkeypatch: pytest.MonkeyPatch) -> None:
    seal = recovery.seal

    def seal_as_well(one: Peer, height: int) -> None:
        seal(one, height)
        if one.ledger.height % 3 == 0 and one.ledger.height > one.ledger.begin:
            message = one.ledger.snapshot(one.ledger.height).message(one.terms.run_id)
            said = m.Seal(one.round, one.ledger.height, one.signer.sign(message))
            one.post([(one.terms.peers, said)])

    monkeypatch.setattr(recovery, "seal", seal_as_well)
    monkeypatch.setattr(Ledger, "check_snapshot", lambda *what: None)
    findings("is not signed by the authority", "none")


def test_a_snapshot_that_counts_other_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Ledger.snapshot

    def miscounted(book: Ledger, round_: int) -> Snapshot:
        return dataclasses.replace(usual(book, round_), updates=round_)

    monkeypatch.setattr(Ledger, "snapshot", miscounted)
    findings("updates, not", "none", snapshots=3)


def test_a_state_that_outlives_its_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had a commit that a recovery took back goes on from the state that it led to."""

    def keep_the_state(one: Catchup, round_: int) -> None:
        one.applying, one.loading = 0, None

    monkeypatch.setattr(Catchup, "rewound", keep_the_state)
    findings("", "doom,partition", ("commits", "write committed"), peers=3)
