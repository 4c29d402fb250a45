"""Proofs of two-thirds runs: what justifies a proposal, what convicts, who may come and go."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

import pytest
from protocol_samples import (
    ANCHOR,
    RULES,
    RUN,
    digest,
    key,
    manifest,
    member,
    peer,
    skip,
    terms,
    update,
    votes,
)

from atoll.protocol import evidence, justify, proven
from atoll.protocol import messages as m
from atoll.protocol.commits import (
    Body,
    Commit,
    Kind,
    body_from_bytes,
    snapshot_from_bytes,
    snapshot_to_wire,
    vote_message,
)
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.evidence import Notebook
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.ledger import Genesis, Ledger
from atoll.protocol.manifest import MembershipRules, check
from atoll.protocol.proofs import (
    Equivocation,
    Farewell,
    Joining,
    Justification,
    Place,
    Signatures,
    SignedPromise,
    Stage,
    farewell_message,
    joining_message,
    prepare_message,
    promise_message,
)
from atoll.protocol.roster import MEMBERS_MAX, Presence, Role, liars_max
from atoll.protocol.terms import Terms, objection
from atoll.protocol.views import Views

PLACE = Place(RUN, 0, 1)
NAMES = ("w1", "w2", "w3", "coordinator")
TERMS = terms(*NAMES, rules=dataclasses.replace(RULES, votes="two-thirds"), updates=1)
BODY = update(TERMS, "w1", "w2", "w3")
OTHER = dataclasses.replace(BODY, fragment=0, rejected=(), contributors=BODY.contributors[:2])
VERIFY = key("w1").verify
BY_PEER = {peer(name): name for name in (*NAMES, "w4", "w5", "w6")}
OPEN = MembershipRules(witnesses=(peer("coordinator"),))


def prepares(body: Body, names: Iterable[str], view: int = 0) -> Signatures:
    message = prepare_message(PLACE, view, body.digest)
    return tuple((peer(name), key(name).sign(message)) for name in names)


def word(name: str, view: int, accepted: tuple[int, Digest] | None = None) -> SignedPromise:
    return SignedPromise(peer(name), accepted, key(name).sign(promise_message(PLACE, view, accepted)))


def proposal(body: Body, view: int, shown: Justification | None) -> m.Propose:
    leader = BY_PEER[TERMS.leader(view)]
    signature = key(leader).sign(prepare_message(PLACE, view, body.digest))
    return m.Propose(1, view, body, signature=signature, justification=shown)


def test_two_thirds_of_four_are_three() -> None:
    assert [liars_max(n) for n in (0, 1, 3, 4, 6, 7, 16)] == [0, 0, 0, 1, 1, 2, 5]
    assert (TERMS.majority, TERMS.liars_max) == (3, 1)


def test_each_leads_once_in_a_rotation() -> None:
    assert {TERMS.leader(view) for view in range(4)} == set(TERMS.voters)
    following = dataclasses.replace(TERMS, round=2, parent=digest("ground"))
    assert [following.leader(view) for view in range(3)] == [TERMS.leader(view + 1) for view in range(3)]


def test_each_part_has_two_owners() -> None:
    owners = TERMS.owners(TERMS.workers, 0)
    assert all(one != other for one, other in zip(owners[:3], owners[3:], strict=True))


# ---- justification ------------------------------------------------------------------------------

CLAIM = (0, BODY.digest)
SOUND = Justification((word("w1", 1, CLAIM), word("w2", 1), word("w3", 1)), prepares(BODY, NAMES[:3]))


def test_a_free_and_a_bound_proposal_are_in_order() -> None:
    free = Justification(tuple(word(name, 1) for name in NAMES[1:]))
    assert justify.proposal_objection(TERMS, proposal(OTHER, 1, free), VERIFY) is None
    assert justify.proposal_objection(TERMS, proposal(BODY, 1, SOUND), VERIFY) is None
    assert justify.proposal_objection(TERMS, proposal(BODY, 0, None), VERIFY) is None


@pytest.mark.parametrize(
    ("propose", "said"),
    [
        (proposal(BODY, 1, None), "without promises"),
        (proposal(OTHER, 1, SOUND), "another body than was accepted"),
        (proposal(BODY, 2, SOUND), "a promise that its member did not sign"),
        (dataclasses.replace(proposal(BODY, 0, None), signature=bytes(64)), "its leader did not sign"),
        (proposal(BODY, 1, Justification(SOUND.promises[:2])), "2 promises, 3 are two thirds"),
        (proposal(BODY, 1, Justification(SOUND.promises[:1] * 3)), "two of one"),
        (proposal(BODY, 1, Justification((*SOUND.promises[:2], word("w9", 1)))), "of no member"),
        (proposal(BODY, 1, Justification(SOUND.promises, prepares(BODY, ("w1", "w2")))), "of 2 votes"),
        (proposal(BODY, 1, Justification(SOUND.promises, prepares(BODY, NAMES[:3], 1))), "did not sign"),
        (proposal(BODY, 1, Justification(SOUND.promises, votes(BODY, NAMES[:3]))), "did not sign"),
        (
            proposal(BODY, 1, Justification((word("w1", 1, (1, BODY.digest)), *SOUND.promises[1:]))),
            "could not",
        ),
    ],
)
def test_what_does_not_justify_is_refused(propose: m.Propose, said: str) -> None:
    assert said in str(justify.proposal_objection(TERMS, propose, VERIFY))


def test_a_leader_is_bound_by_the_highest_certificate() -> None:
    promises = {peer(name): m.Promise(1, 2, None, word(name, 2).signature) for name in NAMES[:2]}
    assert justify.justification(promises, TERMS, OTHER) is None, "two are not enough"
    bound = word("w3", 2, (1, BODY.digest))
    promises[peer("w3")] = m.Promise(1, 2, (1, BODY), bound.signature, prepares(BODY, NAMES[:3], 1))
    assert justify.justification(promises, TERMS, OTHER) is None
    shown = justify.justification(promises, TERMS, BODY)
    assert justify.proposal_objection(TERMS, proposal(BODY, 2, shown), VERIFY) is None
    assert justify.promise_objection(TERMS, peer("w3"), promises[peer("w3")], VERIFY) is None
    bare = dataclasses.replace(promises[peer("w3")], certificate=())
    assert "0 votes" in str(justify.promise_objection(TERMS, peer("w3"), bare, VERIFY))


# ---- evidence -----------------------------------------------------------------------------------


def found(name: str = "w2") -> Equivocation:
    notebook, seen = Notebook(PLACE), None
    for body in (BODY, BODY, OTHER):
        ((who, signature),) = prepares(body, (name,))
        seen = notebook.note(who, 0, Stage.PREPARE, body.digest, signature)
    assert seen is not None
    return seen


def test_two_votes_convict_and_nothing_else_does() -> None:
    proof = found()
    assert evidence.objection(RUN, proof, VERIFY) is None
    for wrong in (
        dataclasses.replace(proof, peer=peer("w3")),
        dataclasses.replace(proof, view=1),
        dataclasses.replace(proof, epoch=1),
        dataclasses.replace(proof, stage=Stage.COMMIT),
        dataclasses.replace(proof, bodies=proof.bodies[:1] * 2, signatures=proof.signatures[:1] * 2),
        dataclasses.replace(proof, round=1 << 63),
    ):
        assert evidence.objection(RUN, wrong, VERIFY) is not None


def test_a_notebook_keeps_a_few_views() -> None:
    notebook = Notebook(PLACE)
    for view in range(50):
        assert notebook.note(peer("w1"), view, Stage.PREPARE, BODY.digest, b"") is None
    assert len(notebook.seen) == evidence.VIEWS_KEPT
    assert notebook.note(peer("w1"), 3, Stage.PREPARE, OTHER.digest, b"") is None, "long forgotten"
    assert notebook.note(peer("w1"), 49, Stage.PREPARE, OTHER.digest, b"") is not None


# ---- members ------------------------------------------------------------------------------------


def settled(given: Terms, heard: Collection[PeerId], told: proven.Claims) -> Body:
    return proven.settle(BODY, given, Presence(heard), told)


def judge(body: Body, banned: tuple[Any, ...] = ()) -> str | None:
    return objection(TERMS, body, ANCHOR) or proven.objection(TERMS, body, OPEN, banned, VERIFY)


def wish(name: str, round_: int = 1, role: Role = Role.WORKER) -> Joining:
    signature = key(name).sign(joining_message(Place(RUN, 0, round_), role))
    return Joining(peer(name), round_, b"", signature)


def claims(joining: Iterable[str] = (), leaving: Iterable[str] = (), culprits: Iterable[str] = ()) -> Any:
    return proven.Claims(
        {peer(n): (Role.WORKER, wish(n)) for n in joining},
        {peer(n): Farewell(peer(n), 1, key(n).sign(farewell_message(PLACE))) for n in leaving},
        {peer(n): found(n) for n in culprits},
    )


def test_what_a_leader_settles_its_voters_accept() -> None:
    for told in (
        claims(),
        claims(["w4", "w5"]),
        claims(leaving=["w1", "w2"]),
        claims(["w4"], ["w1"], ["w2"]),
    ):
        body = settled(TERMS, TERMS.voters, told)
        assert judge(body) is None
        assert len(body.joining) <= 1
        assert len(body.farewells) <= 1
    assert {m.peer for m in body.members} == {peer("w3"), peer("w4"), peer("coordinator")}
    assert "banned" in str(judge(settled(TERMS, TERMS.voters, claims(["w4"])), (peer("w4"),)))


def test_silence_must_last_longer_than_liars_lead() -> None:
    late = dataclasses.replace(TERMS, members=tuple(dataclasses.replace(m, missed=2) for m in TERMS.members))
    body = settled(late, (), claims())
    assert body.members == (), "all were silent for too long"
    assert settled(TERMS, (), claims()).members != ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"members": BODY.members[1:]}, "is left out without proof"),
        (
            {"members": tuple(sorted((*BODY.members, member("w4", weight_from=3)), key=lambda m: m.peer))},
            "not those",
        ),
        ({"evidence": (found(),)}, "is no member, or stays one"),
        ({"evidence": (found(), found())}, "twice against one"),
        ({"farewells": (Farewell(peer("w1"), 1, bytes(64)),), "members": ()}, "empty"),
        ({"joining": (wish("w4"),)}, "not those"),
    ],
)
def test_members_without_proof_get_no_vote(changes: dict[str, Any], said: str) -> None:
    assert said in str(judge(dataclasses.replace(BODY, **changes)))


def turned(role: Role, proof: Joining | None) -> Body:
    members = tuple(dataclasses.replace(m, role=role) if m.peer == peer("w1") else m for m in TERMS.members)
    return dataclasses.replace(BODY, members=members, joining=(proof,) if proof else ())


def test_a_member_rests_by_its_own_word_only() -> None:
    told = proven.Claims({peer("w1"): (Role.PAUSED, wish("w1", role=Role.PAUSED))}, {}, {})
    body = settled(TERMS, TERMS.peers, told)
    assert body.members == turned(Role.PAUSED, None).members
    assert judge(body) is None
    assert "not those that were asked for" in str(judge(turned(Role.PAUSED, None)))
    assert "did not sign" in str(judge(turned(Role.PAUSED, wish("w1"))))


def test_a_witness_stays_one_whatever_it_asks_for() -> None:
    """Else one that asks for what is refused would spoil every leader's proposal."""
    asked = (Role.WORKER, wish("coordinator"))
    body = settled(TERMS, TERMS.peers, proven.Claims({peer("coordinator"): asked}, {}, {}))
    assert (body.members, body.joining) == (BODY.members, ())
    assert judge(body) is None


