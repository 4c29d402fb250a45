"""How a peer's state follows its ledger: replay the next commit, or fetch a whole state from another peer.

The ledger may run ahead of the state, because a certificate is proof enough of a commit, while its update
must be fetched and applied. Only a peer whose state has caught up trains, leads and votes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from atoll.protocol.actions import Action, Apply, Fetch, LoadState
from atoll.protocol.commits import Kind
from atoll.protocol.events import StateLoaded
from atoll.protocol.fragments import anchor_digest, start_digest
from atoll.protocol.ids import Digest, PeerId, digest_of
from atoll.protocol.ledger import Ledger
from atoll.protocol.messages import State

FETCHES_MAX = 3
AHEAD = 2
"""Of so many commits after the next one the updates are fetched early: no replay waits for a round trip."""


@dataclass(slots=True)
class Catchup:
    """The state this peer has, and the one step that is under way towards the ledger's head."""

    keep_rounds: int
    state: StateLoaded | None = None
    applying: int = 0
    loading: int | None = None
    failures: int = 0
    missing: set[Digest] = field(default_factory=set)
    needed: int = 0
    asked: int = 0
    fragments: int = 1

    @property
    def round(self) -> int:
        return self.state.round if self.state else -1

    @property
    def anchor(self) -> Digest | None:
        return self.state.anchor if self.state else None

    def start(self, round_: int) -> Digest | None:
        """What contributions to `round_` start from, if this state has what came before of its fragment."""
        state = self.state
        if state is None or state.round < round_ - self.fragments:
            return None
        return start_digest(state.blobs, round_, self.fragments)

    def loaded(self, state: StateLoaded) -> None:
        """An update was applied, or a whole state fetched. One that is not waited for changes nothing."""
        if state.round not in (self.applying, self.loading):
            return
        self.applying, self.loading, self.failures = 0, None, 0
        if state.round > self.round:
            self.state = state

    def rewound(self, round_: int) -> None:
        """The rounds from this one on went otherwise: a state after one of them is of no use.

        Nor is the one before, if such an update is being applied to it: it is fetched anew.
        """
        if max(self.round, self.applying) >= round_:
            self.state = None
        self.applying, self.loading = 0, None
        self.ask_again()

    def step(self, ledger: Ledger, held: Collection[Digest], me: PeerId) -> list[Action]:
        """What brings the state nearer to the head; nothing while a whole state is needed.

        While one is under way, the updates after it are fetched: they may be forgotten when it is here.
        """
        if self.loading is not None:
            return self._fetch(ledger, held, me, self.loading)
        self._lift(ledger)
        if self._too_far(ledger):
            return []
        actions = [] if self.applying else self._apply_next(ledger, held)
        return actions + (self._fetch(ledger, held, me, self.state.round) if self.state else [])

    def _apply_next(self, ledger: Ledger, held: Collection[Digest]) -> list[Action]:
        """Apply the update after this state, if it is all here."""
        if self.state is None or self.state.round >= ledger.height:
            return []
        body = ledger.commit(self.state.round + 1).body
        if body.anchor != self.state.anchor:
            self.state = None  # the certificate knows better: ours is another state
            return []
        if self.needed != body.round:
            self.needed = body.round
            self.missing = {ref.digest for ref in body.blobs if ref.digest not in held}
        if self.missing:
            return []
        self.applying = body.round
        return [Apply(body)]

    def _fetch(self, ledger: Ledger, held: Collection[Digest], me: PeerId, after: int) -> list[Action]:
        """Ask for the updates of the commits after a state's, once."""
        fetches: list[Action] = []
        head = min(ledger.height, after + 1 + AHEAD)
        for round_ in range(max(self.asked, after, ledger.begin) + 1, head + 1):
            self.asked = round_
            commit = ledger.commit(round_)
            holders = rotated([peer for peer, _ in commit.votes if peer != me], me, round_)
            fetches += [Fetch(ref, holders, "result") for ref in commit.body.blobs if ref.digest not in held]
        return fetches

    def ask_again(self) -> None:
        """What was asked for may be lost: ask once more for what is still missing."""
        self.needed = self.asked = 0

    def arrived(self, digest: Digest) -> None:
        self.missing.discard(digest)

    def failed(self, digest: Digest) -> None:
        self.failures += digest in self.missing

    def needs_state(self, ledger: Ledger) -> bool:
        """Whether replaying is no way: there is no state, it is too old, or the blobs are gone."""
        if self.applying or self.loading is not None:
            return False
        self._lift(ledger)
        if self.state is None or self._too_far(ledger):
            return True
        return self.failures >= FETCHES_MAX * max(1, len(self.missing))

    def _lift(self, ledger: Ledger) -> None:
        """Commits that are no updates leave a state as it is, however many they are and whoever forgot them.

        One from before the ledger's begin is that of its begin if the first commit starts from it.
        """
        state = self.state
        if state is None:
            return
        round_ = ledger.begin if _begins(state.round, state.anchor, ledger) else state.round
        while ledger.begin <= round_ < ledger.height:
            body = ledger.commit(round_ + 1).body
            if body.kind is Kind.UPDATE or body.anchor != state.anchor:
                break
            round_ += 1
        if round_ > state.round:
            self.state = StateLoaded(round_, state.anchor, state.blobs)

    def _too_far(self, ledger: Ledger) -> bool:
        """Whether the blobs that a replay needs may be forgotten already, here and elsewhere."""
        state = self.state
        return state is not None and (
            ledger.height - state.round > self.keep_rounds or state.round < ledger.begin
        )

    def take(
        self, state: State, sender: PeerId, ledger: Ledger, others: Sequence[PeerId]
    ) -> LoadState | None:
        """Whether an offered state is one to load: not ahead of the ledger, and not against it."""
        if not self.needs_state(ledger) or not self.round < state.round <= ledger.height:
            return None
        if state.anchor != anchor_digest(state.blobs):
            return None
        if state.round < ledger.begin and not _begins(state.round, state.anchor, ledger):
            return None
        if (
            ledger.begin <= state.round < ledger.height
            and ledger.commit(state.round + 1).body.anchor != state.anchor
        ):
            return None
        if state.round == 0 and state.anchor != ledger.genesis.anchor:
            return None
        self.loading = state.round
        holders = (sender, *(peer for peer in others if peer != sender))
        return LoadState(state.round, state.anchor, state.blobs, holders)


def _begins(round_: int, anchor: Digest, ledger: Ledger) -> bool:
    """Whether a state of an earlier round is the one that the ledger's first commit starts from."""
    return round_ < ledger.begin < ledger.height and ledger.commit(ledger.begin + 1).body.anchor == anchor


def rotated(peers: Sequence[PeerId], me: PeerId, salt: int) -> tuple[PeerId, ...]:
    """The same peers, begun at a place of one's own, so that not everybody asks the same one."""
    if not peers:
        return ()
    at = int(digest_of(me.encode(), str(salt).encode())[:8], 16) % len(peers)
    return (*peers[at:], *peers[:at])
