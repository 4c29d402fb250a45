"""What a simulated run is: how many peers, how long, what may go wrong, and the manifest they agree on."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from functools import cache

from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import PeerId
from atoll.protocol.keys import Key
from atoll.protocol.manifest import (
    Assignment,
    AuditTable,
    Manifest,
    MembershipRules,
    OuterRules,
    RoundRules,
    SignedManifest,
    sign,
)
from atoll.protocol.roster import VOTERS_MAX, liars_max
from atoll.simulator.content import NUMEL, initial_state
from atoll.simulator.traps import MOMENTS, TWO_STAGES

FAULTS = (
    "crash",
    "wipe",
    "torn",
    "full",
    "corrupt",
    "freeze",
    "loss",
    "twice",
    "reorder",
    "partition",
    "bandwidth",
    "lag",
    "slow",
    "skew",
    "suspect",
    "churn",
    "burst",
    "pause",
    "doom",
)
PEERS_MAX = 4097
ROUNDS_MAX = 10_000
STEPS, STEP_MS, TOKENS = 10, 100, 10_000
MODES = {
    "dense": (1, False, "dense"),
    "fragments": (4, False, "dense"),
    "streaming": (4, True, "dense"),
    "sparse": (1, False, "sparse"),
    "sparse-streaming": (4, True, "sparse"),
}
"""How updates are exchanged: fragments, whether training runs 1 to 3 rounds ahead, and the exchange."""
FEW, SMALL_PEERS_MAX, SNAPSHOT_ROUNDS = 3, 64, 256


@dataclass(frozen=True, slots=True)
class Setting:
    """`peers` workers, and one witness on top: the coordinator. `rounds` outer updates under faults.

    Half of all crashes and frosts wait for one of `moments`; fewer of them look closer at one rule. `mode` is
    one of MODES, or empty: then the seed chooses. So it does where `voters` (how many vote at most) or
    `snapshots` (every how many rounds there is one) are 0. Of the workers, `liars` lie: how is in `lies/`,
    and `lies` chooses among the kinds. `retry_ms`, `work`, `replicas` and `disputes` are the rules of those
    names; replicas exchange densely and in whole models only. Where `private` is above 0, so many shards
    are held by the workers in turn, and a unit is one of them. `wait` is the rule of runs in whose mode it
    means anything; the others have the usual one. `weights` and `late` are the rules of these
    names; a run that merges what is late is dense, and does not wait beyond its quorum. Where there is an
    `audit`, the exchange is dense and in whole models; of the workers then so many are `riders`, who do not
    train, and so many `slanderers` (measuring.py).
    """

    peers: int
    rounds: int
    faults: frozenset[str] = frozenset()
    moments: tuple[str, ...] = tuple(MOMENTS)
    mode: str = ""
    voters: int = 0
    snapshots: int = 0
    votes: str = "majority"
    liars: int = 0
    lies: tuple[str, ...] = ()
    retry_ms: int = 300
    work: str = "equal"
    replicas: int = 1
    private: int = 0
    disputes: str = "take"
    wait: str = "grace"
    weights: str = "tokens"
    late: str = "carry"
    audit: AuditTable | None = None
    riders: int = 0
    slanderers: int = 0

    def mode_of(self, seed: int) -> str:
        """Five modes take turns; together with what every fourth seed does, all pairs come up in 20 seeds."""
        if self.replicas > 1 or self.private or self.late == "merge" or self.audit is not None:
            return "dense"
        return self.mode or tuple(MODES)[seed % len(MODES)]

    def voters_of(self, seed: int) -> int:
        """Every third seed has a committee smaller than most memberships."""
        small = seed % 3 == 1 and self.peers <= SMALL_PEERS_MAX
        return self.voters or (FEW + seed // 3 % 3 if small else VOTERS_MAX)

    def snapshots_of(self, seed: int) -> int:
        """Three of seven seeds prune their ledgers within a trial."""
        return self.snapshots or (FEW + seed % 7 if seed % 7 < 3 else SNAPSHOT_ROUNDS)

    def early_of(self, seed: int) -> bool:
        """In the other half of the seeds no sum is heard of before it is proposed: votes take longer then."""
        return seed % 13 < 6

    def certifies(self, votes: int, members: int) -> bool:
        """Whether so many are a majority, or more than two thirds: worked out here again."""
        return 2 * votes > members if self.votes == "majority" else 3 * votes > 2 * members

    @property
    def joining_later(self) -> int:
        """Workers that come while the run is under way, and those that take a wiped one's place."""
        coming = {"churn": self.peers // 4, "burst": self.peers // 3, "wipe": self.peers // 4}
        return sum(max(1, count) for kind, count in coming.items() if kind in self.faults)


def setting(
    peers: int, rounds: int, faults: str, mode: str = "", liars: int = 0, votes: str = "majority"
) -> Setting:
    """A checked setting; ConfigError says what would be right."""
    if not 1 <= peers <= PEERS_MAX:
        raise ConfigError(f"peers = {peers}", "simulate network", f"1 to {PEERS_MAX} workers")
    if not 1 <= rounds <= ROUNDS_MAX:
        raise ConfigError(f"rounds = {rounds}", "simulate network", f"1 to {ROUNDS_MAX}")
    if mode and mode not in MODES:
        raise ConfigError(f"unknown mode {mode!r}", "simulate network", f"one of {', '.join(MODES)}")
    if votes not in ("majority", "two-thirds"):
        raise ConfigError(f"votes = {votes!r}", "simulate network", "'majority' or 'two-thirds'")
    most = liars_max(peers + 1) if votes == "two-thirds" else 0
    if not 0 <= liars <= most:
        right = "--votes two-thirds" if votes == "majority" else f"at most {most} of {peers + 1} members"
        raise ConfigError(f"liars = {liars}", "simulate network", right)
    moments = (*MOMENTS, *TWO_STAGES) if votes == "two-thirds" else tuple(MOMENTS)
    return Setting(peers, rounds, faults_of(faults), moments, mode, votes=votes, liars=liars)


def faults_of(text: str) -> frozenset[str]:
    """`crash,loss` as a set; `heavy` is all of them, `none` none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    chosen: set[str] = set()
    for name in names or ["none"]:
        if name == "heavy":
            chosen.update(FAULTS)
        elif name in FAULTS:
            chosen.add(name)
        elif name != "none":
            known = (*FAULTS, "heavy", "none")
            near = difflib.get_close_matches(name, known, 1)
            right = f"did you mean {near[0]!r}?" if near else f"some of {', '.join(known)}"
            raise ConfigError(f"unknown fault {name!r}", "simulate network", right)
    return frozenset(chosen)


@cache
def _authority() -> Key:
    return Key(b"simulated authority, no secret!!")


AUTHORITY = _authority().peer


FURTHER_UPDATES = 2
"""What is asked of everybody once the faults stop; two, as the first may have been under way already."""


SMALL_PART, LARGE_PART = 10_000, 1 << 20
"""With small ones each owner of a small swarm has several."""


def rules(seed: int, chosen: Setting) -> RoundRules:
    """Times of a small model on a good network, so that faults of seconds matter.

    Every fourth seed's run is complete when all goes well: then everybody must end. The others go on.
    """
    fragments, streaming, exchange = MODES[chosen.mode_of(seed)]
    wait = chosen.wait if (chosen.wait == "slack") == streaming else "grace"
    return RoundRules(
        rounds=chosen.rounds + FURTHER_UPDATES if seed % 4 == 3 else 0,
        grace_share=0.0 if chosen.late == "merge" else 0.25,
        grace_ms_min=0 if chosen.late == "merge" else 200,
        grace_ms_max=2_000,
        train_ms_max=20_000,
        deadline_ms=4_000,
        retry_ms=chosen.retry_ms,
        lease_ms=3_000,
        owners_max=16,
        part_bytes_min=SMALL_PART if seed % 11 < 4 else LARGE_PART,
        start_workers=chosen.peers,
        fragments=fragments,
        overlap=1 + seed % (fragments - 1) if streaming else 0,
        exchange=exchange,
        voters_max=chosen.voters_of(seed),
        snapshot_rounds=chosen.snapshots_of(seed),
        votes=chosen.votes,
        work=chosen.work,
        replicas=chosen.replicas,
        disputes=chosen.disputes,
        shards="private" if chosen.private else "dealt",
        wait=wait,
        weights=chosen.weights,
        late=chosen.late,
    )


def _outer(chosen: Setting) -> OuterRules:
    usual = OuterRules() if chosen.work == "equal" else OuterRules(clip="none")
    return usual if chosen.replicas == 1 and not chosen.private else replace(usual, feedback=0.0)


def manifest_of(seed: int, chosen: Setting, witness: PeerId, workers: tuple[PeerId, ...]) -> SignedManifest:
    """A real, signed manifest. The first member is the witness; the workers join it as outsiders do."""
    round_rules = rules(seed, chosen)
    policy = "open" if chosen.votes == "majority" else "allowlist"
    allow = () if policy == "open" else workers
    return sign(
        Manifest(
            name=f"simulation {seed}",
            authority=AUTHORITY,
            numel=NUMEL,
            anchor_blobs=initial_state(round_rules.fragments),
            assignment=Assignment(STEPS, TOKENS),
            rounds=round_rules,
            outer=_outer(chosen),
            membership=MembershipRules(policy, witnesses=(witness,), allow=allow),
            audit=chosen.audit,
        ),
        _authority(),
    )
