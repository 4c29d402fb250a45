"""Each contribution counts once, with no more weight than was assigned and done, and it is in the update."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.actions import Send
from atoll.protocol.commits import Body, Commit, Contributor, Kind
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.messages import Propose
from atoll.protocol.roster import Role
from atoll.protocol.terms import groups_in

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class CountedOnce:
    world: World

    def __init__(self) -> None:
        self.checked: set[Digest] = set()
        self.honest: set[Digest] = set()

    def on_send(self, host: Host, action: Send) -> None:
        """Bodies that an honest leader made: a lone liar cannot slip another sum into these."""
        message = action.message
        if isinstance(message, Propose) and not (message.justification and message.justification.certificate):
            self.honest.add(message.body.digest)

    def on_commit(self, host: Host, commit: Commit) -> None:
        body = commit.body
        if body.digest in self.checked:
            return
        self.checked.add(body.digest)
        if body.kind is Kind.RECOVERY:
            self.world.require(not body.contributors, f"recovery {body.round} has contributors")
            return
        peers = [contributor.peer for contributor in body.contributors]
        self.world.require(
            len(peers) == len(set(peers)), f"a contributor counts twice in commit {body.round}"
        )
        if self.world.setting.liars:
            self._clamped(body)
            dense = self.world.signed.manifest.rounds.exchange == "dense"
            lone = self.world.setting.liars == 1
            if dense and lone and body.kind is Kind.UPDATE and body.digest in self.honest:
                for part in range(len(body.blobs)):
                    self._part(body, part)
            return
        self._weights(body)
        if body.kind is Kind.UPDATE:
            if self.world.signed.manifest.rounds.exchange == "dense":
                for part in range(len(body.blobs)):
                    self._part(body, part)
            self._whole(body)

    def _clamped(self, body: Body) -> None:
        """What liars cannot get past honest voters; how many tokens one really saw, only that one knows."""
        world = self.world
        members = {m.peer: m for m in body.before}
        for c in body.contributors:
            member = members.get(c.peer)
            may = member is not None and member.role is Role.WORKER and member.weight_from <= body.round
            world.require(
                may and 0 < c.weight <= world.signed.manifest.assignment.tokens,
                f"the weight {c.weight} of {c.peer[-8:]} in commit {body.round} is not its due",
            )

    def _weights(self, body: Body) -> None:
        world = self.world
        may = {
            member.peer
            for member in world.members(body.round, body.epoch)
            if member.role is Role.WORKER and member.weight_from <= body.round
        }
        assigned = world.signed.manifest.assignment.tokens
        for c in body.contributors:
            done = [event.tokens for event in world.contributions.get((c.peer, body.round), [])]
            fair = c.peer in may and c.tokens in done and c.weight > 0
            if world.signed.manifest.rounds.weights == "tokens":  # of the others: weighed.py
                fair = fair and c.weight <= min(assigned, max(done))
            world.require(
                fair, f"the weight {c.weight} of {c.peer[-8:]} in commit {body.round} is not its due"
            )

    def _part(self, body: Body, part: int) -> None:
        """A blob is the mean of just these contributors with these weights, in this order."""
        action = self.world.means.get(body.blobs[part].digest)
        right = [(self._who(body, c.peer), c.weight) for c in in_sum(self.world, body)]
        found = [] if action is None else [(self._who(body, p), w) for p, w, _ in action.inputs]
        self.world.require(
            action is not None and action.part == part and found == right,
            f"part {part} of update {body.round} is not the mean of its contributors",
        )

    def _who(self, body: Body, peer: PeerId) -> PeerId:
        """Who stands for a contributor: the first of its group, as the means of its replicas are the same."""
        rules = self.world.signed.manifest.rounds
        if not rules.replicated:
            return peer
        groups = groups_in(body.before, body.round, rules)
        return next(group[0] for group in groups if peer in group)

    def _whole(self, body: Body) -> None:
        """The parts that count for one contributor are of one contribution."""
        used = pieces(self.world, body)
        for contributor in body.contributors:
            peer = contributor.peer
            done = self.world.contributions[peer, body.round]
            self.world.require(
                any([ref.digest for ref in event.parts] == used.get(peer) for event in done),
                f"update {body.round} is not made of one contribution of {peer[-8:]}",
            )


def in_sum(world: World, body: Body) -> list[Contributor]:
    """The contributors in the order of a sum, which is that of the shards, where members hold their own."""
    if world.signed.manifest.rounds.shards != "private":
        return list(body.contributors)
    shards = {member.peer: member.shard for member in body.before}
    return sorted(body.contributors, key=lambda contributor: shards[contributor.peer])


def pieces(world: World, body: Body) -> dict[PeerId, list[Digest]]:
    """What an update is made of, by contributor: the blobs summed or, if sparse, the blobs themselves."""
    used: dict[PeerId, list[Digest]] = {}
    if world.signed.manifest.rounds.exchange == "sparse":
        for contributor, ref in zip(body.contributors, body.blobs, strict=True):
            used.setdefault(contributor.peer, []).append(ref.digest)
    else:
        for ref in body.blobs:
            for c, (_, _, piece) in zip(in_sum(world, body), world.means[ref.digest].inputs, strict=True):
                used.setdefault(c.peer, []).append(piece.digest)
    return used
