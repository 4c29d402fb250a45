"""An invite: one line of text that leads into a run, and says when somebody damaged it.

    atoll://<run id>@<host:port>/<peer id>?m=<manifest bytes>&t=<secret>&e=<unix>&c=<check>

`m` bounds what is fetched before anything is known, `&also=<host:port>/<peer id>` may follow it for each
further address, `t` is the secret of a run with tokens and `e` the second at which the invite expires. `c`
is the CRC-32 of all that stands before it: it finds every single damaged letter, because people copy
invites by hand and through chat programs. It proves nothing: what an invite leads to is checked against
the run id.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import Digest, public_key_of
from atoll.protocol.manifest import MANIFEST_BYTES_MAX

SCHEME = "atoll://"
INVITE_CHARACTERS_MAX = 4096
BOOTSTRAP_MAX = 16
SECRET_BYTES = 32

_WHERE = "invite"
_AGAIN = "copy the whole line that the coordinator printed"
_CHECK = re.compile(r"(?P<rest>.*)&c=(?P<check>[0-9a-f]{8})", re.ASCII)
_RUN_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_WHOLE = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_IP4 = re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}", re.ASCII)
_IP6 = re.compile(r"[0-9a-f:]*:[0-9a-f:.]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Invite:
    """What a joiner needs: the run, who to ask first, the manifest's size, and perhaps a secret.

    `bootstrap` holds multiaddrs such as `/ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…` (ip4, ip6 or dns), `expires`
    unix seconds. Raises ConfigError for what no invite can carry.
    """

    run_id: Digest
    bootstrap: tuple[str, ...]
    manifest_bytes: int
    secret: bytes = field(default=b"", repr=False)
    expires: int | None = None

    def __post_init__(self) -> None:
        _require(bool(_RUN_ID.fullmatch(self.run_id)), "the run id is not 64 hexadecimal digits")
        _require(1 <= len(self.bootstrap) <= BOOTSTRAP_MAX, f"{len(self.bootstrap)} addresses")
        for address in self.bootstrap:
            _require(_multiaddr(*_place(address)) == address, f"cannot carry the address {address!r}")
        _require(1 <= self.manifest_bytes <= MANIFEST_BYTES_MAX, f"a manifest of {self.manifest_bytes} bytes")
        _require(len(self.secret) in (0, SECRET_BYTES), f"a secret of {len(self.secret)} bytes")
        _require(self.expires is None or 0 <= self.expires < 10**18, f"expires at {self.expires}")

    def __str__(self) -> str:
        first, *others = ("/".join(_place(address)) for address in self.bootstrap)
        pairs = [("m", str(self.manifest_bytes)), *(("also", other) for other in others)]
        if self.secret:
            pairs.append(("t", base64.urlsafe_b64encode(self.secret).decode().rstrip("=")))
        if self.expires is not None:
            pairs.append(("e", str(self.expires)))
        rest = f"{SCHEME}{self.run_id}@{first}?" + "&".join(f"{key}={value}" for key, value in pairs)
        return f"{rest}&c={_check(rest)}"


def parse_invite(text: str) -> Invite:
    """Read an invite; ConfigError says whether it is damaged, cut off, or no invite at all."""
    text = text.strip()
    _require(len(text) <= INVITE_CHARACTERS_MAX, f"{len(text)} characters are too many")
    _require(text.isascii() and text.isprintable(), "damaged: it has letters that no invite has")
    _require(text.startswith(SCHEME), f"not an invite: it does not begin with {SCHEME}")
    found = _CHECK.fullmatch(text)
    if found is None:
        raise ConfigError("cut off or damaged: it does not end with its checksum", _WHERE, _AGAIN)
    _require(_check(found["rest"]) == found["check"], "damaged: the checksum is that of another text")
    return _read(found["rest"].removeprefix(SCHEME))


def check_expiry(invite: Invite, now_unix: float) -> None:
    """ConfigError if the invite has expired at `now_unix`."""
    if invite.expires is not None and now_unix >= invite.expires:
        hours = (now_unix - invite.expires) / 3600
        raise ConfigError(f"expired {hours:.1f} hours ago", _WHERE, "ask the coordinator for a new one")


def bootstrap_addresses(multiaddrs: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Of a peer's addresses those that an invite can carry, loopback last, at most BOOTSTRAP_MAX."""
    fit = [address for address in dict.fromkeys(multiaddrs) if _fits(address)]
    return tuple(sorted(fit, key=lambda address: "/127." in address or "/ip6/::1/" in address))[
        :BOOTSTRAP_MAX
    ]


