"""The researcher's side of a run: what is written in RUN.toml becomes a signed manifest and a first anchor.

`runfile.py` reads RUN.toml and names the key that is wrong. `publish.py` makes a run out of it once, in a
state directory, and recognises it when it starts again. `template.toml` is what `atoll init` writes.

A coordinator is a peer like any other (the daemon is `atoll.node`), so nothing here takes part in a round:
no sockets, no event loop. Only cli/ imports this folder. Start reading with `publish.py`.
"""
