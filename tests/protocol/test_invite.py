from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import digest_of, peer_id
from atoll.protocol.invite import (
    SCHEME,
    Invite,
    bootstrap_addresses,
    check_expiry,
    parse_invite,
)
from atoll.protocol.manifest import MANIFEST_BYTES_MAX

PEER = peer_id(bytes(range(32)))
RUN = digest_of(b"a run")
URL_SAFE = set(string.ascii_letters + string.digits + "-._~:/?#[]@!$&'()*+,;=")

hosts = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"/ip4/{ip}"),
    st.ip_addresses(v=6).map(lambda ip: f"/ip6/{ip}"),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]\.(org|example)", fullmatch=True).map(lambda n: f"/dns/{n}"),
)
addresses = st.builds(
    lambda host, port, key: f"{host}/tcp/{port}/p2p/{peer_id(key)}",
    hosts,
    st.integers(1, 65535),
    st.binary(min_size=32, max_size=32),
)
invites = st.builds(
    Invite,
    run_id=st.binary(max_size=8).map(digest_of),
    bootstrap=st.lists(addresses, min_size=1, max_size=16).map(tuple),
    manifest_bytes=st.integers(1, MANIFEST_BYTES_MAX),
    secret=st.one_of(st.just(b""), st.binary(min_size=32, max_size=32)),
    expires=st.none() | st.integers(0, 2**40),
)


@given(invites)
def test_a_written_invite_reads_the_same(invite: Invite) -> None:
    line = str(invite)
    assert parse_invite(f"  {line}\n") == invite
    assert set(line) <= URL_SAFE
    assert "\n" not in line


@given(invites, st.data())
def test_any_single_damaged_letter_is_found(invite: Invite, data: st.DataObject) -> None:
    line = str(invite)
    place = data.draw(st.integers(0, len(line) - 1))
    letter = data.draw(st.characters(codec="utf-8").filter(lambda drawn: drawn != line[place]))
    with pytest.raises(ConfigError):
        parse_invite(line[:place] + letter + line[place + 1 :])


@given(invites, st.data())
def test_any_lost_end_is_found(invite: Invite, data: st.DataObject) -> None:
    line = str(invite)
    with pytest.raises(ConfigError, match=r"cut off|not an invite|damaged"):
        parse_invite(line[: data.draw(st.integers(0, len(line) - 1))])


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for line in (text, SCHEME + text):
        with pytest.raises(ConfigError):
            parse_invite(line)


def plain(**changed: object) -> Invite:
    given = {"run_id": RUN, "bootstrap": (f"/ip4/192.0.2.7/tcp/4001/p2p/{PEER}",), "manifest_bytes": 1200}
    return Invite(**{**given, **changed})  # type: ignore[arg-type]


def test_the_form_is_the_documented_one() -> None:
    line = str(plain(secret=bytes(32), expires=1_800_000_000))
    wanted = rf"atoll://{RUN}@192\.0\.2\.7:4001/{PEER}\?m=1200&t=A{{43}}&e=1800000000&c=[0-9a-f]{{8}}"
    assert re.fullmatch(wanted, line)


def rewritten(line: str, old: str, new: str) -> str:
    """The invite with something replaced and its checksum made to fit: a forger's, not a copyist's."""
    import zlib

    rest = line.rpartition("&c=")[0].replace(old, new)
    return f"{rest}&c={zlib.crc32(rest.encode()):08x}"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (RUN, RUN[:-1], "run id"),
        (RUN, RUN.upper(), "run id"),
        ("m=1200", "m=999999999", "a manifest of"),
        ("m=1200", "n=1200", "cannot read"),
        ("m=1200", "m=1200&m=3", "cannot read"),
        ("m=1200", "m=0", "a manifest of"),
        ("m=1200", "m=1200&t=AAAA", "a secret of 3 bytes"),
        ("m=1200", "m=1200&t=!", "base64"),
        ("m=1200", "m=1200&e=-3", "whole number"),
        ("m=1200", "m=1200&also", "key=value"),
        (":4001", ":0", "no address"),
        (":4001", ":70000", "no address"),
        ("192.0.2.7", "a b", "damaged|no host"),
        ("192.0.2.7", "a_b!", "no host"),
        (PEER, PEER[:-1] + "0", "peer id"),
        ("m=1200", "&".join(["m=1200"] + [f"also=192.0.2.7:4001/{PEER}"] * 16), "17 addresses"),
    ],
)
def test_a_forged_invite_is_refused_with_its_reason(old: str, new: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        parse_invite(rewritten(str(plain()), old, new))
    assert "\n" not in str(refused.value)


def test_expiry_is_a_question_about_a_time() -> None:
    check_expiry(plain(), 1e12)
    check_expiry(plain(expires=100), 99.9)
    with pytest.raises(ConfigError, match="expired 2"):
        check_expiry(plain(expires=100), 100 + 7200)


def test_the_secret_stays_out_of_logs() -> None:
    assert "secret" not in repr(plain(secret=b"s" * 32))


def test_bootstrap_addresses_are_those_an_invite_can_carry() -> None:
    local, lan = f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}", f"/ip4/192.0.2.7/tcp/4001/p2p/{PEER}"
    quic = f"/ip4/192.0.2.7/udp/4001/quic/p2p/{PEER}"
    relayed = f"{lan}/p2p-circuit"
    assert bootstrap_addresses([local, quic, relayed, lan, local]) == (lan, local)
