"""The manifest: signed once, checked key by key, and its policy decides who may join."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import RULES, RUN, digest, flipped, key, manifest, peer, read

from atoll.protocol import combinations
from atoll.protocol.admission import refusal, token_for
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import BlobRef, digest_of
from atoll.protocol.keys import Key
from atoll.protocol.manifest import (
    MANIFEST_BYTES_MAX,
    Assignment,
    AuditTable,
    Manifest,
    MembershipRules,
    OuterRules,
    RoundRules,
    check,
    check_audit,
    check_membership,
    check_outer,
    check_rounds,
    open_manifest,
    parse,
    section,
    sign,
)
from atoll.protocol.roster import Member, Role
from atoll.protocol.wire import messages_pb2 as wire

AUTHORITY = key("authority")
SIGNED = sign(manifest(), AUTHORITY)
DOMAIN = b"atoll run manifest 1"


def signed_text(text: bytes, by: Key = AUTHORITY) -> bytes:
    return wire.SignedManifest(manifest=text, signature=by.sign(DOMAIN + text)).SerializeToString()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The manifest's JSON object with one value replaced: `rounds.quorum`, or `numel`."""
    raw = json.loads(manifest().to_json())
    *sections, last = path.split(".")
    place = raw
    for name in sections:
        place = place[name]
    place[last] = value
    return raw


# ---- signing ------------------------------------------------------------------------------------


def test_what_was_signed_opens() -> None:
    opened = open_manifest(SIGNED.raw, SIGNED.run_id)
    assert opened == SIGNED
    assert opened.run_id == digest_of(SIGNED.raw)
    assert opened.genesis.run_id == SIGNED.run_id
    assert opened.genesis.anchor == manifest().anchor
    assert opened.genesis.members == (Member(peer("coordinator"), Role.WITNESS),)


def test_a_manifest_says_everything_that_peers_must_agree_on() -> None:
    """Any value that differs gives another run."""
    runs = {sign(manifest(name=f"run {number}"), AUTHORITY).run_id for number in range(3)} | {
        sign(manifest(rounds=RoundRules(rounds=9)), AUTHORITY).run_id,
        sign(manifest(outer=OuterRules(momentum=0.5)), AUTHORITY).run_id,
        sign(manifest(model={"kind": "llama"}), AUTHORITY).run_id,
        SIGNED.run_id,
    }
    assert len(runs) == 7


@given(st.integers(0))
def test_a_flipped_bit_is_refused(bit: int) -> None:
    damaged = flipped(SIGNED.raw, bit)
    assert read(open_manifest, damaged, SIGNED.run_id) is None
    # and where the run id was changed to fit, the signature no longer does
    with pytest.raises((RemoteProtocolError, ConfigError)):
        open_manifest(damaged, digest_of(damaged))


def test_every_fault_has_its_reason() -> None:
    def refused(raw: bytes) -> str:
        with pytest.raises(RemoteProtocolError) as caught:
            open_manifest(raw, digest_of(raw))
        return str(caught.value)

    text = manifest().to_json().encode()
    with pytest.raises(RemoteProtocolError, match="digest is not the run id"):
        open_manifest(SIGNED.raw, RUN)
    assert "not signed by the authority" in refused(signed_text(text, key("somebody")))
    assert "not signed by the authority" in refused(wire.SignedManifest(manifest=text).SerializeToString())
    assert str(MANIFEST_BYTES_MAX) in refused(bytes(MANIFEST_BYTES_MAX + 1))
    assert refused(b"\xff\xff\xff") == "not a run manifest"
    assert refused(signed_text(b"no json")) == "not a run manifest"
    assert refused(signed_text(b"\xff\xfe")) == "not a run manifest"


def test_deeply_nested_text_is_refused() -> None:
    raw = signed_text(b"[" * 200_000)
    with pytest.raises((RemoteProtocolError, ConfigError)):
        open_manifest(raw, digest_of(raw))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
)
def test_any_json_is_read_or_a_config_error(value: Any) -> None:
    for raw in (value, changed("rounds", value), changed("model", value), changed("anchor_blobs", value)):
        try:
            parse(raw, "manifest")
        except ConfigError as error:
            assert error.where.startswith("manifest")  # noqa: PT017


