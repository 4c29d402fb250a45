"""All there is in one trial: a clock, links, hosts, traps and those who watch. One seed decides it all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any
from zlib import crc32

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol.commits import Commit, Kind, Snapshot
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.roster import Member, Role, committee
from atoll.simulator.clock import Clock
from atoll.simulator.content import Contribution
from atoll.simulator.history import History
from atoll.simulator.host import Host
from atoll.simulator.liars import Liar
from atoll.simulator.lies import kinds_of
from atoll.simulator.links import Cut, Links
from atoll.simulator.operator import Operator
from atoll.simulator.setting import AUTHORITY, Setting, manifest_of
from atoll.simulator.signing import SimulatedSigner, key_ring
from atoll.simulator.trace import Trace
from atoll.simulator.traffic import Traffic
from atoll.simulator.traps import Trap

JOIN_MS_MAX = 2_000
KNOWN_MAX = 64
CUTS_MAX = 6


class Violation(Exception):
    """Something happened that must never happen. The text says what."""


class World:
    def __init__(self, seed: int, chosen: Setting, watchers: Sequence[Any], traced: bool = False) -> None:
        self.seed, self.setting = seed, chosen
        self.clock = Clock()
        self.rng = random.Random(f"{seed} work")
        self.links = Links(random.Random(f"{seed} links"))
        self.ring = key_ring(seed, 1 + chosen.peers + chosen.joining_later)
        ids = list(self.ring.secrets)
        self.signed = manifest_of(seed, chosen, ids[0], tuple(ids[1:]))
        self.ring.add(AUTHORITY)
        self.authority = SimulatedSigner(AUTHORITY, self.ring)
        self.trace = Trace(self) if traced else None
        self.traffic = Traffic()
        self.rejected: Counter[str] = Counter()
        self.traps: list[Trap] = []
        self.means: dict[Digest, a.Aggregate] = {}
        self.contributions: dict[tuple[PeerId, int], list[Contribution]] = {}
        self.history = History(self.signed.run_id)
        self.updates = 0
        self.operator: Operator | None = None
        self.view_max = 0
        self._watch(watchers)
        self.hosts = {ids[0]: Host(self, "w", ids[0], Role.WITNESS)}
        for index, peer in enumerate(ids[1:], 1):
            self.hosts[peer] = Host(self, f"p{index}", peer, Role.WORKER)
        self.early = chosen.early_of(seed)
        self.waiting_to_join = ids[1 + chosen.peers :]
        self._known: tuple[PeerId, ...] = ()
        chance = random.Random(f"{seed} liars")
        for peer in chance.sample(ids[1 : 1 + chosen.peers], chosen.liars):
            kinds = kinds_of(chosen.lies, chance)
            self.hosts[peer] = Liar(self, self.hosts[peer].name, peer, kinds, random.Random(f"{seed} {peer}"))
        self.named = {host.name: host for host in self.hosts.values()}

    def shard_of(self, name: str) -> str:
        """What data a worker holds, where they hold their own: the shards go round."""
        return f"shard-{int(name[1:]) % self.setting.private}" if self.setting.private else ""

    def _watch(self, watchers: Sequence[Any]) -> None:
        """Each watcher has the methods for what it wants to see."""
        for watcher in watchers:
            watcher.world = self
        self._on_decided = [w.on_decided for w in watchers if hasattr(w, "on_decided")]
        self._on_commit = [w.on_commit for w in watchers if hasattr(w, "on_commit")]
        self._on_state = [w.on_state for w in watchers if hasattr(w, "on_state")]
        self._on_rebase = [w.on_rebase for w in watchers if hasattr(w, "on_rebase")]
        self._on_send = [w.on_send for w in watchers if hasattr(w, "on_send")]

    def boot(self) -> None:
        """The witness starts with the initial state, the workers soon after with nothing."""
        first, *others = self.hosts.values()
        manifest = self.signed.manifest
        first.disk.keep(e.StateLoaded(0, manifest.anchor, manifest.anchor_blobs))
        first.boot()
        for host in others:
            if host.id not in self.waiting_to_join:
                self.clock.later(self.rng.randint(0, JOIN_MS_MAX), self._boot, host)

    def _boot(self, host: Host) -> None:
        if not host.alive and not host.finished:
            host.boot()

    def revive(self, host: Host) -> None:
        """Start a process again, as soon as there is room on its disk."""
        wait_ms = host.full_until_ms - self.clock.now_ms
        if host.alive or host.finished:
            return
        if wait_ms > 0:
            self.clock.later(wait_ms, self.revive, host)
        else:
            self.note(host.name, "is back")
            host.boot()

    # ---- who there is ---------------------------------------------------------------------------

    def members(self, round_: int, epoch: int | None = None) -> tuple[Member, ...]:
        """The members of a round, by the commits seen so far anywhere; of the newest epoch, unless said."""
        chain = self.history.chain if epoch is None else self.history.chains[epoch]
        return self.signed.genesis.members if round_ == 1 else chain[round_ - 2].body.members

    def voters(self, round_: int, epoch: int | None = None) -> tuple[PeerId, ...]:
        """Who of them votes."""
        chain = self.history.chain if epoch is None else self.history.chains[epoch]
        parent = chain[round_ - 2].body.digest if round_ > 1 else self.signed.run_id
        return committee(self.members(round_, epoch), parent, self.signed.manifest.rounds.committee_max)

    @property
    def height(self) -> int:
        return len(self.history.chain)

    def in_progress(self) -> tuple[tuple[Member, ...], tuple[PeerId, ...]]:
        """The members of the round that comes next in the newest epoch, and who of them votes."""
        return self.members(self.height + 1), self.voters(self.height + 1)

    @property
    def alive(self) -> list[Host]:
        """Those that are up and honest: whom faults strike, and of whom something is asked."""
        return [host for host in self.hosts.values() if host.alive and not host.lies]

    @property
    def liars(self) -> list[Liar]:
        return [host for host in self.hosts.values() if isinstance(host, Liar)]

    def known_to(self, host: Host) -> tuple[PeerId, ...]:
        """Whom discovery names, the dead too; in a large network another few for each who asks."""
        if not self._known:
            self._known = tuple(one.id for one in self.hosts.values() if one.life and not one.finished)
        known, count = self._known, len(self._known)
        if count > KNOWN_MAX:
            at = crc32(host.id.encode()) % count
            known = (known + known)[at : at + KNOWN_MAX]
        return tuple(peer for peer in known if peer != host.id)

    def lives_changed(self) -> None:
        """Somebody was born, or is gone for good."""
        self._known = ()
        self.clock.news = True

    def leader(self) -> Host | None:
        """Who leads in the eyes of the peer that is furthest."""
        ahead = max(
            (host.peer for host in self.alive if host.peer is not None),
            key=lambda peer: (peer.ledger.epoch, peer.ledger.height, peer.view),
            default=None,
        )
        return self.hosts.get(ahead.leader) if ahead is not None else None

    # ---- what happens ---------------------------------------------------------------------------

    def note(self, who: str, text: str) -> None:
        if self.trace is not None:
            self.trace.line(who, text)

    def require(self, holds: bool, what: str) -> None:
        if not holds:
            raise Violation(what)

    def sprung(self, host: Host, action: a.Action) -> bool:
        """Whether a trap was waiting for just this action, and took care of it."""
        for trap in self.traps if not host.lies else ():
            if trap.waits_for(action):
                self.traps.remove(trap)
                trap.spring(self, host, action)
                return True
        return False

    def cut_off(
        self, group: frozenset[str], for_ms: int, out: bool, into: bool, others: frozenset[str] | None = None
    ) -> None:
        """What `group` sends does not reach the others, or what they send does not reach it, for a while."""
        rest = others if others is not None else frozenset(self.named) - group
        cuts = [Cut(group, rest)] * out + [Cut(rest, group)] * into
        ways = "both ways" if out and into else "outwards" if out else "inwards"
        far = f" from {' '.join(sorted(others))}" if others is not None else ""
        self.note("", f"cut off: {' '.join(sorted(group))}{far} ({ways}, {for_ms} ms)")
        self.links.cuts = (*self.links.cuts, *cuts)[-CUTS_MAX:]
        self.clock.later(for_ms, self._heal, cuts)

    def _heal(self, cuts: list[Cut]) -> None:
        self.links.cuts = tuple(cut for cut in self.links.cuts if cut not in cuts)
        self.note("", f"a cut heals, {len(self.links.cuts)} are left")

    def sent(self, host: Host, action: a.Send) -> None:
        if host.lies:
            return
        self.traffic.count(action.message, len(action.to))
        for see in self._on_send:
            see(host, action)

    def encoded(self, host: Host, round_: int, done: Contribution) -> None:
        """It is for this round; training may have begun for an earlier one."""
        self.contributions.setdefault((host.id, round_), []).append(done)

    def loaded(self, host: Host, state: e.StateLoaded) -> None:
        self.clock.news = True
        for see in self._on_state if not host.lies else ():
            see(host, state)

    def rebased(self, host: Host, snapshot: Snapshot) -> None:
        """A peer's ledger begins after this snapshot from now on."""
        for see in self._on_rebase if not host.lies else ():
            see(host, snapshot)

    def decided(self, host: Host, record: a.Record) -> None:
        """A peer begins to write a commit down; when that is done may be much later."""
        if isinstance(record, a.Committed) and not host.lies:
            for see in self._on_decided:
                see(host, record.commit)

    def committed(self, host: Host, commit: Commit) -> None:
        """A peer takes a commit into its ledger. The watchers see it before it becomes part of the chain."""
        if host.lies:
            return
        self.clock.news = True
        for see in self._on_commit:
            see(host, commit)
        if self.history.add(commit):
            self.view_max = max(self.view_max, commit.view)
            if commit.body.kind is Kind.RECOVERY:
                self.updates = sum(bool(one.body.contributors) for one in self.history.chain)
            elif commit.body.epoch == self.history.epoch:
                self.updates += bool(commit.body.contributors)
