"""Straggler codes: more than one worker computes each work unit, so that the sum lacks nobody.

Lives here: which worker computes which units with which coefficients, the decode vector of those that
answered, both sums over payloads, replicas that disagree, and the two sequential codes over rounds.
Does not live here: training, deadlines, who is a member. All of it is pure, and what peers must agree on has
the same bits everywhere: exact decimals, or fp64 in a fixed order, never LAPACK.
Start at `units` (what is computed), `choice` (which code), `decoding` (whose answers count how much) and
`sums` (payloads in, mean out). `codes` has the codes, `bursts`, `selective_repeat` and `multiplexed` those
that answer over several rounds, `replicas` the lie detector. (Gradient Coding, Tandon et al. 2017)
"""
