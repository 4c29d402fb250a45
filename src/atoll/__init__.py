"""Atoll: train one model on many poorly connected machines.

The folders at the top of the repository are sub-packages of this one, through the links beside this
file. Start with `atoll.protocol` (the rules of the network) or `atoll.node` (the daemon that obeys them).
"""

__version__ = "0.1.0"