@given(
    st.sampled_from(
        [
            "numel",
            "name",
            "authority",
            "format",
            "rounds.quorum",
            "rounds.deadline_ms",
            "outer.codec",
            "membership.witnesses",
            "assignment.steps",
        ]
    ),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2),
)
def test_any_value_is_read_or_a_config_error(path: str, value: Any) -> None:
    try:
        parse(changed(path, value), "manifest")
    except ConfigError as error:
        assert error.where.startswith("manifest")  # noqa: PT017


# ---- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "what", "right"),
    [
        ("rounds.qourum", 0.5, "unknown key 'qourum'", "did you mean 'quorum'?"),
        ("rounds.deadline", 5, "unknown key 'deadline'", "did you mean 'deadline_ms'?"),
        ("outer.momentun", 0.9, "unknown key 'momentun'", "did you mean 'momentum'?"),
        ("membership.xyzzy", 1, "unknown key 'xyzzy'", "one of policy, witnesses, allow, token_key"),
        ("assignment.step", 1, "unknown key 'step'", "did you mean 'steps'?"),
        ("numels", 1, "unknown key 'numels'", "numel"),
        ("rounds.rounds", "ten", "rounds = 'ten'", "rounds is a whole number"),
        ("rounds.rounds", 1.5, "rounds = 1.5", "rounds is a whole number"),
        ("rounds.rounds", True, "rounds = True", "rounds is a whole number"),
        ("rounds.quorum", "half", "quorum = 'half'", "quorum is a number"),
        ("rounds.late", 1, "late = 1", "late is text"),
        ("membership.witnesses", "w1", "witnesses = 'w1'", "witnesses is a list of texts"),
        ("membership.witnesses", [1], "witnesses = [1]", "witnesses is a list of texts"),
        ("rounds", 7, "7 is no section", "a table of keys and values"),
        ("format", 2, "format 2", "reads 1"),
        ("format", None, "format None", "reads 1"),
    ],
)
def test_a_wrong_key_or_type_names_the_right_one(path: str, value: Any, what: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(changed(path, value), "run.toml")
    assert caught.value.what == what
    assert right in caught.value.right
    assert caught.value.where.startswith("run.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["name", "authority", "numel", "anchor_blobs", "assignment", "rounds", "model"]
)
def test_a_missing_key_is_named(name: str) -> None:
    raw = json.loads(manifest().to_json())
    del raw[name]
    with pytest.raises(ConfigError, match=name):
        parse(raw, "manifest")


def test_a_missing_key_of_a_section_is_named() -> None:
    with pytest.raises(ConfigError, match="tokens"):
        section(Assignment, {"steps": 3}, "run.toml")
    assert section(RoundRules, {}, "run.toml") == RoundRules()
    assert section(RoundRules, {"quorum": 1}, "run.toml").quorum == 1


# ---- bounds -------------------------------------------------------------------------------------

WEEK_MS = 7 * 86_400_000
NAN = math.nan


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("rounds", [0, 1, 10_000], [-1]),
        ("quorum", [0.01, 0.5, 1], [0, -0.5, 1.01, NAN, math.inf]),
        ("grace_share", [0, 0.25, 10], [-0.1, 10.1, NAN]),
        ("grace_ms_min", [0, 30_000], [-1, 30_001]),
        ("grace_ms_max", [500], [499, -1]),
        ("train_ms_max", [10, WEEK_MS], [0, 9, -1, WEEK_MS + 1]),
        ("deadline_ms", [10, WEEK_MS], [0, 9, -1, WEEK_MS + 1]),
        ("retry_ms", [10, WEEK_MS], [0, 9, -1, WEEK_MS + 1]),
        ("lease_ms", [10, WEEK_MS], [0, 9, -1, WEEK_MS + 1]),
        ("bytes_per_s_min", [1, 10**9], [0, -1, 1 << 64]),
        ("part_bytes_min", [1, 10**9], [0, -1, 1 << 64]),
        ("missed_max", [0, 10], [-1, 1 << 32]),
        ("probation_rounds", [0, 10], [-1, 1 << 64]),
        ("start_workers", [1, 100], [0, -1]),
        ("owners_max", [1, 4096], [0, 4097]),
        ("voters_max", [1, 64, 4096], [0, -1, 4097]),
        ("snapshot_rounds", [0, 1, 10**9], [-1, 1 << 32]),
        ("keep_rounds", [2, 1000], [0, 1, 1001]),
        ("late", ["carry", "drop", "merge"], ["", "Carry", "keep"]),
        ("staleness_max", [1, 8, 64], [0, -1, 65]),
        ("fragments", [1, 256], [0, -1, 257]),
        ("partition", ["balanced", "sequential", "strided"], ["", "Balanced", "own"]),
        ("overlap", [0], [-1, 1]),
        ("mixing", [0, 0.5, 0.999], [-0.1, 1, 1.5, NAN]),
        ("exchange", ["dense", "sparse"], ["", "Dense", "none"]),
        ("votes", ["majority", "two-thirds"], ["", "third", "Majority"]),
        ("work", ["equal", "by-speed"], ["", "by speed", "Equal"]),
        ("steps_min", [1, 10**9], [0, -1, 10**9 + 1]),
        ("replicas", [1, 2, 64], [0, -1, 65]),
        ("disputes", ["take"], ["", "Take", "vote", "drop"]),
        ("shards", ["dealt", "private"], ["", "own", "Private"]),
        ("wait", ["grace", "dynamic"], ["", "Grace", "slack"]),
        ("weights", ["tokens", "rate", "participation"], ["", "Tokens", "fedau"]),
    ],
)
def test_round_rules_are_bounded(key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_rounds(dataclasses.replace(RoundRules(), **{key: value}), "rounds")
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            check_rounds(dataclasses.replace(RoundRules(), **{key: value}), "rounds")
        named = "grace_ms_min" if key.startswith("grace_ms") else key
        assert named in caught.value.what
        assert caught.value.right


def test_training_runs_ahead_by_less_than_there_are_fragments() -> None:
    check_rounds(RoundRules(fragments=4, overlap=3), "rounds")
    with pytest.raises(ConfigError, match="overlap = 4"):
        check_rounds(RoundRules(fragments=4, overlap=4), "rounds")


@pytest.mark.parametrize(
    ("fragments", "sizes", "good"),
    [
        (2, [2000, 2000, 2000, 2000], True),
        (2, [400, 400, 3600, 3600], True),
        (1, [2000, 2000, 2000, 2000], False),
        (2, [4000, 4000], False),
        (2, [2000, 2000, 2000], False),
        (2, [2000, 1600, 2000, 2400], False),
        (2, [4000, 4000, 0, 0], False),
        (2, [1998, 1998, 2002, 2002], False),
        (2, [2000, 2000, 2004, 2004], False),
    ],
)
def test_each_fragment_has_an_anchor_and_its_momentum(fragments: int, sizes: list[int], good: bool) -> None:
    blobs = tuple(BlobRef(digest(str(place)), size) for place, size in enumerate(sizes))
    made = manifest(dataclasses.replace(RULES, fragments=fragments), anchor_blobs=blobs)
    if good:
        assert parse(json.loads(made.to_json()), "manifest").anchor_blobs == blobs
    else:
        with pytest.raises(ConfigError, match="anchor_blobs"):
            parse(json.loads(made.to_json()), "manifest")


def test_every_round_rule_has_its_bounds_tested() -> None:
    marks = test_round_rules_are_bounded.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == {f.name for f in dataclasses.fields(RoundRules)}


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("rule", [each for each in combinations.RULES if each not in ("sgd", "average")], ["adam", ""]),
        ("learning_rate", [0.1, 1, 10], [0, -1, 10.1, NAN, math.inf]),
        ("momentum", [0, 0.99], [1, -0.1, NAN]),
        ("codec", combinations.CODECS, ["int9", ""]),
        ("aggregation", combinations.AGGREGATIONS, ["medean", ""]),
        ("feedback", [0, 0.95, 1], [-0.1, 1.1, NAN]),
        ("clip", ["median", "none"], ["", "Median"]),
        ("faulty", [0, 0.25, 0.49], [-0.1, 0.5, NAN]),
    ],
)
def test_outer_rules_are_bounded(key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_outer(dataclasses.replace(OuterRules(), **{key: value}), "outer")
    for value in bad:
        with pytest.raises(ConfigError, match=key):
            check_outer(dataclasses.replace(OuterRules(), **{key: value}), "outer")


def test_every_outer_rule_has_its_bounds_tested() -> None:
    marks = test_outer_rules_are_bounded.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == {f.name for f in dataclasses.fields(OuterRules)}


def test_rules_without_a_knob_have_it_at_nothing() -> None:
    check_outer(OuterRules("sgd", 0.5, 0.0), "outer")
    check_outer(OuterRules("average", 1.0, 0.0), "outer")
    for outer, knob in (
        (OuterRules("sgd", 0.5, 0.9), "momentum"),
        (OuterRules("average", 1.0, 0.9), "momentum"),
        (OuterRules("average", 0.7, 0.0), "learning_rate"),
    ):
        with pytest.raises(ConfigError, match=f"{knob} = .*has none"):
            check_outer(outer, "outer")


def test_a_manifest_from_before_a_key_was_known_means_its_default() -> None:
    told = json.loads(manifest().to_json())
    for knob in ("aggregation", "feedback"):
        del told["outer"][knob]
    assert parse(told, "manifest").outer == manifest().outer


def test_a_refused_combination_is_refused_when_a_manifest_is_read() -> None:
    told = json.loads(manifest().to_json())
    told["outer"]["codec"] = "topk"
    with pytest.raises(ConfigError, match="codec = 'topk' with exchange = 'dense'") as caught:
        parse(told, "manifest")
    assert caught.value.where == "manifest"
    told["rounds"]["exchange"] = "sparse"
    assert parse(told, "manifest").outer.codec == "topk"


WITNESSES = (peer("coordinator"),)


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        (MembershipRules(policy="closed", witnesses=WITNESSES), "policy = 'closed'"),
        (MembershipRules(), "no witnesses"),
        (MembershipRules(witnesses=("coordinator",)), "not a peer id"),
        (MembershipRules(witnesses=WITNESSES, allow=("w1",)), "not a peer id"),
        (MembershipRules(witnesses=WITNESSES, policy="token"), "token_key = ''"),
        (MembershipRules(witnesses=WITNESSES, policy="token", token_key="ab"), "token_key = 'ab'"),
        (MembershipRules(witnesses=WITNESSES, policy="token", token_key="zz" * 32), "token_key = 'zz"),
        (MembershipRules(witnesses=WITNESSES, policy="token", token_key=" a" * 32), "token_key = ' a"),
        (MembershipRules(witnesses=WITNESSES * 2), "witness"),
    ],
)
def test_membership_rules_are_bounded(rules: MembershipRules, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_membership(rules, "membership")
    assert what in caught.value.what
    assert caught.value.right


def test_sound_membership_rules_pass() -> None:
    secret = Key(bytes(32))
    check_membership(MembershipRules(witnesses=WITNESSES), "membership")
    check_membership(MembershipRules("allowlist", WITNESSES, (peer("w1"),)), "membership")
    check_membership(MembershipRules("token", WITNESSES, token_key=secret.public.hex()), "membership")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"numel": 0}, "numel = 0"),
        ({"numel": -5}, "numel = -5"),
        ({"numel": 1 << 40}, "numel ="),
        ({"anchor_blobs": ()}, "anchor_blobs"),
        ({"anchor_blobs": manifest().anchor_blobs[:1]}, "anchor_blobs"),
        ({"anchor_blobs": (BlobRef(RUN, 4), BlobRef(RUN, 4))}, "anchor_blobs"),
        ({"anchor_blobs": (BlobRef("AB" * 32, 4000),) * 2}, "AB"),  # type: ignore[arg-type]
        ({"anchor_blobs": (BlobRef("ab", 4000),) * 2}, "ab"),  # type: ignore[arg-type]
        ({"assignment": Assignment(0, 1)}, "assignment"),
        ({"assignment": Assignment(1, 0)}, "assignment"),
        ({"assignment": Assignment(1 << 32, 1)}, "assignment"),
        ({"assignment": Assignment(1, 1 << 64)}, "assignment"),
        ({"authority": "me"}, "not a peer id"),
    ],
)
def test_the_shape_is_bounded(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(manifest(**changes), "manifest")
    assert what in caught.value.what
    assert caught.value.right


def test_a_manifest_comes_back_from_its_text() -> None:
    sound = manifest(model={"hidden": 64}, data={"source": "stdlib"}, inner={"lr": 1e-3})
    assert parse(json.loads(sound.to_json()), "manifest") == sound
    names = {f.name for f in dataclasses.fields(Manifest)}
    assert set(json.loads(sound.to_json())) == names - {"audit"}, "its table came later"
    audited = dataclasses.replace(sound, audit=AuditTable(targets=6, floor=0.25))
    assert parse(json.loads(audited.to_json()), "manifest") == audited
    assert set(json.loads(audited.to_json())) == names


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"audit": AuditTable(auditors=2)}, "auditors = 2"),
        ({"audit": AuditTable(floor=0.6)}, "floor"),
        ({"audit": AuditTable(full=1.5)}, "full = 1.5"),
        ({"audit": AuditTable(steps=0)}, "steps = 0"),
        ({"audit": AuditTable(), "rounds": RoundRules(shards="private")}, "shards = 'private' with [audit]"),
        ({"audit": AuditTable(), "rounds": RoundRules(replicas=2)}, "replicas = 2 with [audit]"),
        (
            {"audit": AuditTable(), "rounds": RoundRules(exchange="sparse")},
            "exchange = 'sparse' with [audit]",
        ),
        ({"audit": AuditTable(), "rounds": RoundRules(work="by-speed")}, "work = 'by-speed' with [audit]"),
        ({"audit": AuditTable(), "rounds": RoundRules(fragments=2)}, "fragments = 2 with [audit]"),
        ({"audit": AuditTable(), "rounds": RoundRules(weights="rate")}, "weights = 'rate' with [audit]"),
        ({"audit": AuditTable(), "rounds": RoundRules(late="merge")}, "late = 'merge' with [audit]"),
    ],
)
def test_audits_refuse_what_they_cannot_go_with(changes: dict[str, Any], what: str) -> None:
    rules = changes.pop("rounds", RoundRules())
    with pytest.raises(ConfigError) as caught:
        check_audit(changes["audit"], rules, "RUN.toml")
    assert what in caught.value.what
    assert caught.value.right


