"""Who passes a commit on to whom: the leader to those who vote, they to the others, in a tree.

In a swarm of usual size everybody votes and the leader tells everybody. In a large one nobody passes on more
than `FAN_OUT` copies beside the leader; who is left out because another died asks around, as always.
"""

from __future__ import annotations

from atoll.protocol.ids import PeerId
from atoll.protocol.terms import Terms

FAN_OUT = 8


def receivers(terms: Terms, me: PeerId) -> tuple[PeerId, ...]:
    """Whom this member tells a commit of the round that it did not lead to."""
    others, voters = terms.others, len(terms.voters)
    if not others:
        return ()
    if me in terms.voting:
        row = terms.voters.index(me)
    elif me in terms.places:
        row = voters + terms.others_places[me]
    else:
        return ()
    return others[row * FAN_OUT : (row + 1) * FAN_OUT]
