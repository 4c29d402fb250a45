"""What a run trains: a model, tokens, batches, the inner loop, evaluation and export. No network.

Lives here: everything that turns (anchor, round, member) into a pseudo-gradient's raw material, and a
trained vector into a folder that `transformers` loads.
May not live here: sockets, asyncio, processes, outer optimisation, codecs.
Imports only the standard library, numpy, torch, transformers, tokenizers, safetensors, schedulefree and
`atoll.protocol.errors`. This package imports none of them by itself, so that reading a configuration
costs no torch.
Start reading: config.py (what a researcher may say), inner.py (what a peer does in a round), shards.py
(who reads which text).
"""
