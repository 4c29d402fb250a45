"""The `atoll` command: one small module for each verb, and one place where errors become exit codes.

`main.py` mounts the verbs, `boundary.py` turns an error into one line and an exit code, `places.py` knows
where state lies, `admin.py` talks to a running daemon over its unix socket, `demo/` is a whole swarm on one
machine. `atoll --help` and `atoll status` start in under half a second: whatever needs torch, transformers,
hivemind or matplotlib is imported inside the verb that uses it. Nothing imports this folder.
"""
