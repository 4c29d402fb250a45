"""The codecs by the name that a run manifest gives. A new codec is a module here and a line below."""

from __future__ import annotations

from difflib import get_close_matches

from atoll.optim.codecs.base import HEADER_BYTES, Codec, Payload
from atoll.optim.codecs.dct import Dct
from atoll.optim.codecs.identity import Identity
from atoll.optim.codecs.int8 import Int8
from atoll.optim.codecs.projection import Projection
from atoll.optim.codecs.topk import TopK
from atoll.protocol.errors import ConfigError

__all__ = ["CODECS", "HEADER_BYTES", "Codec", "Payload", "codec"]

CODECS: dict[str, Codec] = {each.name: each for each in (Identity(), Int8(), TopK(), Dct(), Projection())}


def codec(name: str) -> Codec:
    """The codec of that name. Raises ConfigError, with the nearest name, if there is none."""
    found = CODECS.get(name)
    if found is None:
        nearest = get_close_matches(name, CODECS, n=1, cutoff=0.0)[0]
        names = ", ".join(CODECS)
        raise ConfigError(f"unknown codec {name!r}", "codec", f"did you mean {nearest!r}? One of: {names}")
    return found
