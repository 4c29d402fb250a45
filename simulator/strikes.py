"""One fault as data: when, what kind, whom, how long. A line of text each, so that a list of them is a file.

A trial under faults notes every strike that it draws. Given such a list, a trial draws none and strikes just
as the list says: that is how a failure is made smaller, and how it is seen again.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.protocol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Strike:
    """`who` is struck; `others` is the far side of a cut. `numbers` are milliseconds, bytes, per mille."""

    at_ms: int
    kind: str
    who: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    moment: str = ""

    def __str__(self) -> str:
        numbers = ",".join(map(str, self.numbers))
        words = [",".join(self.who), ",".join(self.others), numbers, self.moment.replace(" ", "_")]
        return " ".join([str(self.at_ms), self.kind, *(word or "-" for word in words)])

    @property
    def named(self) -> frozenset[str]:
        return frozenset((*self.who, *self.others))


def strike_of(line: str) -> Strike:
    """Read what `str` wrote; ConfigError if it is none."""
    try:
        at_ms, kind, who, others, numbers, moment = line.split()
        return Strike(
            int(at_ms),
            kind,
            _words(who),
            _words(others),
            tuple(map(int, _words(numbers))),
            "".join(_words(moment)).replace("_", " "),
        )
    except ValueError:
        right = "TIME KIND WHO OTHERS NUMBERS MOMENT, with - for none"
        raise ConfigError(f"strike {line!r}", "a transcript", right) from None


def _words(text: str) -> tuple[str, ...]:
    return () if text == "-" else tuple(text.split(","))
