"""The two errors that cross folders. A peer's fault and a user's fault never look alike."""

from __future__ import annotations


class RemoteProtocolError(Exception):
    """A peer sent bytes that the protocol forbids. The text is the reason that it may read."""


class ConfigError(Exception):
    """A user's input is wrong. Says what, where, and what would be right, in one line."""

    def __init__(self, what: str, where: str = "", right: str = "") -> None:
        self.what, self.where, self.right = what, where, right
        super().__init__("".join((f"{where}: " if where else "", what, f" ({right})" if right else "")))
