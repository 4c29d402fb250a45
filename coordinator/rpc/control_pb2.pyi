from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AboutRun(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunReply(_message.Message):
    __slots__ = ("run_id", "manifest", "authority", "invite")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    INVITE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    manifest: str
    authority: str
    invite: str
    def __init__(self, run_id: _Optional[str] = ..., manifest: _Optional[str] = ..., authority: _Optional[str] = ..., invite: _Optional[str] = ...) -> None: ...

class AboutCheckpoint(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckpointReply(_message.Message):
    __slots__ = ("round", "anchor_digest", "path")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    round: int
    anchor_digest: str
    path: str
    def __init__(self, round: _Optional[int] = ..., anchor_digest: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class AboutLedger(_message.Message):
    __slots__ = ("from_round", "count")
    FROM_ROUND_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    from_round: int
    count: int
    def __init__(self, from_round: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class LedgerReply(_message.Message):
    __slots__ = ("commits", "first_round")
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROUND_FIELD_NUMBER: _ClassVar[int]
    commits: _containers.RepeatedScalarFieldContainer[str]
    first_round: int
    def __init__(self, commits: _Optional[_Iterable[str]] = ..., first_round: _Optional[int] = ...) -> None: ...

class AboutRecovery(_message.Message):
    __slots__ = ("keep", "only_tell")
    KEEP_FIELD_NUMBER: _ClassVar[int]
    ONLY_TELL_FIELD_NUMBER: _ClassVar[int]
    keep: _containers.RepeatedScalarFieldContainer[str]
    only_tell: bool
    def __init__(self, keep: _Optional[_Iterable[str]] = ..., only_tell: _Optional[bool] = ...) -> None: ...

class Kept(_message.Message):
    __slots__ = ("peer", "role", "kept", "heard_ms")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    HEARD_MS_FIELD_NUMBER: _ClassVar[int]
    peer: str
    role: str
    kept: bool
    heard_ms: int
    def __init__(self, peer: _Optional[str] = ..., role: _Optional[str] = ..., kept: _Optional[bool] = ..., heard_ms: _Optional[int] = ...) -> None: ...

class RecoveryReply(_message.Message):
    __slots__ = ("round", "epoch", "members", "digest")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    round: int
    epoch: int
    members: _containers.RepeatedCompositeFieldContainer[Kept]
    digest: str
    def __init__(self, round: _Optional[int] = ..., epoch: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Kept, _Mapping]]] = ..., digest: _Optional[str] = ...) -> None: ...
