"""A second shell around the same protocol: virtual time, made-up bytes, and faults that one seed decides.

Lives here: the clock, links, disks and hosts that perform a `Peer`'s actions, the faults, and the checkers
that watch. Does not live here: any rule of the protocol, sockets, wall clocks, threads, torch.
A host runs the very `atoll.protocol.peer.Peer` that a daemon runs, so what fails under a seed here is a
fault of the product. `FAIL seed=7` comes back exactly by running seed 7 again.
Start at `world` (what there is), then `host` (what an action does), `faults` (what goes wrong, drawn as
`strikes` that `striking` carries out), `checkers/` (what must never happen), `run` (many seeds, one answer)
and `shrink` (a failing seed as a short transcript that replays).
(After TigerBeetle's simulator: check safety under faults, then stop the faults and require progress.)
"""
