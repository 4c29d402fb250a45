"""Rules that a run may plug in and that are not part of its usual round: each is one module of pure
functions.

Lives here: what changes what a worker does between two anchors (fedamd: two gradients a step, an inner SGD of
its own), or reads all contributions at once (fedld). Does not live here: rules that every run may choose by
name in its manifest (`optim/rules`, `optim/mean`, `optim/rda`). The same rules of bits hold as in optim/.
Start at fedamd, whose docstring says what a round of it is.
"""
