"""The run manifest: all that peers must agree on, signed once by the run authority. Its digest is the run id.

The manifest is JSON text, so a volunteer can read what a run asks of the machine. The sections `model`,
`data` and `inner` belong to workload/ and stay opaque here; everything else is checked key by key.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from atoll.protocol.audit import AuditRules
from atoll.protocol.combinations import AGGREGATIONS, CODECS, RULES, Choices, check_combinations
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_of, public_key_of
from atoll.protocol.keys import Key, verify
from atoll.protocol.ledger import Genesis
from atoll.protocol.roster import MEMBERS_MAX, Member, Role
from atoll.protocol.waiting import WAITS
from atoll.protocol.weights import UNIT
from atoll.protocol.wire import messages_pb2 as wire

FORMAT = 1
STEPS_MAX, TOKENS_MAX = 10**9, 1 << 40
COUNT_MAX = 10**9
FRAGMENTS_MAX = 256
REPLICAS_MAX = 64
STALENESS_MAX = 64
"""No rule needs a larger number; the wire's integers and sums of weights hold them all."""
MANIFEST_BYTES_MAX = 256 << 10
LATER_KEYS = {
    "rounds": ("work", "steps_min", "replicas", "shards", "disputes", "wait", "weights", "staleness_max"),
    "outer": ("clip", "faulty"),
}
PARTITIONS = ("balanced", "sequential", "strided")
LATE = ("carry", "drop", "merge")
WEIGHTS = ("tokens", "rate", "participation")
_DOMAIN = b"atoll run manifest 1"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RoundRules:
    """When a round goes on, and when it gives somebody up. Times in milliseconds.

    `quorum` is the share of the workers whose offers make an update possible; then the leader waits for
    the others for `grace_share` of the time it took so far, within the two bounds. `train_ms_max` bounds
    the wait for the quorum itself. `deadline_ms` is what one frozen leader costs; it grows with the size
    of the update as if links carried `bytes_per_s_min`. Round t is for one of `fragments` of the model, and
    training may run `overlap` rounds ahead of the ledger; `partition` says how the model is cut, and `mixing`
    which share of its own parameters a worker keeps where a fragment moves. In a sparse `exchange` the
    contributions themselves are the update; in a dense one owners sum parts of them first. `votes` says what
    certifies a commit: a `majority` of members that may die but do not lie, or `two-thirds`, so that fewer
    than a third may lie as well; then all members vote, whatever `voters_max` says. There are `owners_max`
    parts at most; an owner has several as long as none is smaller than `part_bytes_min`. Where `work` is
    "by-speed", commits assign each worker its inner steps, `steps_min` at least, so that all end together.
    So many as `replicas` workers train each unit of the data, so that one less may be absent without loss.
    The data are `dealt` from what all have, or `private`: each unit is a shard that its holders keep, and who
    holds the same one is a replica, however many these are. Of replicas that differ, with no majority of one
    result, `disputes` says what counts: "take" that of the lowest peer id, or "drop" the unit. For whom a
    leader waits beyond the quorum is its `wait`: see waiting.py. `weights` says what a contribution weighs:
    its "tokens", tokens by "rate", or tokens by how seldom its member's "participation" is; see weighing.py.
    What comes `late` is to "carry" in the residual, to "drop", or to "merge": then it is offered to the next
    round, and weighs less by its age, of `staleness_max` updates at most (0033).
    """

    rounds: int = 0
    quorum: float = 0.5
    grace_share: float = 0.25
    grace_ms_min: int = 500
    grace_ms_max: int = 30_000
    train_ms_max: int = 600_000
    deadline_ms: int = 15_000
    bytes_per_s_min: int = 250_000
    retry_ms: int = 1_000
    lease_ms: int = 10_000
    missed_max: int = 2
    probation_rounds: int = 1
    start_workers: int = 1
    owners_max: int = 64
    part_bytes_min: int = 524_288
    voters_max: int = 64
    keep_rounds: int = 4
    snapshot_rounds: int = 256
    late: str = "carry"
    fragments: int = 1
    partition: str = "balanced"
    overlap: int = 0
    mixing: float = 0.5
    exchange: str = "dense"
    votes: str = "majority"
    work: str = "equal"
    steps_min: int = 1
    replicas: int = 1
    shards: str = "dealt"
    disputes: str = "take"
    wait: str = "grace"
    weights: str = "tokens"
    staleness_max: int = 8

    @property
    def given_up(self) -> str:
        """What becomes of a contribution that no round took, nor will."""
        return "drop" if self.late == "drop" else "carry"

    @property
    def replicated(self) -> bool:
        """Whether several workers may train the same unit, of which one counts."""
        return self.replicas > 1 or self.shards == "private"

    @property
    def committee_max(self) -> int:
        """How many vote at most: all, where some may lie, as a part of them could be liars only."""
        return MEMBERS_MAX if self.votes == "two-thirds" else self.voters_max


