"""The training lab: P replicas of one model in one process, for any list of methods, on real data.

Lives here: what a LAB.toml says, the replicas and who of them is there, the methods as small objects that
decide when something is exchanged, the exact count of bytes, trials that survive kill -9, and the figures.
Does not live here: any arithmetic on tensors (that is `optim/`), any model, data or inner step (that is
`workload/`), sockets, and the terminal (that is `cli/simulate_training`).
Every method sees the same first parameters, the same windows and the same number of tokens, so what differs
between two rows of a table is the method.
Start at `config` (what can be said), then `methods` (one module for each family), `trial` (one method under
one seed), `pool` (many of them in processes) and `report` (what comes out).
"""
