"""Whether a proposal may be made in its view: what a leader must show where members, and it itself, may lie.

A body on which n - f members can have agreed was accepted by more honest members than f, and any n - f
promises hold the word of one of them. So a leader that shows n - f signed promises, and proposes the body
whose certificate is of the highest view among them, cannot undo an agreement. A claim without a
certificate counts for nothing. (Castro and Liskov, Practical Byzantine Fault Tolerance, 1999)
"""

from __future__ import annotations

from collections.abc import Mapping

from atoll.protocol.commits import Body
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.messages import Promise, Propose
from atoll.protocol.proofs import (
    Justification,
    Signatures,
    SignedPromise,
    Verify,
    prepare_message,
    promise_message,
)
from atoll.protocol.terms import Terms


def certificate_objection(
    terms: Terms, view: int, body: Digest, votes: Signatures, verify: Verify
) -> str | None:
    """Why these are not the first-stage votes of enough members for this body, or None."""
    peers = {peer for peer, _ in votes}
    if len(peers) != len(votes) or not peers.issubset(terms.voting):
        return "a certificate with votes of no member, or two of one"
    if len(peers) < terms.majority:
        return f"a certificate of {len(peers)} votes, {terms.majority} are two thirds"
    message = prepare_message(terms.place, view, body)
    if not all(verify(peer, message, signature) for peer, signature in votes):
        return "a certificate with a vote that its member did not sign"
    return None


def promise_objection(terms: Terms, peer: PeerId, promise: Promise, verify: Verify) -> str | None:
    """Why a leader may not count this promise, or None."""
    accepted = None if promise.accepted is None else (promise.accepted[0], promise.accepted[1].digest)
    signed = SignedPromise(peer, accepted, promise.signature)
    if reason := _word_objection(terms, promise.view, signed, verify):
        return reason
    if accepted is None:
        return None
    return certificate_objection(terms, *accepted, promise.certificate, verify)


def _word_objection(terms: Terms, view: int, promise: SignedPromise, verify: Verify) -> str | None:
    if promise.accepted is not None and promise.accepted[0] >= view:
        return "a promise that accepted what it could not have"
    message = promise_message(terms.place, view, promise.accepted)
    if not verify(promise.peer, message, promise.signature):
        return "a promise that its member did not sign"
    return None


def highest(promises: Mapping[PeerId, Promise]) -> Promise | None:
    """The promise that accepted in the highest view, if any did."""
    accepted = [promise for _, promise in sorted(promises.items()) if promise.accepted is not None]
    return max(accepted, key=lambda promise: promise.accepted[0] if promise.accepted else -1, default=None)


def justification(promises: Mapping[PeerId, Promise], terms: Terms, body: Body) -> Justification | None:
    """What these checked promises say for `body`; None if they bind to another one."""
    best = highest(promises)
    if len(promises) < terms.majority:
        return None
    if best is not None and best.accepted is not None and best.accepted[1] != body:
        return None
    words = tuple(
        SignedPromise(
            peer,
            (promise.accepted[0], promise.accepted[1].digest) if promise.accepted else None,
            promise.signature,
        )
        for peer in terms.voters
        if (promise := promises.get(peer)) is not None
    )
    return Justification(words, best.certificate if best is not None else ())


def proposal_objection(terms: Terms, propose: Propose, verify: Verify) -> str | None:
    """Why this may not be proposed in this view, or None."""
    message = prepare_message(terms.place, propose.view, propose.body.digest)
    if not verify(terms.leader(propose.view), message, propose.signature):
        return "a proposal that its leader did not sign"
    if propose.view == 0:
        return None
    if propose.justification is None:
        return f"a proposal in view {propose.view} without promises"
    return _promises_objection(terms, propose, propose.justification, verify)


def _promises_objection(terms: Terms, propose: Propose, shown: Justification, verify: Verify) -> str | None:
    peers = {promise.peer for promise in shown.promises}
    if len(peers) != len(shown.promises) or not peers.issubset(terms.voting):
        return "a proposal with promises of no member, or two of one"
    if len(peers) < terms.majority:
        return f"a proposal with {len(peers)} promises, {terms.majority} are two thirds"
    for promise in shown.promises:
        if reason := _word_objection(terms, propose.view, promise, verify):
            return reason
    accepted = [promise.accepted for promise in shown.promises if promise.accepted is not None]
    if not accepted:
        return None
    view = max(view for view, _ in accepted)
    if (view, propose.body.digest) not in accepted:
        return "a proposal of another body than was accepted in the highest view"
    return certificate_objection(terms, view, propose.body.digest, shown.certificate, verify)
