"""RUN.toml: a researcher's description of a run, read into checked values.

Every refusal names file, section and key, and what was probably meant: the file is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import public_key_of
from atoll.protocol.manifest import (
    AuditTable,
    OuterRules,
    RoundRules,
    check_audit,
    check_outer,
    check_rounds,
    check_together,
    section,
)
from atoll.workload.config import DataConfig, InnerConfig, ModelConfig
from atoll.workload.fields import nearest
from atoll.workload.toml_files import check_sections, read_toml

SECTIONS = ("run", "model", "data", "inner", "outer", "rounds", "audit", "membership", "coordinator")
POLICIES = ("open", "token", "allowlist")
ROUNDS_MAX = 10_000_000
HOURS_MAX = 24 * 365

_DEFAULTS = {
    "sgd": {"learning_rate": 1.0, "momentum": 0.0},
    "average": {"learning_rate": 1.0, "momentum": 0.0},
}
"""Of [outer], where a rule's own differ from Nesterov's."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RunSection:
    """`rounds` outer updates, then the run is complete."""

    name: str = "atoll"
    rounds: int = 100


@dataclass(frozen=True, slots=True)
class MembershipSection:
    """Who may join. `allow` lists peer ids for the policy "allowlist"."""

    policy: str = "open"
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CoordinatorSection:
    """Where the coordinator can be reached; not in the manifest, so it may change between two starts.

    `listen` is host:port of the direct gRPC server ("" for none), `dht_listen` libp2p multiaddrs. An invite
    expires after `invite_expires_hours`, never if that is 0. Held-out loss is measured after every update
    over `evaluate_windows` windows, not at all if that is 0.
    """

    listen: str = "0.0.0.0:4101"
    dht_listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/4100",)
    invite_expires_hours: float = 0.0
    evaluate_windows: int = 16
    threads: int = 1


@dataclass(frozen=True, slots=True)
class RunFile:
    """A whole, valid RUN.toml. `rules.rounds` is the number of the [run] section."""

    path: Path
    name: str
    model: ModelConfig
    data: DataConfig
    inner: InnerConfig
    outer: OuterRules
    rules: RoundRules
    membership: MembershipSection
    coordinator: CoordinatorSection
    audit: AuditTable | None = None


def read(path: Path) -> RunFile:
    """Read and check a RUN.toml. Raises ConfigError at the first thing that is wrong."""
    return parse(read_toml(path, "`atoll init` writes a RUN.toml"), path)


def parse(table: Mapping[str, Any], path: Path) -> RunFile:
    """Check what stands in a RUN.toml; `path` is named in errors."""
    check_sections(table, SECTIONS, path)
    run = _run(table.get("run", {}), f"{path}: [run]")
    made = RunFile(
        path=path,
        name=run.name,
        model=ModelConfig.from_mapping(table["model"], f"{path}: [model]"),
        data=DataConfig.from_mapping(table.get("data", {}), f"{path}: [data]"),
        inner=InnerConfig.from_mapping(table.get("inner", {}), f"{path}: [inner]"),
        outer=_outer(table.get("outer", {}), f"{path}: [outer]"),
        rules=_rounds(table.get("rounds", {}), run.rounds, f"{path}: [rounds]"),
        membership=_membership(table.get("membership", {}), f"{path}: [membership]"),
        coordinator=_coordinator(table.get("coordinator", {}), f"{path}: [coordinator]"),
        audit=section(AuditTable, table["audit"], f"{path}: [audit]") if "audit" in table else None,
    )
    check_together(made.outer, made.rules, str(path))
    check_audit(made.audit, made.rules, str(path))
    if made.rules.replicated and made.inner.state != "unit":
        rule = "shards = 'private'" if made.rules.replicas == 1 else f"replicas = {made.rules.replicas}"
        what = f"[rounds] {rule} with [inner] state = {made.inner.state!r}"
        raise ConfigError(what, str(path), "state = 'unit': replicas with moments of their own train apart")
    return made


def _run(raw: object, where: str) -> RunSection:
    run = section(RunSection, raw, where)
    if not _NAME.fullmatch(run.name):
        raise ConfigError(f"name = {run.name!r}", where, "up to 64 letters, digits, '.', '_' and '-'")
    _within("rounds", run.rounds, 1, ROUNDS_MAX, where)
    return run


def _outer(raw: object, where: str) -> OuterRules:
    rule = raw.get("rule") if isinstance(raw, Mapping) else None
    defaults = _DEFAULTS.get(rule, {}) if isinstance(rule, str) else {}
    outer = section(OuterRules, {**defaults, **raw} if isinstance(raw, Mapping) else raw, where)
    check_outer(outer, where)
    return outer


def _rounds(raw: object, rounds: int, where: str) -> RoundRules:
    if isinstance(raw, Mapping) and "rounds" in raw:
        raise ConfigError("unknown key 'rounds'", where, "the number of rounds stands in [run]")
    given = section(RoundRules, {**raw, "rounds": rounds} if isinstance(raw, Mapping) else raw, where)
    check_rounds(given, where)
    return given


def _membership(raw: object, where: str) -> MembershipSection:
    given = section(MembershipSection, raw, where)
    if given.policy not in POLICIES:
        raise ConfigError(f"policy = {given.policy!r}", where, nearest(given.policy, POLICIES))
    if given.policy == "allowlist" and not given.allow:
        raise ConfigError("an allowlist without `allow`", where, "peer ids as `atoll key show` prints them")
    if given.policy != "allowlist" and given.allow:
        raise ConfigError("`allow` has no meaning here", where, 'policy = "allowlist", or no `allow`')
    for peer in given.allow:
        _peer(peer, where)
    return given


def _coordinator(raw: object, where: str) -> CoordinatorSection:
    given = section(CoordinatorSection, raw, where)
    if not given.dht_listen:
        raise ConfigError("dht_listen is empty", where, 'such as ["/ip4/0.0.0.0/tcp/4100"]')
    _within("invite_expires_hours", given.invite_expires_hours, 0, HOURS_MAX, where)
    _within("evaluate_windows", given.evaluate_windows, 0, 1_000_000, where)
    _within("threads", given.threads, 1, 1024, where)
    return given


def _peer(peer: str, where: str) -> None:
    try:
        public_key_of(peer)
    except RemoteProtocolError as error:
        raise ConfigError(f"allow: {error}", where, "a peer id as `atoll key show` prints it") from None


def _within(key: str, value: float, low: int, high: int, where: str) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key} = {value}", where, f"from {low} to {high}")
