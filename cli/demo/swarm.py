"""The swarm as the demo sees it: its processes and what each of them said last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atoll.cli import places
from atoll.cli.admin import Admin, Asked
from atoll.cli.boundary import PromiseBroken
from atoll.cli.demo import children
from atoll.cli.demo.children import Child

Status = dict[str, Any]

ASK_S = 3.0
FAST_S, SLOW_S = 0.01, 0.25


class Swarm:
    """Starts daemons and keeps the last status of each, of the dead ones too; `fresh` are this moment's.

    `seen` is told after every look. All waiting goes through `until`, which notices a daemon that ended by
    itself, and gives up in time.
    """

    def __init__(self, folder: Path, seen: Callable[[Swarm], None]) -> None:
        self.folder, self._seen = folder, seen
        self.children: dict[str, Child] = {}
        self.statuses: dict[str, Status] = {}
        self.fresh: dict[str, Status] = {}
        self.killed: dict[str, str] = {}
        self.events: list[str] = []
        self._started_s = time.monotonic()
        self._admins: dict[str, Admin] = {}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started_s

    @property
    def living(self) -> list[str]:
        return [name for name in self.children if name not in self.killed]

    def start(self, name: str, *arguments: str) -> None:
        self.children[name] = children.start(name, self.folder, arguments)
        self.note(f"{name} started, process {self.children[name].process.pid}")

    def kill(self, name: str) -> None:
        """SIGKILL a daemon; what it said last stays known."""
        children.kill(self.children[name])
        self.killed[name] = self.statuses[name]["peer"]
        if name in self._admins:
            self._admins.pop(name).close()

    def note(self, text: str) -> None:
        self.events.append(f"{self.seconds:6.1f} s  {text}")
        self._seen(self)

    def look(self) -> None:
        """Ask every living daemon at once; those that do not answer keep their last status."""
        asked: dict[str, Asked] = {}
        for name in self.living:
            if name in self._admins or places.answers(self.children[name].state_dir):
                admin = self._admins.setdefault(name, Admin(self.children[name].state_dir))
                asked[name] = admin.ask(ASK_S)
        answers = {name: answer.answer() for name, answer in asked.items()}
        self.fresh = {name: status for name, status in answers.items() if status and "run_id" in status}
        self.statuses.update(self.fresh)
        self._seen(self)

    def until(self, holds: Callable[[], bool], seconds: float, what: str, fast: bool = False) -> None:
        """Look until `holds`. Raises PromiseBroken after `seconds`, or when a daemon ends by itself."""
        end_s = time.monotonic() + seconds
        while True:
            self.look()
            if holds():
                return
            self._all_alive()
            if time.monotonic() > end_s:
                raise PromiseBroken(f"after {seconds:.0f} s still no sign of: {what} ({self._whys()})")
            time.sleep(FAST_S if fast else SLOW_S)

    def close(self) -> None:
        """End every process, and leave behind what they said last."""
        record = {"events": self.events, "statuses": self.statuses}
        (self.folder / "swarm.json").write_text(json.dumps(record, indent=1))
        for admin in self._admins.values():
            admin.close()
        children.stop([self.children[name] for name in self.living])

    def _all_alive(self) -> None:
        for name in self.living:
            child = self.children[name]
            if not child.alive:
                code = child.process.returncode
                raise PromiseBroken(f"{name} ended by itself with status {code}: {child.last_words()}")

    def _whys(self) -> str:
        return "; ".join(
            f"{name}: {status['phase']}, {status['why']}"
            for name, status in self.statuses.items()
            if name in self.living
        )
