"""Private shards: data that stay with their owners. A unit is a shard that members hold, known by its name.

Who joins declares the name of the one shard that it holds, and the commit that lists it says so. The workers
of one name are replicas of each other: each trains the same unit, one of them counts, and the data are in the
update as long as one of them is there. Units stand in the order of their names, and a sum is made in that
order, so it has the same bits whoever of a shard's holders contributed. (0032)
"""

from __future__ import annotations

import dataclasses
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from atoll.protocol.ids import PeerId
from atoll.protocol.manifest import RoundRules
from atoll.protocol.replicas import Groups
from atoll.protocol.roster import Member, Role

PRIVATE = "private"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RIGHT = "up to 64 letters, digits, '.', '_' and '-'"


def is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None


def holders_of(members: Sequence[Member]) -> dict[str, tuple[PeerId, ...]]:
    """The members that hold each shard, in the order of the shards' names and then of the peers."""
    held: dict[str, list[PeerId]] = {}
    for member in members:
        if member.shard:
            held.setdefault(member.shard, []).append(member.peer)
    return {name: tuple(sorted(held[name])) for name in sorted(held)}


def groups_by_shard(workers: Sequence[Member]) -> Groups:
    """The workers of each unit."""
    return tuple(holders_of(workers).values())


def unit_by_shard(shard: str, names: Sequence[str]) -> int:
    """Which unit a shard is; where it would stand, if nobody who weighs something holds it yet."""
    return min(bisect_left(names, shard), max(0, len(names) - 1))


def refusal(rules: RoundRules, role: Role, shard: str) -> str | None:
    """Why one may not join with this shard, or None."""
    if rules.shards != PRIVATE or role is Role.WITNESS:
        return "this run deals its data, and nobody brings a shard" if shard else None
    if not is_name(shard):
        return "this run trains on its members' own data: join with --shard NAME=FILES"
    return None


def declared(
    before: Sequence[Member], members: tuple[Member, ...], claims: Mapping[PeerId, str]
) -> tuple[Member, ...]:
    """The next members, the new ones of them with the shards that they said they hold."""
    known = {member.peer for member in before}
    return tuple(
        member if member.peer in known else dataclasses.replace(member, shard=claims.get(member.peer, ""))
        for member in members
    )


def shards_objection(before: Sequence[Member], members: Sequence[Member], rules: RoundRules) -> str | None:
    """Why the shards of the next members are not right, or None: a shard is declared once, on joining."""
    if members is before:
        return None
    was = {member.peer: member for member in before}
    for member in members:
        old = was.get(member.peer)
        if old is member:
            continue
        if old is not None and old.shard != member.shard:
            return f"{member.peer} holds {old.shard or 'no shard'}, not {member.shard or 'none'}"
        if old is None and (reason := refusal(rules, member.role, member.shard)):
            return f"{member.peer}: {reason}"
    return None
