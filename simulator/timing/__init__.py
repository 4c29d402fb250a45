"""Rounds in time: who waits for whom, what that costs in tokens, and when a real loss is reached.

Lives here: traces of speeds and failures drawn from one seed, a small language model that is really trained
on real text, the policies that say who works on what and when a round ends, and the goodput of runs whose
machines fail. Time is virtual and exact: a machine's load does not change a figure. Does not live here: any
rule that a peer applies. What the policies decide with is `protocol/` and `optim/`. Start at `traces` (how
fast whom, when), then `learner` (what is trained), `policies` (the seven of them), `rounds` (a policy, a
trace and a learner, put together), and `goodput` (many machines that fail).
"""