@dataclass(frozen=True, slots=True)
class OuterRules:
    """The outer optimiser, how contributions become one update, and the codec of what is exchanged.

    Rules without momentum have `momentum` 0, and "average" also `learning_rate` 1. `feedback` is the share
    of what encoding left out that a peer offers again: 1 all of it, 0 none. `clip` "median" shortens
    contributions to their median length first; `faulty` is the share of them that `aggregation` is to bear.
    """

    rule: str = "nesterov"
    learning_rate: float = 0.7
    momentum: float = 0.9
    codec: str = "int8"
    aggregation: str = "mean"
    feedback: float = 1.0
    clip: str = "median"
    faulty: float = 0.0


@dataclass(frozen=True, slots=True)
class MembershipRules:
    """Who may join: anybody, holders of the invite's secret (`token_key` is its public half), or a list."""

    policy: str = "open"
    witnesses: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    token_key: str = ""


@dataclass(frozen=True, slots=True)
class AuditTable:
    """Who looks at whose contributions, and which average of judgements, -1 to 1, leaves how much weight.

    In each round so many `auditors` look at so many `targets`, each at `steps` of their steps. A member's
    reputation is a mean over `memory` judgements: up to `floor` it weighs nothing, from `full` on all; a
    joiner needs `trials` of them first. Nothing that was sent before `from_round` is audited. (audit.py)
    """

    auditors: int = 5
    targets: int = 8
    steps: int = 4
    memory: int = 12
    floor: float = 0.3
    full: float = 0.5
    trials: int = 3
    from_round: int = 5

    @property
    def rules(self) -> AuditRules:
        """In whole numbers; ConfigError if a value is out of its bounds."""
        shares = int(self.floor * UNIT), int(self.full * UNIT)
        numbers = self.auditors, self.targets, self.steps, self.memory
        return AuditRules(*numbers, *shares, self.trials, self.from_round)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What each member is asked to do in a round: inner steps, and the tokens that they process."""

    steps: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Manifest:
    name: str
    authority: str
    numel: int
    anchor_blobs: tuple[BlobRef, ...]
    assignment: Assignment
    rounds: RoundRules = field(default_factory=RoundRules)
    outer: OuterRules = field(default_factory=OuterRules)
    membership: MembershipRules = field(default_factory=MembershipRules)
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    inner: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    audit: AuditTable | None = None

    @property
    def anchor(self) -> Digest:
        """The anchor digest of round 0: over the digests of the anchor and the outer optimiser's state."""
        return digest_of(*(bytes.fromhex(ref.digest) for ref in self.anchor_blobs))

    def genesis(self, run_id: Digest) -> Genesis:
        members = tuple(Member(PeerId(peer), Role.WITNESS) for peer in sorted(self.membership.witnesses))
        rules = self.rounds
        authority = PeerId(self.authority)
        return Genesis(run_id, self.anchor, members, authority, rules.committee_max, rules.votes)

    def to_json(self) -> str:
        """All keys, but for those that later versions brought, where they say nothing new: so a run that does
        not use them has the id that it always had.
        """
        said = dataclasses.asdict(self)
        for name, usual in (("rounds", RoundRules()), ("outer", OuterRules())):
            for key in LATER_KEYS[name]:
                if said[name][key] == getattr(usual, key):
                    del said[name][key]
        if self.audit is None:
            del said["audit"]
        return json.dumps(said, indent=1, sort_keys=True)


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest and the bytes that carry it. `run_id` is the digest of these bytes."""

    manifest: Manifest
    raw: bytes

    @property
    def run_id(self) -> Digest:
        return digest_of(self.raw)

    @property
    def genesis(self) -> Genesis:
        return self.manifest.genesis(self.run_id)


def sign(manifest: Manifest, authority: Key) -> SignedManifest:
    """Sign a manifest as the authority that it names."""
    assert manifest.authority == authority.peer
    check(manifest, "manifest")
    text = manifest.to_json().encode()
    return SignedManifest(
        manifest,
        wire.SignedManifest(manifest=text, signature=authority.sign(_DOMAIN + text)).SerializeToString(),
    )


def open_manifest(raw: bytes, run_id: Digest) -> SignedManifest:
    """Check the digest and the authority's signature, then every key; RemoteProtocolError or ConfigError."""
    if len(raw) > MANIFEST_BYTES_MAX:
        raise RemoteProtocolError(f"a manifest has at most {MANIFEST_BYTES_MAX} bytes, not {len(raw)}")
    if digest_of(raw) != run_id:
        raise RemoteProtocolError("the manifest's digest is not the run id")
    try:
        signed = wire.SignedManifest.FromString(raw)
        manifest = parse(json.loads(signed.manifest), "manifest")
    except (DecodeError, ValueError, RecursionError):
        raise RemoteProtocolError("not a run manifest") from None
    if not verify(public_key_of(manifest.authority), _DOMAIN + signed.manifest, signed.signature):
        raise RemoteProtocolError("the manifest is not signed by the authority that it names")
    return SignedManifest(manifest, raw)


