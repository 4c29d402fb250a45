"""A trial as lines that a person reads: when, who, what. Written only when asked for: it costs time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.ids import PeerId

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class Trace:
    def __init__(self, world: World) -> None:
        self.world = world
        self.lines: list[str] = []

    def line(self, who: str, text: str) -> None:
        self.lines.append(f"{self.world.clock.now_ms:>8} {who:>4} {text}")

    def name(self, peer: PeerId) -> str:
        host = self.world.hosts.get(peer)
        return host.name if host else peer[-8:]

    def event(self, host: Host, event: e.Event) -> None:
        match event:
            case e.Received(sender, message):
                text = f"<- {self.name(sender)} {self.message(message)}"
            case e.TimerFired(timer):
                text = f"timer {timer.name} r{timer.round} v{timer.view}"
            case e.BlobArrived(digest) | e.BlobFailed(digest):
                text = f"{type(event).__name__} {digest[:8]}"
            case e.PeerLost(peer):
                text = f"lost {self.name(peer)}"
            case e.Started(state, held):
                text = f"started, state of round {state.round if state else None}, {len(held)} blobs"
            case e.Found(peers):
                text = f"found {len(peers)}"
            case _:
                text = self.plain(event)
        self.line(host.name, text)

    def action(self, host: Host, action: a.Action) -> None:
        match action:
            case a.Send(to, message):
                text = f"-> {','.join(self.name(peer) for peer in to)} {self.message(message)}"
            case a.SetTimer(timer, after_ms):
                text = f"set {timer.name} r{timer.round} v{timer.view} in {after_ms}"
            case a.Fetch(ref, holders, kind):
                text = f"fetch {kind} {ref.digest[:8]} of {','.join(self.name(peer) for peer in holders)}"
            case a.Persist(a.Committed(commit)):
                text = f"COMMIT r{commit.body.round} v{commit.view} {self.body(commit.body)}"
            case a.Persist(a.Promised(round_, view)):
                text = f"persist promised r{round_} v{view}"
            case a.Persist(a.Prepared(_, round_, seen)):
                text = f"persist prepared r{round_} v{seen.view} {seen.body[:8]}"
            case a.Persist(a.Accused(_, evidence)):
                text = f"persist evidence against {self.name(evidence.peer)} in v{evidence.view}"
            case a.Persist(a.Accepted() | a.Proposed() as record):
                kind = type(record).__name__.lower()
                text = f"persist {kind} r{record.round} v{record.view} {self.body(record.body)}"
            case a.Aggregate():
                text = f"aggregate part {action.part} sum {action.sum} of {len(action.inputs)}"
            case a.Apply(body):
                text = f"apply {self.body(body)}"
            case a.Encode(round_, parts, lasting, begun):
                late = "" if begun == round_ else f", begun for r{begun}"
                text = f"encode {round_} {parts} {lasting}{late}"
            case a.Rejected(peer, reason):
                text = f"rejects {self.name(peer)}: {reason}"
            case a.LoadState(round_, anchor, _, holders):
                text = f"load r{round_} {anchor[:8]} of {','.join(self.name(peer) for peer in holders)}"
            case _:
                text = self.plain(action)
        self.line(host.name, "   " + text)

    def body(self, body: Any) -> str:
        contributors = ",".join(self.name(c.peer) for c in body.contributors)
        return f"{body.kind.name.lower()} {body.digest[:8]} [{contributors}] of {len(body.members)} next"

    def message(self, message: m.Message) -> str:
        """Kind, round, view and revision, and then what tells one from another."""
        view, revision = getattr(message, "view", None), getattr(message, "revision", None)
        head = f"{type(message).__name__} r{message.round}" + (f" v{view}" if view is not None else "")
        head += f" rev {revision}" if revision is not None else ""
        return f"{head} {self._content(message)}".rstrip()

    def _content(self, message: m.Message) -> str:
        match message:
            case m.Propose(_, _, body):
                return self.body(body)
            case m.Vote(_, _, digest, _, stage):
                return f"{digest[:8]}{' first stage' if stage else ''}"
            case m.Lock():
                return f"{message.body[:8]} of {len(message.votes)}"
            case m.Accuse():
                return ",".join(self.name(e.peer) for e in message.evidence)
            case m.Promise(_, _, accepted):
                return f"accepted v{accepted[0]} {accepted[1].digest[:8]}" if accepted else ""
            case m.Plan():
                parts = ",".join(str(column.part) for column in message.columns)
                return f"of {len(message.participants)} parts {parts}"
            case m.Held():
                return f"part {message.part} of {len(message.peers)}"
            case m.Cut():
                return f"of {len(message.contributors)}"
            case m.Reduced() | m.Summed():
                return f"part {message.part} {message.blob.digest[:8]}"
            case m.Commits():
                rounds = ",".join(str(commit.body.round) for commit in message.commits)
                return f"[{rounds}] height {message.height}"
            case m.Offer():
                return f"{message.tokens} tokens{' leaving' if message.leaving else ''}"
            case m.Join():
                return message.role.name.lower()
            case m.State():
                return message.anchor[:8]
            case m.Waiting() | m.Refuse() | m.Leave():
                return message.reason
            case _:
                return ""

    def plain(self, thing: Any) -> str:
        """Numbers and texts of a dataclass; what is longer is left out."""
        fields = [getattr(thing, name) for name in thing.__dataclass_fields__]
        short = [str(value) for value in fields if isinstance(value, (int, str, bool))]
        return " ".join([type(thing).__name__.lower(), *short])