def test_an_old_wish_to_rest_is_none_any_more() -> None:
    given = dataclasses.replace(TERMS, round=4)
    rest = wish("w1", 2, Role.PAUSED)
    assert "in round 2" in str(proven.joining_objection(given, rest, Role.PAUSED, OPEN, (), VERIFY))
    assert proven.joining_objection(given, wish("w4", 2), Role.WORKER, OPEN, (), VERIFY) is None


def test_words_of_another_epoch_count_for_nothing() -> None:
    later = dataclasses.replace(TERMS, epoch=1)
    bye = Farewell(peer("w1"), 1, key("w1").sign(farewell_message(PLACE)))
    assert proven.farewell_objection(TERMS, bye, VERIFY) is None
    assert "did not sign" in str(proven.farewell_objection(later, bye, VERIFY))
    assert "did not sign" in str(proven.joining_objection(later, wish("w4"), Role.WORKER, OPEN, (), VERIFY))
    assert "did not sign" in str(justify.proposal_objection(later, proposal(BODY, 0, None), VERIFY))
    word_of_w1 = m.Promise(1, 1, None, word("w1", 1).signature)
    assert justify.promise_objection(TERMS, peer("w1"), word_of_w1, VERIFY) is None
    assert "did not sign" in str(justify.promise_objection(later, peer("w1"), word_of_w1, VERIFY))
    shown = prepares(BODY, NAMES[:3])
    assert "did not sign" in str(justify.certificate_objection(later, 0, BODY.digest, shown, VERIFY))