# ---- reading and checking -----------------------------------------------------------------------

_KINDS = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "str": (str, "text"),
    "tuple[str, ...]": ((list, tuple), "a list of texts"),
}


def section(kind: type[_T], raw: object, where: str) -> _T:
    """Build one flat section from a mapping: unknown or mistyped keys are errors that name the right one."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{raw!r} is no section", where, "a table of keys and values")
    fields = {f.name: str(f.type) for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1)
            raise ConfigError(
                f"unknown key {key!r}",
                where,
                f"did you mean {near[0]!r}?" if near else f"one of {', '.join(fields)}",
            )
        types, name = _KINDS[fields[key]]
        if not isinstance(value, types) or isinstance(value, bool):  # type: ignore[arg-type]
            raise ConfigError(f"{key} = {value!r}", where, f"{key} is {name}")
        if isinstance(value, (list, tuple)):
            if not all(isinstance(item, str) for item in value):
                raise ConfigError(f"{key} = {value!r}", where, f"{key} is {name}")
            value = tuple(value)
        values[key] = value
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(str(error).split(") ")[-1], where) from None


def parse(raw: object, where: str) -> Manifest:
    """Read a manifest's JSON object."""
    if not isinstance(raw, Mapping):
        raise ConfigError("no manifest", where, "a JSON object")
    names = {f.name for f in dataclasses.fields(Manifest)}
    if unknown := sorted(set(raw) - names):
        raise ConfigError(f"unknown key {unknown[0]!r}", where, f"one of {', '.join(sorted(names))}")
    if raw.get("format") != FORMAT:
        raise ConfigError(f"format {raw.get('format')!r}", where, f"this version of atoll reads {FORMAT}")
    try:
        name, authority, numel = raw["name"], raw["authority"], raw["numel"]
        if not (type(name) is type(authority) is str and type(numel) is int):
            raise TypeError("name and authority are text, numel a whole number")
        manifest = Manifest(
            name=name,
            authority=authority,
            numel=numel,
            anchor_blobs=tuple(
                BlobRef(Digest(str(b["digest"])), int(b["size"])) for b in raw["anchor_blobs"]
            ),
            assignment=section(Assignment, raw["assignment"], f"{where}: assignment"),
            rounds=section(RoundRules, raw["rounds"], f"{where}: rounds"),
            outer=section(OuterRules, raw["outer"], f"{where}: outer"),
            membership=section(MembershipRules, raw["membership"], f"{where}: membership"),
            model=dict(raw["model"]),
            data=dict(raw["data"]),
            inner=dict(raw["inner"]),
            audit=section(AuditTable, raw["audit"], f"{where}: audit") if "audit" in raw else None,
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ConfigError(f"missing or malformed: {error}", where) from None
    check(manifest, where)
    return manifest


def check(manifest: Manifest, where: str) -> None:
    """Every value within its bounds, or a ConfigError that says what would be right."""
    _check_shape(manifest, where)
    check_rounds(manifest.rounds, f"{where}: rounds")
    check_outer(manifest.outer, f"{where}: outer")
    check_together(manifest.outer, manifest.rounds, where)
    check_membership(manifest.membership, f"{where}: membership")
    check_audit(manifest.audit, manifest.rounds, where)
    _require(
        manifest.rounds.votes == "majority" or manifest.membership.policy != "open",
        f"votes = {manifest.rounds.votes!r} with policy = 'open'",
        where,
        "policy = 'token' or 'allowlist': else one liar joins as often as it likes",
    )


def _require(holds: bool, what: str, where: str, right: str) -> None:
    if not holds:
        raise ConfigError(what, where, right)


def _hex(text: str, what: str, where: str, right: str) -> None:
    _require(len(text) == 64 and set(text) <= set("0123456789abcdef"), what, where, right)


def _check_shape(manifest: Manifest, where: str) -> None:
    _require(
        0 < manifest.numel < 1 << 40,
        f"numel = {manifest.numel}",
        where,
        "parameters of the model, at least 1",
    )
    sizes = [ref.size for ref in manifest.anchor_blobs]
    anchors, momenta = sizes[::2], sizes[1::2]
    _require(
        len(anchors) == manifest.rounds.fragments
        and anchors == momenta
        and all(size > 0 and size % 4 == 0 for size in anchors)
        and sum(anchors) == 4 * manifest.numel,
        f"anchor_blobs of {sizes[:8]} bytes",
        where,
        "anchor and momentum, fp32" + (", of each fragment" if manifest.rounds.fragments > 1 else ""),
    )
    for ref in manifest.anchor_blobs:
        _hex(ref.digest, ref.digest, where, "64 hexadecimal digits")
    assigned = manifest.assignment
    fits = 0 < assigned.steps <= STEPS_MAX and 0 < assigned.tokens <= TOKENS_MAX
    _require(fits, f"assignment {assigned}", where, f"1 to {STEPS_MAX} steps, 1 to {TOKENS_MAX} tokens")
    _peer(manifest.authority, f"{where}: authority")


def check_rounds(rules: RoundRules, where: str) -> None:
    _require(0 < rules.quorum <= 1, f"quorum = {rules.quorum}", where, "a share above 0, at most 1")
    _require(0 <= rules.grace_share <= 10, f"grace_share = {rules.grace_share}", where, "between 0 and 10")
    for key in ("deadline_ms", "retry_ms", "lease_ms", "train_ms_max"):
        value = getattr(rules, key)
        _require(10 <= value <= 7 * 86_400_000, f"{key} = {value}", where, "10 ms to a week")
    _require(
        0 <= rules.grace_ms_min <= rules.grace_ms_max,
        f"grace_ms_min = {rules.grace_ms_min}",
        where,
        "at most grace_ms_max",
    )
    for key, least in (
        ("rounds", 0),
        ("missed_max", 0),
        ("probation_rounds", 0),
        ("start_workers", 1),
        ("snapshot_rounds", 0),
        ("bytes_per_s_min", 1),
        ("part_bytes_min", 1),
    ):
        value = getattr(rules, key)
        _require(least <= value <= COUNT_MAX, f"{key} = {value}", where, f"{least} to {COUNT_MAX}")
    _require(1 <= rules.owners_max <= 4096, f"owners_max = {rules.owners_max}", where, "1 to 4096")
    _require(1 <= rules.voters_max <= 4096, f"voters_max = {rules.voters_max}", where, "1 to 4096")
    _require(2 <= rules.keep_rounds <= 1000, f"keep_rounds = {rules.keep_rounds}", where, "2 to 1000")
    _require(rules.late in LATE, f"late = {rules.late!r}", where, f"one of {', '.join(LATE)}")
    fits = 1 <= rules.staleness_max <= STALENESS_MAX
    _require(fits, f"staleness_max = {rules.staleness_max}", where, f"1 to {STALENESS_MAX}")
    fits = 1 <= rules.fragments <= FRAGMENTS_MAX
    _require(fits, f"fragments = {rules.fragments}", where, f"1 to {FRAGMENTS_MAX}")
    fits = 0 <= rules.overlap < rules.fragments
    _require(fits, f"overlap = {rules.overlap}", where, f"0 to {rules.fragments - 1}, less than fragments")
    fits = rules.partition in PARTITIONS
    _require(fits, f"partition = {rules.partition!r}", where, f"one of {', '.join(PARTITIONS)}")
    _require(0 <= rules.mixing < 1, f"mixing = {rules.mixing}", where, "0 to below 1")
    fits = rules.exchange in ("dense", "sparse")
    _require(fits, f"exchange = {rules.exchange!r}", where, "'dense' or 'sparse'")
    known = ("majority", "two-thirds")
    _require(rules.votes in known, f"votes = {rules.votes!r}", where, "'majority' or 'two-thirds'")
    fits = rules.work in ("equal", "by-speed")
    _require(fits, f"work = {rules.work!r}", where, "'equal' or 'by-speed'")
    fits = 1 <= rules.steps_min <= STEPS_MAX
    _require(fits, f"steps_min = {rules.steps_min}", where, f"1 to {STEPS_MAX}")
    fits = 1 <= rules.replicas <= REPLICAS_MAX
    _require(fits, f"replicas = {rules.replicas}", where, f"1 to {REPLICAS_MAX}")
    fits = rules.weights in WEIGHTS
    _require(fits, f"weights = {rules.weights!r}", where, f"one of {', '.join(WEIGHTS)}")
    _check_shards(rules, where)
    _check_wait(rules, where)


def _check_wait(rules: RoundRules, where: str) -> None:
    what, slack = f"wait = {rules.wait!r}", rules.wait == "slack"
    _require(rules.wait in WAITS, what, where, f"one of {', '.join(WAITS)}")
    if rules.wait == "grace":
        return
    right = "wait = 'grace': what comes late is merged into the next round, so nobody needs to be waited for"
    _require(rules.late != "merge", f"{what} with late = 'merge'", where, right)
    right = "leave it out: where workers are replicas, each unit is waited for"
    _require(not rules.replicated, f"{what} with replicas", where, right)
    right = "overlap above 0: else nobody can train on without the update, and there is no slack"
    _require(not slack or rules.overlap > 0, f"{what} with overlap = 0", where, right)
    right = "wait = 'slack': training goes on meanwhile, and a round costs no more for taking longer"
    _require(slack or rules.overlap == 0, f"{what} with overlap = {rules.overlap}", where, right)


def _check_shards(rules: RoundRules, where: str) -> None:
    fits = rules.shards in ("dealt", "private")
    _require(fits, f"shards = {rules.shards!r}", where, "'dealt' or 'private'")
    fits = rules.disputes in ("take", "drop")
    _require(fits, f"disputes = {rules.disputes!r}", where, "'take' or 'drop'")
    right = "replicas above 1, or shards = 'private': else nobody does what another one did"
    fits = rules.disputes == "take" or rules.replicated
    _require(fits, f"disputes = {rules.disputes!r} without replicas", where, right)
    if rules.shards == "private":
        right = "leave it out: a private shard has as many replicas as members hold it"
        _require(rules.replicas == 1, f"replicas = {rules.replicas} with shards = 'private'", where, right)
        right = "votes = 'majority': what a joiner holds is not among what two thirds check"
        _require(rules.votes == "majority", f"votes = {rules.votes!r} with shards = 'private'", where, right)


def check_outer(outer: OuterRules, where: str) -> None:
    for key, known in (("rule", RULES), ("codec", CODECS), ("aggregation", AGGREGATIONS)):
        value = getattr(outer, key)
        near = "".join(f"did you mean {name!r}? " for name in difflib.get_close_matches(value, known, 1))
        _require(value in known, f"{key} = {value!r}", where, f"{near}One of: {', '.join(known)}")
    _require(
        0 < outer.learning_rate <= 10, f"learning_rate = {outer.learning_rate}", where, "above 0, at most 10"
    )
    _require(0 <= outer.momentum < 1, f"momentum = {outer.momentum}", where, "0 to below 1")
    _require(0 <= outer.feedback <= 1, f"feedback = {outer.feedback}", where, "0 to 1")
    _require(outer.clip in ("median", "none"), f"clip = {outer.clip!r}", where, "'median' or 'none'")
    _require(0 <= outer.faulty < 0.5, f"faulty = {outer.faulty}", where, "a share, 0 to below 0.5")
    still = outer.rule not in ("average", "sgd") or outer.momentum == 0
    _require(still, f"momentum = {outer.momentum}", where, f"0: the rule {outer.rule!r} has none")
    whole = outer.rule != "average" or outer.learning_rate == 1
    _require(whole, f"learning_rate = {outer.learning_rate}", where, "1: the rule 'average' has none")


def check_together(outer: OuterRules, rounds: RoundRules, where: str) -> None:
    """ConfigError for rules that are right one by one and wrong together."""
    chosen = Choices(
        rule=outer.rule,
        aggregation=outer.aggregation,
        codec=outer.codec,
        feedback=outer.feedback,
        exchange=rounds.exchange,
        clip=outer.clip,
        work=rounds.work,
        fragments=rounds.fragments,
        replicas=rounds.replicas,
        shards=rounds.shards,
        votes=rounds.votes,
        weights=rounds.weights,
        late=rounds.late,
        grace_ms=rounds.grace_ms_max,
    )
    check_combinations(chosen, where)


def check_audit(table: AuditTable | None, rounds: RoundRules, where: str) -> None:
    """ConfigError for what audits cannot be had with yet, or for a value out of its bounds."""
    if table is None:
        return
    for key, right in (
        (
            "exchange",
            "'dense': a sparse contribution is a small part of what was trained, and says too little",
        ),
        ("fragments", "1: with more a contribution does not end where its training began"),
        ("replicas", "1: replicas check each other already"),
        ("shards", "'dealt': nobody else has the data that a private shard was trained on"),
        ("work", "'equal': contributions of unlike steps gain unlike, whoever trained"),
        ("weights", "'tokens': who weighs nothing by audits would count among those who are seldom here"),
    ):
        value = getattr(rounds, key)
        _require(value == getattr(RoundRules(), key), f"{key} = {value!r} with [audit]", where, right)
    right = "'carry' or 'drop': what is merged later was not trained on the steps of its round"
    _require(rounds.late != "merge", f"late = {rounds.late!r} with [audit]", where, right)
    for key in ("floor", "full"):
        share = getattr(table, key)
        _require(0 <= share <= 1, f"{key} = {share}", f"{where}: [audit]", "0 to 1")
    try:
        _ = table.rules
    except ConfigError as error:
        raise ConfigError(error.what, f"{where}: [audit]", error.right) from None


def check_membership(rules: MembershipRules, where: str) -> None:
    known = ("open", "token", "allowlist")
    _require(rules.policy in known, f"policy = {rules.policy!r}", where, f"one of {', '.join(known)}")
    _require(len(rules.witnesses) > 0, "no witnesses", where, "the coordinator's peer id at least")
    _require(
        len(set(rules.witnesses)) == len(rules.witnesses), "a witness is named twice", where, "once each"
    )
    for peer in (*rules.witnesses, *rules.allow):
        _peer(peer, where)
    if rules.policy == "token":
        _hex(rules.token_key, f"token_key = {rules.token_key!r}", where, "a public key, 64 hex digits")


def _peer(peer: str, where: str) -> None:
    try:
        public_key_of(peer)
    except RemoteProtocolError as error:
        raise ConfigError(str(error), where, "a peer id as `atoll key show` prints it") from None
