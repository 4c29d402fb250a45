"""Which code a run gets for its number of workers and of stragglers: replicas wherever they fit."""

from __future__ import annotations

from atoll.optim.coding.codes import WORKERS_MAX, Code, circulant, random_cyclic, repetition
from atoll.optim.coding.decoding import AMPLIFICATION_MAX, amplification
from atoll.protocol.errors import ConfigError


def code_for(
    workers: int,
    stragglers: int,
    *,
    uneven: bool = False,
    fp32_payloads: bool = False,
    seed: bytes | None = None,
    amplification_max: float = AMPLIFICATION_MAX,
) -> Code:
    """The code of n workers of whom any s may be missing.

    Replicas if s + 1 divides n: they amplify nothing, their sums have the same bits whoever answers, and a
    liar is found by its replica. Replicas in uneven groups if `uneven` allows that some workers compute
    more than s + 1 units. Else the circulant, which exists if one of n and s is odd. Else, only if asked
    for by a `seed`, with payloads that lose nothing and one straggler, random coefficients. Raises
    ConfigError, saying what would do, if none exists or its amplification for s neighbours missing, its
    worst, is beyond the limit.
    """
    if not 1 <= workers <= WORKERS_MAX or not 0 <= stragglers < workers:
        right = f"1 to {WORKERS_MAX} workers, and fewer stragglers than workers"
        raise ConfigError(f"no code for {workers} workers and {stragglers} stragglers", "coding", right)
    if uneven or workers % (stragglers + 1) == 0:
        return repetition(workers, stragglers)
    if (workers - stragglers) % 2:
        return _bounded(circulant(workers, stragglers), amplification_max)
    if seed is None:
        why = f"{stragglers + 1} does not divide {workers}, and no circulant exists as both are "
        why += "odd" if workers % 2 else "even"
        raise ConfigError(
            f"no code for {_sizes(workers, stragglers)}: {why}", "coding", _right(workers, stragglers)
        )
    if not fp32_payloads or stragglers != 1:
        why = "random coefficients are for fp32 payloads and one straggler: they amplify a codec's error"
        raise ConfigError(
            f"no code for {_sizes(workers, stragglers)}: {why}", "coding", _right(workers, stragglers)
        )
    return _bounded(random_cyclic(workers, stragglers, seed), amplification_max)


def _bounded(code: Code, amplification_max: float) -> Code:
    """The circulant looks the same from everywhere; of a random code all neighbours are looked at."""
    everyone = range(code.workers)
    gaps = [{(first + step) % code.workers for step in range(code.stragglers)} for first in everyone]
    worst = max(amplification(code, set(everyone) - gap) for gap in gaps)
    if worst <= amplification_max:
        return code
    sizes = _sizes(code.workers, code.stragglers)
    what = f"the {code.name} code for {sizes} multiplies a codec's error by up to {worst:.1f}"
    raise ConfigError(
        f"{what}, more than {amplification_max:g}", "coding", _right(code.workers, code.stragglers)
    )


def _sizes(workers: int, stragglers: int) -> str:
    return f"{workers} workers and {stragglers} straggler" + "s" * (stragglers != 1)


def _right(workers: int, stragglers: int) -> str:
    """The nearest sizes with replicas, and the option that needs no other size."""
    size = stragglers + 1
    fewer, more = workers // size * size, (workers // size + 1) * size
    others = [count for count in (fewer, more) if 0 < count <= WORKERS_MAX]
    enough = next(count for count in range(stragglers + 1, workers) if workers % (count + 1) == 0)
    counts = " or ".join(map(str, others))
    return f"{counts} workers, or stragglers = {enough}, or uneven groups, some of whose workers compute more"