# ---- who may join -------------------------------------------------------------------------------

SECRET = Key(b"the secret of an invite, 32 byte")
W1, W2 = peer("w1"), peer("w2")


def test_an_open_run_takes_workers_and_its_own_witnesses() -> None:
    rules = MembershipRules(witnesses=WITNESSES)
    assert refusal(rules, RUN, W1, Role.WORKER, b"") is None
    assert refusal(rules, RUN, peer("coordinator"), Role.WITNESS, b"") is None
    assert "witness" in str(refusal(rules, RUN, W1, Role.WITNESS, b""))


def test_a_list_takes_whom_it_names() -> None:
    rules = MembershipRules("allowlist", WITNESSES, (W1,))
    assert refusal(rules, RUN, W1, Role.WORKER, b"") is None
    assert "not on it" in str(refusal(rules, RUN, W2, Role.WORKER, b""))
    assert refusal(rules, RUN, peer("coordinator"), Role.WITNESS, b"") is None


def test_a_token_is_for_one_peer_of_one_run() -> None:
    rules = MembershipRules("token", WITNESSES, token_key=SECRET.public.hex())
    token = token_for(SECRET.seed, RUN, W1)
    assert refusal(rules, RUN, W1, Role.WORKER, token) is None
    for run, who, shown in (
        (RUN, W2, token),
        (digest_of(b"another run"), W1, token),
        (RUN, W1, b""),
        (RUN, W1, bytes(64)),
        (RUN, W1, token + b"x"),
        (RUN, W1, token_for(bytes(32), RUN, W1)),
    ):
        assert "secret" in str(refusal(rules, run, who, Role.WORKER, shown))


@given(st.binary(max_size=80))
def test_no_other_token_is_taken(token: bytes) -> None:
    rules = MembershipRules("token", WITNESSES, token_key=SECRET.public.hex())
    assert refusal(rules, RUN, W1, Role.WORKER, token) is not None
