"""The numbers: what happens to tensors between two commits of the ledger.

Lives here: the layout of a model as one flat fp32 vector, pseudo-gradients, the payload codecs, the
error-feedback residual, the weighted mean in contributor order, outer Nesterov, digests of tensors.
Does not live here: sockets, files, clocks, asyncio, randomness, models. Imports numpy and torch only.
Everything that must agree on every peer is elementwise fp32 on the CPU with one rounding per
operation: no fused multiply-add, and no reduction whose order depends on threads or hardware.
Start at `layout` (what a flat vector is), then follow a round: `pseudo_gradient`, `feedback`, `codecs`,
`mean`, `nesterov`, `digest`. `reference` says the same in slow plain Python; the tests compare the two.
This module imports nothing, so that commands which only need a name start without torch.
"""
