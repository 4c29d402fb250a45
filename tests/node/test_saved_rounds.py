"""What a two-thirds run must remember of a round in progress is on disk, and comes back."""

from __future__ import annotations

from pathlib import Path

from atoll.node.disk import Disk
from atoll.protocol import actions as a
from atoll.protocol.commits import Body, Kind
from atoll.protocol.ids import PeerId, digest_of
from atoll.protocol.ledger import Genesis, Ledger
from atoll.protocol.peer import Saved
from atoll.protocol.proofs import Equivocation, Sighting, Stage
from atoll.protocol.roster import Member

ONE, OTHER = digest_of(b"one"), digest_of(b"other")
WHO = PeerId("somebody")


def test_proofs_come_back_and_evidence_outlives_its_round(tmp_path: Path) -> None:
    members = (Member(WHO),)
    ledger = Ledger(Genesis(ONE, ONE, members))
    body = Body(ONE, 1, ONE, Kind.SKIP, ONE, members, members)
    evidence = Equivocation(WHO, 1, 2, 1, Stage.PREPARE, (ONE, OTHER), (b"a", b"b"))
    seen = (1, 1, Sighting(1, ONE, b"d"))
    saved = Saved((1, 1), (1, 1, body), None, ((WHO, b"c"),), seen, (evidence,))
    disk = Disk(tmp_path)
    disk.persist(a.Accused(1, evidence), saved)
    assert disk.load_saved(ledger) == saved
    disk.persist(a.Promised(2, 1), saved)
    assert disk.load_saved(ledger) == Saved(evidence=(evidence,))
    disk.close()
