"""For fault tests: a process stops itself at an exact step of a round, with a real SIGSTOP.

Off unless `ATOLL_BREAKPOINTS` names a folder, which all processes of a swarm share. A test arms one
breakpoint for all of them: the file `armed` in that folder, {"step": …, "role": …}. Whoever comes to that
step in that role first takes it (a rename, so only one does), says in `hit` who and where it is, and stops
before it performs the step. Whether it is then killed, thawed or started anew is the test's business: the
others see what they would see of any process that the system stopped or killed there.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.peer import Peer
from atoll.protocol.roster import Role

STEPS = ("offer", "plan", "scatter", "reduce", "gather", "propose", "vote", "commit")
ROLES = ("leader", "owner", "worker", "witness")
"""`owner` owns a part and does not lead; `worker` and `witness` do neither."""
ARMED, TAKEN, HIT = "armed", "taken", "hit"

_SENT: dict[type, str] = {m.Plan: "plan", m.Propose: "propose", m.Vote: "vote"}
_RECEIVED: dict[type, str] = {
    m.Offer: "offer",
    m.Plan: "plan",
    m.Held: "scatter",
    m.Reduced: "reduce",
    m.Propose: "propose",
    m.Vote: "vote",
}
_FETCHED = {"contribution": "scatter", "result": "gather"}
_OF_OWNERS = ("plan", "scatter", "reduce")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer stands when an event reaches it."""

    peer: str
    round: int
    view: int
    role: str


class Breakpoints:
    """`arrive` before an event is handled, `before` each action that it leads to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._place: Place | None = None

    def arrive(self, peer: Peer, event: e.Event) -> None:
        self._place = place(peer)
        self._reach(step_of_event(event))

    def before(self, action: a.Action) -> None:
        if self._place is not None:
            self._reach(step_of_action(action, self._place))

    def _reach(self, step: str | None) -> None:
        if step is None or self._place is None or not self._take(step, self._role(step)):
            return
        hit = {"pid": os.getpid(), "step": step, **asdict(self._place), "role": self._role(step)}
        unfinished = self._folder / f"{HIT}.{os.getpid()}"
        unfinished.write_text(json.dumps(hit))
        os.replace(unfinished, self._folder / HIT)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _role(self, step: str) -> str:
        """Only owners come to some steps, and they learn there that they are."""
        assert self._place is not None
        leads = self._place.role == "leader"
        return "owner" if step in _OF_OWNERS and not leads else self._place.role

    def _take(self, step: str, role: str) -> bool:
        """Whether this step is armed, and this process the first to come to it."""
        try:
            armed = json.loads((self._folder / ARMED).read_text())
            if (armed["step"], armed["role"]) != (step, role):
                return False
            os.rename(self._folder / ARMED, self._folder / TAKEN)
        except FileNotFoundError:
            return False
        return True


def place(peer: Peer) -> Place | None:
    """None for a peer that has no part in its round (yet)."""
    if not hasattr(peer, "terms") or not (peer.active and peer.ready):
        return None
    if peer.leading is not None:
        role = "leader"
    elif peer.config.role is Role.WITNESS:
        role = "witness"
    else:
        role = "owner" if peer.owning.parts else "worker"
    return Place(peer.me, peer.round, peer.view, role)


def step_of_event(event: e.Event) -> str | None:
    """The step that begins when this is handled. A worker offers once it has trained."""
    match event:
        case e.Trained():
            return "offer"
        case e.Received():
            return _RECEIVED.get(type(event.message))
        case _:
            return None


def step_of_action(action: a.Action, place: Place) -> str | None:
    """The step that this action is. A leader commits by telling; it has the commit on disk then."""
    match action:
        case a.Send(message=m.Commits() as told):
            own = place.role == "leader" and any(c.body.round == place.round for c in told.commits[:1])
            return "commit" if own else None
        case a.Send():
            return _SENT.get(type(action.message))
        case a.Fetch():
            return _FETCHED.get(action.kind)
        case a.Aggregate():
            return "reduce"
        case a.Persist(record=a.Committed()) if place.role != "leader":
            return "commit"
        case _:
            return None
