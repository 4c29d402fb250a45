"""The codecs by the name that a run manifest gives. A new codec is a module here and a line below."""

from __future__ import annotations

from difflib import get_close_matches

from atoll.optim.codecs.base import HEADER_BYTES, Codec, Payload
from atoll.optim.codecs.bf16 import BF16
from atoll.optim.codecs.e3m0 import E3M0
from atoll.optim.codecs.fp16 import FP16
from atoll.optim.codecs.identity import Identity
from atoll.optim.codecs.int4 import INT4
from atoll.optim.codecs.int8 import INT8
from atoll.optim.codecs.int8_mean import INT8_MEAN
from atoll.optim.codecs.one_bit import ONE_BIT
from atoll.optim.codecs.two_bit import TWO_BIT
from atoll.protocol.errors import ConfigError

__all__ = ["CODECS", "HEADER_BYTES", "Codec", "Payload", "codec"]

CODECS: dict[str, Codec] = {
    each.name: each for each in (Identity(), FP16, BF16, INT8, INT8_MEAN, INT4, E3M0, TWO_BIT, ONE_BIT)
}


def codec(name: str) -> Codec:
    """The codec of that name. Raises ConfigError, with the nearest name, if there is none."""
    found = CODECS.get(name)
    if found is None:
        nearest = get_close_matches(name, CODECS, n=1, cutoff=0.0)[0]
        names = ", ".join(CODECS)
        raise ConfigError(f"unknown codec {name!r}", "codec", f"did you mean {nearest!r}? One of: {names}")
    return found
