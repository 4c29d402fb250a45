"""How long a leader waits for more once a quorum is there: only as long as nobody waits for it.

`leading.decide` waits for `grace_share` of the time that the quorum took: those that are a little slower are
still taken. That costs the quorum its time. Where training goes on meanwhile (`overlap`), there is a time
that costs nobody anything, because the update is not needed before: `slack_ms`. Both are a leader's own
decision, which nobody repeats, so they need not agree on any two peers. (Decoupled DiLoCo, 2026, equation 3)
"""

from __future__ import annotations


def slack_ms(window_ms: int, quorum_ms: int, sync_ms: int, share: float) -> int:
    """share * max(0, window - quorum - sync): none if the quorum itself is late, or nothing overlaps.

    `window_ms` is the time for which a worker can train on without the update (steps ahead times the
    milliseconds of a step), `quorum_ms` what the quorum took and `sync_ms` what the exchange, the vote and
    the commit usually take. `share`, below 1, leaves room for their variation.
    """
    return int(share * max(0, window_ms - quorum_ms - sync_ms))


def grace_ms(waited_ms: int, share: float, bounds_ms: tuple[int, int]) -> int:
    """How long to wait after the quorum: a share of the wait so far, within bounds."""
    least_ms, most_ms = bounds_ms
    return max(least_ms, min(int(share * waited_ms), most_ms))