@pytest.mark.parametrize("stage", Stage)
def test_a_vote_in_each_of_two_epochs_convicts_nobody(stage: Stage) -> None:
    """The round recurs after a recovery, and its first view with it."""
    signatures = tuple(
        key("w1").sign(evidence.message_of(Place(RUN, epoch, 1), 0, stage, body.digest))
        for epoch, body in enumerate((BODY, OTHER))
    )
    for epoch in (0, 1):
        proof = Equivocation(
            peer("w1"), epoch, 1, 0, stage, (BODY.digest, OTHER.digest), (signatures[0], signatures[1])
        )
        assert "did not sign" in str(evidence.objection(RUN, proof, VERIFY))


def test_nobody_joins_once_very_many_are_banned() -> None:
    banned = [str(number) for number in range(MEMBERS_MAX)]
    assert "so many" in str(judge(settled(TERMS, TERMS.peers, claims(["w4"])), tuple(banned)))


def test_proofs_travel_in_bodies() -> None:
    body = settled(TERMS, TERMS.peers, claims(["w4"], ["w1"], ["w2"]))
    read = body_from_bytes(body.encoded, {TERMS.parent: TERMS.members}.get)
    assert read == body
    assert (read.evidence, read.joining, read.farewells) == (body.evidence, body.joining, body.farewells)
    assert peer("w2").encode() not in body.encoded, "it is named by its place"
    fewer = {TERMS.parent: TERMS.members[:1]}.get
    with pytest.raises(RemoteProtocolError, match="members"):
        body_from_bytes(body.encoded, fewer)


