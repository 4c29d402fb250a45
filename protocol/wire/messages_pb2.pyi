from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER: _ClassVar[Role]
    WITNESS: _ClassVar[Role]
    PAUSED: _ClassVar[Role]

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPDATE: _ClassVar[Kind]
    SKIP: _ClassVar[Kind]
    SETTINGS: _ClassVar[Kind]
    RECOVERY: _ClassVar[Kind]

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMMIT: _ClassVar[Stage]
    PREPARE: _ClassVar[Stage]
WORKER: Role
WITNESS: Role
PAUSED: Role
UPDATE: Kind
SKIP: Kind
SETTINGS: Kind
RECOVERY: Kind
COMMIT: Stage
PREPARE: Stage

class Envelope(_message.Message):
    __slots__ = ("version", "run_id", "public_key", "body", "signature", "record")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    version: int
    run_id: bytes
    public_key: bytes
    body: bytes
    signature: bytes
    record: bytes
    def __init__(self, version: _Optional[int] = ..., run_id: _Optional[bytes] = ..., public_key: _Optional[bytes] = ..., body: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., record: _Optional[bytes] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("accepted", "reason")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    reason: str
    def __init__(self, accepted: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class BlobRef(_message.Message):
    __slots__ = ("digest", "size")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    size: int
    def __init__(self, digest: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("peer", "role", "weight_from", "missed", "speed", "steps", "shard", "gap_total", "gap_count", "gap_since", "reputation")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FROM_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    GAP_TOTAL_FIELD_NUMBER: _ClassVar[int]
    GAP_COUNT_FIELD_NUMBER: _ClassVar[int]
    GAP_SINCE_FIELD_NUMBER: _ClassVar[int]
    REPUTATION_FIELD_NUMBER: _ClassVar[int]
    peer: str
    role: Role
    weight_from: int
    missed: int
    speed: int
    steps: int
    shard: str
    gap_total: int
    gap_count: int
    gap_since: int
    reputation: Reputation
    def __init__(self, peer: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., weight_from: _Optional[int] = ..., missed: _Optional[int] = ..., speed: _Optional[int] = ..., steps: _Optional[int] = ..., shard: _Optional[str] = ..., gap_total: _Optional[int] = ..., gap_count: _Optional[int] = ..., gap_since: _Optional[int] = ..., reputation: _Optional[_Union[Reputation, _Mapping]] = ...) -> None: ...

class Reputation(_message.Message):
    __slots__ = ("value", "count", "audited", "trials")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    AUDITED_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    value: int
    count: int
    audited: int
    trials: int
    def __init__(self, value: _Optional[int] = ..., count: _Optional[int] = ..., audited: _Optional[int] = ..., trials: _Optional[int] = ...) -> None: ...

class Changes(_message.Message):
    __slots__ = ("changed", "left")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    changed: _containers.RepeatedCompositeFieldContainer[Member]
    left: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, changed: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., left: _Optional[_Iterable[int]] = ...) -> None: ...

class Contributions(_message.Message):
    __slots__ = ("runs", "tokens", "steps", "weights", "train_ms", "staleness")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_MS_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedScalarFieldContainer[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    weights: _containers.RepeatedScalarFieldContainer[int]
    train_ms: _containers.RepeatedScalarFieldContainer[int]
    staleness: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, runs: _Optional[_Iterable[int]] = ..., tokens: _Optional[_Iterable[int]] = ..., steps: _Optional[_Iterable[int]] = ..., weights: _Optional[_Iterable[int]] = ..., train_ms: _Optional[_Iterable[int]] = ..., staleness: _Optional[_Iterable[int]] = ...) -> None: ...

class Rejections(_message.Message):
    __slots__ = ("reason", "places")
    REASON_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    reason: str
    places: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, reason: _Optional[str] = ..., places: _Optional[_Iterable[int]] = ...) -> None: ...

class Contributor(_message.Message):
    __slots__ = ("peer", "tokens", "steps", "weight", "train_ms", "staleness")
    PEER_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TRAIN_MS_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    peer: str
    tokens: int
    steps: int
    weight: int
    train_ms: int
    staleness: int
    def __init__(self, peer: _Optional[str] = ..., tokens: _Optional[int] = ..., steps: _Optional[int] = ..., weight: _Optional[int] = ..., train_ms: _Optional[int] = ..., staleness: _Optional[int] = ...) -> None: ...

class Body(_message.Message):
    __slots__ = ("run_id", "round", "parent", "fragment", "kind", "contributors", "rejected", "blobs", "anchor", "members", "epoch", "sent", "scores", "evidence", "joining", "farewells")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    JOINING_FIELD_NUMBER: _ClassVar[int]
    FAREWELLS_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    round: int
    parent: bytes
    fragment: int
    kind: Kind
    contributors: Contributions
    rejected: _containers.RepeatedCompositeFieldContainer[Rejections]
    blobs: _containers.RepeatedCompositeFieldContainer[BlobRef]
    anchor: bytes
    members: Changes
    epoch: int
    sent: Sent
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    evidence: _containers.RepeatedCompositeFieldContainer[Equivocation]
    joining: _containers.RepeatedCompositeFieldContainer[Joining]
    farewells: _containers.RepeatedCompositeFieldContainer[Farewell]
    def __init__(self, run_id: _Optional[bytes] = ..., round: _Optional[int] = ..., parent: _Optional[bytes] = ..., fragment: _Optional[int] = ..., kind: _Optional[_Union[Kind, str]] = ..., contributors: _Optional[_Union[Contributions, _Mapping]] = ..., rejected: _Optional[_Iterable[_Union[Rejections, _Mapping]]] = ..., blobs: _Optional[_Iterable[_Union[BlobRef, _Mapping]]] = ..., anchor: _Optional[bytes] = ..., members: _Optional[_Union[Changes, _Mapping]] = ..., epoch: _Optional[int] = ..., sent: _Optional[_Union[Sent, _Mapping]] = ..., scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ..., evidence: _Optional[_Iterable[_Union[Equivocation, _Mapping]]] = ..., joining: _Optional[_Iterable[_Union[Joining, _Mapping]]] = ..., farewells: _Optional[_Iterable[_Union[Farewell, _Mapping]]] = ...) -> None: ...

class Sent(_message.Message):
    __slots__ = ("places", "steps", "works")
    PLACES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    WORKS_FIELD_NUMBER: _ClassVar[int]
    places: _containers.RepeatedScalarFieldContainer[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    works: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, places: _Optional[_Iterable[int]] = ..., steps: _Optional[_Iterable[int]] = ..., works: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("auditor", "target", "heldout", "assigned", "control", "replay", "signature", "auditor_place", "target_place")
    AUDITOR_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    HELDOUT_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    REPLAY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    AUDITOR_PLACE_FIELD_NUMBER: _ClassVar[int]
    TARGET_PLACE_FIELD_NUMBER: _ClassVar[int]
    auditor: str
    target: str
    heldout: int
    assigned: int
    control: int
    replay: int
    signature: bytes
    auditor_place: int
    target_place: int
    def __init__(self, auditor: _Optional[str] = ..., target: _Optional[str] = ..., heldout: _Optional[int] = ..., assigned: _Optional[int] = ..., control: _Optional[int] = ..., replay: _Optional[int] = ..., signature: _Optional[bytes] = ..., auditor_place: _Optional[int] = ..., target_place: _Optional[int] = ...) -> None: ...

class VoteSignature(_message.Message):
    __slots__ = ("peer", "signature")
    PEER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    peer: str
    signature: bytes
    def __init__(self, peer: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Equivocation(_message.Message):
    __slots__ = ("peer", "round", "view", "stage", "bodies", "signatures", "epoch", "place")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    BODIES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    peer: str
    round: int
    view: int
    stage: Stage
    bodies: _containers.RepeatedScalarFieldContainer[bytes]
    signatures: _containers.RepeatedScalarFieldContainer[bytes]
    epoch: int
    place: int
    def __init__(self, peer: _Optional[str] = ..., round: _Optional[int] = ..., view: _Optional[int] = ..., stage: _Optional[_Union[Stage, str]] = ..., bodies: _Optional[_Iterable[bytes]] = ..., signatures: _Optional[_Iterable[bytes]] = ..., epoch: _Optional[int] = ..., place: _Optional[int] = ...) -> None: ...

class Joining(_message.Message):
    __slots__ = ("peer", "round", "token", "signature")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    peer: str
    round: int
    token: bytes
    signature: bytes
    def __init__(self, peer: _Optional[str] = ..., round: _Optional[int] = ..., token: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Farewell(_message.Message):
    __slots__ = ("place", "round", "signature")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    place: int
    round: int
    signature: bytes
    def __init__(self, place: _Optional[int] = ..., round: _Optional[int] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SignedPromise(_message.Message):
    __slots__ = ("peer", "accepted", "accepted_view", "accepted_body", "signature")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_VIEW_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    peer: str
    accepted: bool
    accepted_view: int
    accepted_body: bytes
    signature: bytes
    def __init__(self, peer: _Optional[str] = ..., accepted: _Optional[bool] = ..., accepted_view: _Optional[int] = ..., accepted_body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Justification(_message.Message):
    __slots__ = ("promises", "certificate")
    PROMISES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    promises: _containers.RepeatedCompositeFieldContainer[SignedPromise]
    certificate: _containers.RepeatedCompositeFieldContainer[VoteSignature]
    def __init__(self, promises: _Optional[_Iterable[_Union[SignedPromise, _Mapping]]] = ..., certificate: _Optional[_Iterable[_Union[VoteSignature, _Mapping]]] = ...) -> None: ...

class Sighting(_message.Message):
    __slots__ = ("view", "body", "signature")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    view: int
    body: bytes
    signature: bytes
    def __init__(self, view: _Optional[int] = ..., body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("round", "epoch", "head", "updates", "members", "signature", "banned")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    BANNED_FIELD_NUMBER: _ClassVar[int]
    round: int
    epoch: int
    head: bytes
    updates: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    signature: bytes
    banned: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, round: _Optional[int] = ..., epoch: _Optional[int] = ..., head: _Optional[bytes] = ..., updates: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., signature: _Optional[bytes] = ..., banned: _Optional[_Iterable[str]] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("body", "view", "voters", "signatures", "authority", "packed")
    BODY_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    view: int
    voters: _containers.RepeatedScalarFieldContainer[int]
    signatures: _containers.RepeatedScalarFieldContainer[bytes]
    authority: str
    packed: bytes
    def __init__(self, body: _Optional[bytes] = ..., view: _Optional[int] = ..., voters: _Optional[_Iterable[int]] = ..., signatures: _Optional[_Iterable[bytes]] = ..., authority: _Optional[str] = ..., packed: _Optional[bytes] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("view", "anchor", "tokens", "steps", "parts", "leaving", "farewell", "uplink", "train_ms", "spare_ms", "staleness")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    FAREWELL_FIELD_NUMBER: _ClassVar[int]
    UPLINK_FIELD_NUMBER: _ClassVar[int]
    TRAIN_MS_FIELD_NUMBER: _ClassVar[int]
    SPARE_MS_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    view: int
    anchor: bytes
    tokens: int
    steps: int
    parts: _containers.RepeatedCompositeFieldContainer[BlobRef]
    leaving: bool
    farewell: bytes
    uplink: int
    train_ms: int
    spare_ms: int
    staleness: int
    def __init__(self, view: _Optional[int] = ..., anchor: _Optional[bytes] = ..., tokens: _Optional[int] = ..., steps: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[BlobRef, _Mapping]]] = ..., leaving: _Optional[bool] = ..., farewell: _Optional[bytes] = ..., uplink: _Optional[int] = ..., train_ms: _Optional[int] = ..., spare_ms: _Optional[int] = ..., staleness: _Optional[int] = ...) -> None: ...

class Ahead(_message.Message):
    __slots__ = ("offer",)
    OFFER_FIELD_NUMBER: _ClassVar[int]
    offer: Offer
    def __init__(self, offer: _Optional[_Union[Offer, _Mapping]] = ...) -> None: ...

class Alive(_message.Message):
    __slots__ = ("view", "steps")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    view: int
    steps: int
    def __init__(self, view: _Optional[int] = ..., steps: _Optional[int] = ...) -> None: ...

class Waiting(_message.Message):
    __slots__ = ("view", "reason")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    view: int
    reason: str
    def __init__(self, view: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("view", "revision", "participants", "columns")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    view: int
    revision: int
    participants: _containers.RepeatedCompositeFieldContainer[Contributor]
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, view: _Optional[int] = ..., revision: _Optional[int] = ..., participants: _Optional[_Iterable[_Union[Contributor, _Mapping]]] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("part", "blobs")
    PART_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    part: int
    blobs: _containers.RepeatedCompositeFieldContainer[BlobRef]
    def __init__(self, part: _Optional[int] = ..., blobs: _Optional[_Iterable[_Union[BlobRef, _Mapping]]] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("view", "part", "peers", "plan")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    view: int
    part: int
    peers: _containers.RepeatedScalarFieldContainer[str]
    plan: bytes
    def __init__(self, view: _Optional[int] = ..., part: _Optional[int] = ..., peers: _Optional[_Iterable[str]] = ..., plan: _Optional[bytes] = ...) -> None: ...

class Cut(_message.Message):
    __slots__ = ("view", "revision", "contributors")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    view: int
    revision: int
    contributors: _containers.RepeatedCompositeFieldContainer[Contributor]
    def __init__(self, view: _Optional[int] = ..., revision: _Optional[int] = ..., contributors: _Optional[_Iterable[_Union[Contributor, _Mapping]]] = ...) -> None: ...

class Reduced(_message.Message):
    __slots__ = ("view", "revision", "part", "blob")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    view: int
    revision: int
    part: int
    blob: BlobRef
    def __init__(self, view: _Optional[int] = ..., revision: _Optional[int] = ..., part: _Optional[int] = ..., blob: _Optional[_Union[BlobRef, _Mapping]] = ...) -> None: ...

class Summed(_message.Message):
    __slots__ = ("view", "part", "blob")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    view: int
    part: int
    blob: BlobRef
    def __init__(self, view: _Optional[int] = ..., part: _Optional[int] = ..., blob: _Optional[_Union[BlobRef, _Mapping]] = ...) -> None: ...

class Propose(_message.Message):
    __slots__ = ("view", "body", "holders", "by_part", "signature", "justification")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    BY_PART_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    JUSTIFICATION_FIELD_NUMBER: _ClassVar[int]
    view: int
    body: bytes
    holders: _containers.RepeatedScalarFieldContainer[str]
    by_part: bool
    signature: bytes
    justification: Justification
    def __init__(self, view: _Optional[int] = ..., body: _Optional[bytes] = ..., holders: _Optional[_Iterable[str]] = ..., by_part: _Optional[bool] = ..., signature: _Optional[bytes] = ..., justification: _Optional[_Union[Justification, _Mapping]] = ...) -> None: ...

class Vote(_message.Message):
    __slots__ = ("view", "body_digest", "signature", "stage")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    BODY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    view: int
    body_digest: bytes
    signature: bytes
    stage: Stage
    def __init__(self, view: _Optional[int] = ..., body_digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., stage: _Optional[_Union[Stage, str]] = ...) -> None: ...

class Promise(_message.Message):
    __slots__ = ("view", "accepted", "accepted_view", "accepted_body", "signature", "certificate", "seen")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_VIEW_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    view: int
    accepted: bool
    accepted_view: int
    accepted_body: bytes
    signature: bytes
    certificate: _containers.RepeatedCompositeFieldContainer[VoteSignature]
    seen: Sighting
    def __init__(self, view: _Optional[int] = ..., accepted: _Optional[bool] = ..., accepted_view: _Optional[int] = ..., accepted_body: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., certificate: _Optional[_Iterable[_Union[VoteSignature, _Mapping]]] = ..., seen: _Optional[_Union[Sighting, _Mapping]] = ...) -> None: ...

class Lock(_message.Message):
    __slots__ = ("view", "body_digest", "votes")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    BODY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    view: int
    body_digest: bytes
    votes: _containers.RepeatedCompositeFieldContainer[VoteSignature]
    def __init__(self, view: _Optional[int] = ..., body_digest: _Optional[bytes] = ..., votes: _Optional[_Iterable[_Union[VoteSignature, _Mapping]]] = ...) -> None: ...

class Accuse(_message.Message):
    __slots__ = ("evidence",)
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    evidence: _containers.RepeatedCompositeFieldContainer[Equivocation]
    def __init__(self, evidence: _Optional[_Iterable[_Union[Equivocation, _Mapping]]] = ...) -> None: ...

class Prepare(_message.Message):
    __slots__ = ("view",)
    VIEW_FIELD_NUMBER: _ClassVar[int]
    view: int
    def __init__(self, view: _Optional[int] = ...) -> None: ...

class Commits(_message.Message):
    __slots__ = ("commits", "height", "snapshot")
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    commits: _containers.RepeatedCompositeFieldContainer[Commit]
    height: int
    snapshot: Snapshot
    def __init__(self, commits: _Optional[_Iterable[_Union[Commit, _Mapping]]] = ..., height: _Optional[int] = ..., snapshot: _Optional[_Union[Snapshot, _Mapping]] = ...) -> None: ...

class Seal(_message.Message):
    __slots__ = ("at", "signature")
    AT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    at: int
    signature: bytes
    def __init__(self, at: _Optional[int] = ..., signature: _Optional[bytes] = ...) -> None: ...

class AskCommits(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Join(_message.Message):
    __slots__ = ("role", "token", "shard", "signature")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    role: Role
    token: bytes
    shard: str
    signature: bytes
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., token: _Optional[bytes] = ..., shard: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("reason", "signature")
    REASON_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    signature: bytes
    def __init__(self, reason: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class AskState(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AskParts(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Parts(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[BlobRef]
    def __init__(self, parts: _Optional[_Iterable[_Union[BlobRef, _Mapping]]] = ...) -> None: ...

class Scores(_message.Message):
    __slots__ = ("scores",)
    SCORES_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    def __init__(self, scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ...) -> None: ...

class State(_message.Message):
    __slots__ = ("anchor", "blobs")
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    anchor: bytes
    blobs: _containers.RepeatedCompositeFieldContainer[BlobRef]
    def __init__(self, anchor: _Optional[bytes] = ..., blobs: _Optional[_Iterable[_Union[BlobRef, _Mapping]]] = ...) -> None: ...

class Refuse(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("round", "offer", "alive", "waiting", "plan", "held", "cut", "reduced", "propose", "vote", "promise", "commits", "ask_commits", "join", "leave", "ask_state", "state", "refuse", "prepare", "summed", "lock", "accuse", "seal", "ahead", "ask_parts", "parts", "scores", "epoch")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    REDUCED_FIELD_NUMBER: _ClassVar[int]
    PROPOSE_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    PROMISE_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    ASK_COMMITS_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    ASK_STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REFUSE_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    SUMMED_FIELD_NUMBER: _ClassVar[int]
    LOCK_FIELD_NUMBER: _ClassVar[int]
    ACCUSE_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    ASK_PARTS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    round: int
    offer: Offer
    alive: Alive
    waiting: Waiting
    plan: Plan
    held: Held
    cut: Cut
    reduced: Reduced
    propose: Propose
    vote: Vote
    promise: Promise
    commits: Commits
    ask_commits: AskCommits
    join: Join
    leave: Leave
    ask_state: AskState
    state: State
    refuse: Refuse
    prepare: Prepare
    summed: Summed
    lock: Lock
    accuse: Accuse
    seal: Seal
    ahead: Ahead
    ask_parts: AskParts
    parts: Parts
    scores: Scores
    epoch: int
    def __init__(self, round: _Optional[int] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ..., alive: _Optional[_Union[Alive, _Mapping]] = ..., waiting: _Optional[_Union[Waiting, _Mapping]] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., held: _Optional[_Union[Held, _Mapping]] = ..., cut: _Optional[_Union[Cut, _Mapping]] = ..., reduced: _Optional[_Union[Reduced, _Mapping]] = ..., propose: _Optional[_Union[Propose, _Mapping]] = ..., vote: _Optional[_Union[Vote, _Mapping]] = ..., promise: _Optional[_Union[Promise, _Mapping]] = ..., commits: _Optional[_Union[Commits, _Mapping]] = ..., ask_commits: _Optional[_Union[AskCommits, _Mapping]] = ..., join: _Optional[_Union[Join, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., ask_state: _Optional[_Union[AskState, _Mapping]] = ..., state: _Optional[_Union[State, _Mapping]] = ..., refuse: _Optional[_Union[Refuse, _Mapping]] = ..., prepare: _Optional[_Union[Prepare, _Mapping]] = ..., summed: _Optional[_Union[Summed, _Mapping]] = ..., lock: _Optional[_Union[Lock, _Mapping]] = ..., accuse: _Optional[_Union[Accuse, _Mapping]] = ..., seal: _Optional[_Union[Seal, _Mapping]] = ..., ahead: _Optional[_Union[Ahead, _Mapping]] = ..., ask_parts: _Optional[_Union[AskParts, _Mapping]] = ..., parts: _Optional[_Union[Parts, _Mapping]] = ..., scores: _Optional[_Union[Scores, _Mapping]] = ..., epoch: _Optional[int] = ...) -> None: ...

class PeerRecord(_message.Message):
    __slots__ = ("run_id", "public_key", "sequence", "direct", "certificate_digest", "multiaddrs", "role", "agent")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MULTIADDRS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    public_key: bytes
    sequence: int
    direct: _containers.RepeatedScalarFieldContainer[str]
    certificate_digest: bytes
    multiaddrs: _containers.RepeatedScalarFieldContainer[str]
    role: str
    agent: str
    def __init__(self, run_id: _Optional[bytes] = ..., public_key: _Optional[bytes] = ..., sequence: _Optional[int] = ..., direct: _Optional[_Iterable[str]] = ..., certificate_digest: _Optional[bytes] = ..., multiaddrs: _Optional[_Iterable[str]] = ..., role: _Optional[str] = ..., agent: _Optional[str] = ...) -> None: ...

class SignedManifest(_message.Message):
    __slots__ = ("manifest", "signature")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    signature: bytes
    def __init__(self, manifest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SignedRecord(_message.Message):
    __slots__ = ("record", "signature")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    signature: bytes
    def __init__(self, record: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class BlobRequest(_message.Message):
    __slots__ = ("run_id", "digest", "size", "offset", "stop", "digests", "chunk_bytes")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    digest: bytes
    size: int
    offset: int
    stop: int
    digests: bool
    chunk_bytes: int
    def __init__(self, run_id: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., size: _Optional[int] = ..., offset: _Optional[int] = ..., stop: _Optional[int] = ..., digests: _Optional[bool] = ..., chunk_bytes: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data", "last", "refused")
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    last: bool
    refused: str
    def __init__(self, data: _Optional[bytes] = ..., last: _Optional[bool] = ..., refused: _Optional[str] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("run_id", "public_key")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    public_key: bytes
    def __init__(self, run_id: _Optional[bytes] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class Nonce(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class Proof(_message.Message):
    __slots__ = ("run_id", "public_key", "nonce", "signature")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    public_key: bytes
    nonce: bytes
    signature: bytes
    def __init__(self, run_id: _Optional[bytes] = ..., public_key: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("token", "refused")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    refused: str
    def __init__(self, token: _Optional[bytes] = ..., refused: _Optional[str] = ...) -> None: ...
