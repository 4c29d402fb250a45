"""What may be stored in a run's DHT: entries of two dictionaries, each signed by the key that names it.

hivemind asks these rules before it stores what another node sends, and before it believes what another node
answers. They bound what strangers can make this peer keep: two keys, `OWNERS_MAX` owners, one small entry
each, for at most `LEASE_MAX_S`. Plain values are refused, because one of them would wipe the whole
dictionary.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from typing import Protocol

from atoll.protocol.keys import SIGNATURE_BYTES, Key, verify

OWNERS_MAX = 4096
LEASE_MAX_S = 90.0
_DOMAIN, _PREFIX = b"atoll dht entry 1", b"ed25519:"
_PACKED = b"\xc4\x28"  # how msgpack begins 40 bytes: the prefix and a key
_SLACK_BYTES = 8  # msgpack's own header of a value


class Entry(Protocol):
    """The fields of hivemind's DHTRecord; key and subkey are what travels, not what the caller passed."""

    key: bytes
    subkey: bytes
    value: bytes
    expiration_time: float


def subkey_of(public_key: bytes) -> bytes:
    return _PREFIX + public_key


def owner_of(subkey: object) -> bytes | None:
    """The public key in a subkey, None if it names none."""
    if isinstance(subkey, bytes) and subkey.startswith(_PREFIX) and len(subkey) == len(_PREFIX) + 32:
        return subkey[len(_PREFIX) :]
    return None


class Rules:
    """hivemind's record validator for one run: signs this peer's entries and judges those of others.

    It remembers the newest entry of each owner: to know it again without another signature check, and to
    refuse further owners once there are `OWNERS_MAX`.
    """

    priority = 10

    def __init__(self, key: Key, limits_bytes: Mapping[bytes, int], now_s: Callable[[], float]) -> None:
        self._key, self._limits_bytes, self._now_s = key, limits_bytes, now_s
        self._seen: dict[tuple[bytes, bytes], tuple[float, bytes]] = {}

    def sign_value(self, entry: Entry) -> bytes:
        mine = entry.subkey == _PACKED + subkey_of(self._key.public)
        return entry.value + self._key.sign(_message(entry, entry.value)) if mine else entry.value

    def strip_value(self, entry: Entry) -> bytes:
        return entry.value[:-SIGNATURE_BYTES]

    def validate(self, entry: Entry) -> bool:
        owner, now_s, until_s = owner_of(entry.subkey[2:]), self._now_s(), entry.expiration_time
        limit = self._limits_bytes.get(entry.key, 0) + SIGNATURE_BYTES + _SLACK_BYTES
        if owner is None or not entry.subkey.startswith(_PACKED) or entry.key not in self._limits_bytes:
            return False
        if not SIGNATURE_BYTES < len(entry.value) <= limit or not until_s <= now_s + LEASE_MAX_S:
            return False
        place, content = (entry.key, owner), (until_s, hashlib.sha256(entry.value).digest())
        if self._seen.get(place) == content:
            return True
        if place not in self._seen and not self._room(now_s):
            return False
        value, signature = entry.value[:-SIGNATURE_BYTES], entry.value[-SIGNATURE_BYTES:]
        if not verify(owner, _message(entry, value), signature):
            return False
        if place not in self._seen or self._seen[place][0] < until_s:
            self._seen[place] = content
        return True

    def merge_with(self, other: object) -> bool:
        return False

    def _room(self, now_s: float) -> bool:
        if len(self._seen) >= OWNERS_MAX:
            self._seen = {place: seen for place, seen in self._seen.items() if seen[0] > now_s}
        return len(self._seen) < OWNERS_MAX


def _message(entry: Entry, value: bytes) -> bytes:
    """Key, subkey and time have fixed lengths, so no two entries give the same bytes."""
    return _DOMAIN + entry.key + entry.subkey + struct.pack(">d", entry.expiration_time) + value