def test_a_majority_run_asks_for_no_proofs() -> None:
    given = terms(*NAMES, updates=1)
    assert "does not ask for" in str(objection(given, dataclasses.replace(BODY, evidence=(found(),)), ANCHOR))


# ---- views, ledger, manifest --------------------------------------------------------------------


def test_one_word_moves_nobody() -> None:
    views = Views()
    views.hear(peer("w1"), 1 << 30)
    assert (views.vouched(1), views.together(0, 3), views.together(1, 3)) == (0, True, False)
    views.hear(peer("w2"), 2)
    views.hear(peer("w2"), 1)
    assert (views.vouched(1), views.together(2, 3), views.together(3, 3)) == (2, True, False)


def test_a_ledger_asks_for_two_thirds_and_remembers_whom_it_bans() -> None:
    ledger = Ledger(Genesis(RUN, ANCHOR, TERMS.members, votes="two-thirds"))
    body = dataclasses.replace(BODY, evidence=(found(),))
    with pytest.raises(RemoteProtocolError, match="2 votes, 3 are two thirds"):
        ledger.append(Commit(body, 0, votes(body, NAMES[:2])), key("w1"))
    ledger.append(Commit(body, 0, votes(body, NAMES[:3])), key("w1"))
    assert ledger.banned == {peer("w2")}


