from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest
import torch

from atoll.coordinator import runfile
from atoll.coordinator.publish import Published, make_invite, publish
from atoll.coordinator.runfile import RunFile
from atoll.node.disk import load_state
from atoll.node.identity import load_key
from atoll.protocol.admission import refusal, token_for
from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import digest_of
from atoll.protocol.invite import parse_invite
from atoll.protocol.keys import Key
from atoll.protocol.manifest import AuditTable, open_manifest
from atoll.protocol.roster import Role

RUN = """\
[run]
name = "tiny"
rounds = 12
[model]
architecture = "llama"
[model.config]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 64
tie_word_embeddings = true
[data]
source = "text:{folder}/*.txt"
sequence_tokens = 32
[inner]
steps = 5
batch_sequences = 3
warmup_steps = 2
total_steps = 60
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text(f"text {number}. " * 400)
    path = tmp_path / "RUN.toml"
    path.write_text(RUN.format(folder=tmp_path))
    return runfile.read(path)


def with_policy(run: RunFile, policy: str) -> RunFile:
    return dataclasses.replace(run, membership=runfile.MembershipSection(policy))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_is_published(run: RunFile, tmp_path: Path) -> None:
    state = tmp_path / "state"
    published = publish(run, state)
    manifest = published.signed.manifest
    assert open_manifest((state / "manifest.bin").read_bytes(), published.signed.run_id).manifest == manifest
    assert manifest.assignment.tokens == 5 * 3 * 32
    assert manifest.authority == load_key(state / "authority.key").peer
    assert manifest.membership.witnesses == (load_key(state / "identity.key").peer,)
    anchor, momentum = load_state(state / "state-0.safetensors")
    assert [digest_of(vector.numpy().tobytes()) for vector in (anchor, momentum)] == [
        ref.digest for ref in manifest.anchor_blobs
    ]
    assert anchor.numel() == manifest.numel
    assert anchor.abs().max() > 0
    assert not momentum.any()


def test_starting_again_resumes_the_same_run(run: RunFile, tmp_path: Path) -> None:
    first = publish(with_policy(run, "token"), tmp_path / "state")
    before = contents(tmp_path / "state")
    second = publish(with_policy(run, "token"), tmp_path / "state")
    assert (first.resumed, second.resumed) == (False, True)
    assert (second.signed, second.secret) == (first.signed, first.secret)
    assert contents(tmp_path / "state") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: dataclasses.replace(run, name="other"), "[run] name is 'other'"),
        (
            lambda run: dataclasses.replace(run, inner=dataclasses.replace(run.inner, steps=6)),
            "[inner] steps is 6, but this run was signed with 5",
        ),
        (
            lambda run: dataclasses.replace(run, rules=dataclasses.replace(run.rules, rounds=13)),
            "[run] rounds is 13",
        ),
        (
            lambda run: dataclasses.replace(
                run, model=dataclasses.replace(run.model, config={**run.model.config, "hidden_size": 64})
            ),
            "[model.config] hidden_size is 64, but this run was signed with 32",
        ),
        (lambda run: with_policy(run, "token"), "[membership] policy is 'token'"),
        (lambda run: dataclasses.replace(run, audit=AuditTable()), "[audit] auditors is 5"),
    ],
)
def test_a_changed_run_file_is_refused(run: RunFile, tmp_path: Path, change: object, said: str) -> None:
    publish(run, tmp_path / "state")
    before = contents(tmp_path / "state")
    with pytest.raises(ConfigError) as refused:
        publish(change(run), tmp_path / "state")  # type: ignore[operator]
    assert said in str(refused.value)
    assert "--state" in str(refused.value)
    assert contents(tmp_path / "state") == before


def test_the_coordinators_own_section_may_change(run: RunFile, tmp_path: Path) -> None:
    first = publish(run, tmp_path / "state")
    moved = dataclasses.replace(run, coordinator=runfile.CoordinatorSection(listen="127.0.0.1:9"))
    assert publish(moved, tmp_path / "state").signed == first.signed


def test_secrets_are_private_and_open_the_door(run: RunFile, tmp_path: Path) -> None:
    published = publish(with_policy(run, "token"), tmp_path / "state")
    for name in ("authority.key", "identity.key", "invite.secret"):
        assert stat.S_IMODE((tmp_path / "state" / name).stat().st_mode) == 0o600
    rules, run_id = published.signed.manifest.membership, published.signed.run_id
    peer = Key.generate().peer
    assert refusal(rules, run_id, peer, Role.WORKER, token_for(published.secret, run_id, peer)) is None
    assert refusal(rules, run_id, peer, Role.WORKER, token_for(bytes(range(32)), run_id, peer)) is not None


def test_an_open_run_has_no_secret(run: RunFile, tmp_path: Path) -> None:
    assert publish(run, tmp_path / "state").secret == b""
    assert not (tmp_path / "state" / "invite.secret").exists()


def test_the_invite_leads_into_the_run(run: RunFile, tmp_path: Path) -> None:
    published = publish(with_policy(run, "token"), tmp_path / "state")
    address = f"/ip4/192.0.2.7/tcp/4001/p2p/{published.signed.manifest.membership.witnesses[0]}"
    invite = parse_invite(str(make_invite(published, [address], 1000.0, 2.0)))
    assert (invite.run_id, invite.bootstrap) == (published.signed.run_id, (address,))
    assert (invite.manifest_bytes, invite.secret) == (len(published.signed.raw), published.secret)
    assert invite.expires == 1000 + 7200
    assert make_invite(published, [address], 1000.0, 0.0).expires is None
    with pytest.raises(ConfigError, match="dht_listen"):
        make_invite(published, ["/unix/socket"], 0.0, 0.0)


@pytest.mark.parametrize("said", ["matches no file", "transformers|did you mean", "positions"])
def test_what_no_peer_could_train_leaves_no_trace(run: RunFile, tmp_path: Path, said: str) -> None:
    wrong = {
        "matches no file": dataclasses.replace(
            run, data=dataclasses.replace(run.data, source="text:/nowhere/*")
        ),
        "transformers|did you mean": dataclasses.replace(
            run, model=dataclasses.replace(run.model, architecture="lama")
        ),
        "positions": dataclasses.replace(run, data=dataclasses.replace(run.data, sequence_tokens=65)),
    }[said]
    with pytest.raises(ConfigError, match=said) as refused:
        publish(wrong, tmp_path / "state")
    assert str(run.path) in str(refused.value)
    assert not (tmp_path / "state").exists()


def damaged(published: Published, share: float) -> None:
    path = published.state_dir / "manifest.bin"
    raw = bytearray(path.read_bytes())
    raw[int(share * len(raw))] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.99])
def test_a_damaged_manifest_is_named(run: RunFile, tmp_path: Path, share: float) -> None:
    """Wherever the damage lies: in the encoding, a number, a peer id, the signature."""
    damaged(publish(run, tmp_path / "state"), share)
    with pytest.raises(ConfigError, match=r"manifest\.bin"):
        publish(run, tmp_path / "state")


def test_another_authority_cannot_resume(run: RunFile, tmp_path: Path) -> None:
    publish(run, tmp_path / "state")
    (tmp_path / "state" / "authority.key").write_bytes(bytes(range(32)))
    with pytest.raises(ConfigError, match=r"authority\.key"):
        publish(run, tmp_path / "state")
    (tmp_path / "state" / "authority.key").unlink()
    with pytest.raises(ConfigError, match=r"authority\.key"):
        publish(run, tmp_path / "state")
