"""A failing case as a text file: the setting, the strikes, what it came to, and the lines that matter.

It holds all that a run needs to go the same way again, and the digest of the whole trace to show that it did.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.protocol.errors import ConfigError
from atoll.simulator.run import Outcome, trial
from atoll.simulator.setting import Setting
from atoll.simulator.strikes import Strike, strike_of
from atoll.simulator.striking import known

LINES_MAX = 400
FILE_BYTES_MAX = 16 << 20
_MATTERS = re.compile(
    r"COMMIT|persist|-> .* (Propose|Promise|Prepare|Vote|Cut) |rejects|lost |apply|load|end:|"
    r"^ *\d+ +\S* ?(dies|is back|freezes|falls|loses|finds|rests|has |is |cannot|gets bad|cut off|a cut|"
    r"the faults)"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One seed under one setting, with just these strikes. Traced it gives `trace` (a digest)."""

    seed: int
    setting: Setting
    strikes: tuple[Strike, ...]
    found: str = ""
    trace: str = ""

    def run(self, traced: bool = False) -> Outcome:
        return trial(self.seed, self.setting, traced, strikes=self.strikes)


def digest_of_trace(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write(path: Path, case: Case) -> Outcome:
    """Run the case once more, traced, and write it down."""
    outcome = case.run(traced=True)
    lines = [line for line in outcome.trace if _MATTERS.search(line)]
    text = [
        f"# atoll simulate network --replay {path}",
        f"seed {case.seed}",
        f"setting {json.dumps(_plain(case.setting))}",
        *(f"strike {strike}" for strike in case.strikes),
        f"found {outcome.violation or outcome.stuck or ''}",
        f"trace {digest_of_trace(outcome.trace)}",
        f"# the last {min(len(lines), LINES_MAX)} lines that matter, of {len(outcome.trace)}:",
        *(f"# {line}" for line in lines[-LINES_MAX:]),
    ]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return outcome


def read(path: Path) -> Case:
    """The case that `write` wrote; ConfigError says what is wrong with the file."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"more than {FILE_BYTES_MAX} bytes", str(path), "a transcript")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(error), str(path), "a transcript that --shrink wrote") from None
    fields: dict[str, str] = {}
    strikes = []
    for line in lines:
        key, _, rest = line.partition(" ")
        if key == "strike":
            strikes.append(_strike(rest, path))
        elif key != "#":
            fields[key] = rest
    try:
        chosen = _setting(json.loads(fields["setting"]))
        return Case(int(fields["seed"]), chosen, tuple(strikes), fields["found"], fields["trace"])
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"no transcript: {error}", str(path), "a file that --shrink wrote") from None


def _strike(text: str, path: Path) -> Strike:
    strike = strike_of(text)
    if not known(strike.kind):
        raise ConfigError(f"unknown strike {strike.kind!r}", str(path), "a file that this version wrote")
    return strike


def _plain(chosen: Setting) -> dict[str, Any]:
    fields = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in fields.items()}


def _setting(plain: dict[str, Any]) -> Setting:
    """Lists are sets or tuples, as the setting has them."""
    chosen = Setting(peers=int(plain["peers"]), rounds=int(plain["rounds"]))
    for name, value in plain.items():
        usual = getattr(chosen, name)
        typed = type(usual)(value) if isinstance(value, list) else value
        chosen = dataclasses.replace(chosen, **{name: typed})
    return chosen