def test_bans_outlive_snapshots_and_not_recoveries() -> None:
    authority = key("authority")
    genesis = Genesis(RUN, ANCHOR, TERMS.members, authority.peer, votes="two-thirds")
    ledger = Ledger(genesis)
    for culprit in ("w2", "w3"):
        body = dataclasses.replace(skip(ledger), evidence=(found(culprit),))
        ledger.append(Commit(body, 0, votes(body, NAMES)), key("w1"))
    assert ledger.banned == {peer("w2"), peer("w3")}
    first = ledger.snapshot(1)
    signed = dataclasses.replace(first, signature=authority.sign(first.message(RUN)))
    assert signed.banned == (peer("w2"),)
    assert snapshot_from_bytes(snapshot_to_wire(signed).SerializeToString()) == signed
    with pytest.raises(RemoteProtocolError, match="not signed by the run authority"):
        ledger.check_snapshot(dataclasses.replace(signed, banned=()), key("w1"))
    ledger.check_snapshot(signed, key("w1"))
    ledger.rebase(signed)
    assert ledger.banned == {peer("w2"), peer("w3")}
    newcomer = Ledger(genesis)
    newcomer.rebase(signed)
    assert newcomer.banned == {peer("w2")}
    anew = dataclasses.replace(
        ledger.commit(2).body, kind=Kind.RECOVERY, epoch=1, evidence=(), parent=signed.head
    )
    word = authority.sign(vote_message(anew.place, 0, anew.digest))
    ledger.append(Commit(anew, 0, ((authority.peer, word),)), key("w1"))
    assert ledger.banned == {peer("w2")}


def test_two_thirds_cannot_begin_a_new_epoch() -> None:
    """Recoveries are the authority's alone, however many members want one."""
    ledger = Ledger(Genesis(RUN, ANCHOR, TERMS.members, peer("authority"), votes="two-thirds"))
    body = dataclasses.replace(skip(ledger), kind=Kind.RECOVERY, epoch=1)
    with pytest.raises(RemoteProtocolError, match="is not the authority's"):
        ledger.append(Commit(body, 0, votes(body, NAMES)), key("w1"))
    assert "kind recovery" in str(objection(dataclasses.replace(TERMS, epoch=1), body, ANCHOR))


def test_all_vote_where_some_may_lie() -> None:
    few = dataclasses.replace(RULES, votes="two-thirds", voters_max=1)
    assert terms(*NAMES, rules=few).voters == TERMS.peers
    assert terms(*NAMES, rules=dataclasses.replace(few, votes="majority")).voters != TERMS.peers
    sealed = manifest(few, membership=MembershipRules("allowlist", OPEN.witnesses))
    ledger = Ledger(dataclasses.replace(sealed.genesis(RUN), members=TERMS.members))
    assert ledger.voters(1) == frozenset(TERMS.peers)
    assert ledger.genesis.needed(4) == 3


def test_an_open_run_cannot_ask_for_two_thirds() -> None:
    with pytest.raises(ConfigError, match="one liar joins as often as it likes"):
        check(manifest(dataclasses.replace(RULES, votes="two-thirds")), "manifest")
