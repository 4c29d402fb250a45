"""The rules of the network, without any I/O: what a peer may say, must do, and never does.

Lives here: identities and signatures, messages and their wire form, the run manifest, the ledger, and the
`Peer` state machine with the whole round. May not live here: sockets, clocks, threads, randomness, files,
tensors. Time comes in as `now_ms`, choices that must agree come from hashes, and what should happen goes out
as actions, so that a daemon and a simulator drive the very same object.
Start at peer.py (the state and who handles what), then duties/ (what each role does), terms.py (what every
peer derives alone), leading.py, owning.py, collecting.py, catchup.py (the decisions), ledger.py, commits.py,
roster.py (what is agreed on, and by whom). Where some may lie: views.py, proofs.py, justify.py, evidence.py
and proven.py. docs/protocol.md tells the story.
"""