def _fits(address: str) -> bool:
    try:
        return _multiaddr(*_place(address)) == address
    except ConfigError:
        return False


def _read(text: str) -> Invite:
    run_id, _, rest = text.partition("@")
    first, _, query = rest.partition("?")
    bootstrap, single = [_address(first)], dict[str, str]()
    for key, value in _pairs(query):
        if key == "also":
            bootstrap.append(_address(value))
            continue
        _require(
            key not in single and key in ("m", "t", "e"), f"it says {key!r}, which this version cannot read"
        )
        single[key] = value
    return Invite(
        Digest(run_id),
        tuple(bootstrap),
        _whole(single.get("m", "")),
        _secret(single["t"]) if "t" in single else b"",
        _whole(single["e"]) if "e" in single else None,
    )


def _pairs(query: str) -> Iterator[tuple[str, str]]:
    for pair in query.split("&"):
        key, mark, value = pair.partition("=")
        _require(bool(mark), f"{pair[:40]!r} is no key=value")
        yield key, value


def _place(multiaddr: str) -> tuple[str, str]:
    """`host:port` and peer id of a multiaddr."""
    pieces = multiaddr.split("/")
    right = "/ip4, /ip6 or /dns, then /tcp/<port>/p2p/<peer id>"
    if len(pieces) != 7 or pieces[0] or pieces[3] != "tcp" or pieces[5] != "p2p":
        raise ConfigError(f"cannot carry the address {multiaddr!r}", _WHERE, right)
    _, kind, host, _, port, _, peer = pieces
    if kind not in ("ip4", "ip6", "dns"):
        raise ConfigError(f"cannot carry the address {multiaddr!r}", _WHERE, right)
    return (f"[{host}]:{port}" if kind == "ip6" else f"{host}:{port}"), peer


def _address(text: str) -> str:
    place, mark, peer = text.partition("/")
    _require(bool(mark), f"no address: {text[:80]!r}")
    return _multiaddr(place, peer)


def _multiaddr(place: str, peer: str) -> str:
    host, _, port = place.rpartition(":")
    _require(bool(_WHOLE.fullmatch(port)) and 0 < int(port) < 65536, f"no address: {place[:80]!r}")
    try:
        public_key_of(peer)
    except RemoteProtocolError as error:
        raise ConfigError(str(error), _WHERE, _AGAIN) from None
    return f"/{_host(host)}/tcp/{port}/p2p/{peer}"


def _host(host: str) -> str:
    if host.startswith("[") and host.endswith("]") and _IP6.fullmatch(host[1:-1]):
        return f"ip6/{host[1:-1]}"
    if _IP4.fullmatch(host):
        return f"ip4/{host}"
    _require(bool(_NAME.fullmatch(host)), f"no host: {host[:80]!r}")
    return f"dns/{host}"


def _secret(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError("its secret is not base64", _WHERE, _AGAIN) from None


def _whole(text: str) -> int:
    _require(bool(_WHOLE.fullmatch(text)), f"{text[:40]!r} is no whole number")
    return int(text)


def _check(rest: str) -> str:
    return f"{zlib.crc32(rest.encode()):08x}"


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ConfigError(what, _WHERE, _AGAIN)
