"""The processes of benchmarks/sync.py: started, told, heard and ended here."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
WAIT_S = float(os.environ.get("SYNC_WAIT_S", 400))
HIVEMIND = "1.1.12"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atoll" / "benchmarks"


class Peer:
    """A process that speaks lines of JSON."""

    def __init__(self, python: str, script: str, told: dict[str, Any], log: Path) -> None:
        self._kept: list[dict[str, Any]] = []
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [python, str(HERE / script), json.dumps(told)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self._log = log
        threading.Thread(target=self._read, daemon=True).start()

    def say(self, **what: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, key: str, value: object = None, wait_s: float = WAIT_S) -> dict[str, Any]:
        """The next line that has `key`, and this value under it; others wait for who asks for them.

        RuntimeError if none comes, or the process ends.
        """
        end_s = time.monotonic() + wait_s
        while True:
            for place, line in enumerate(self._kept):
                if key in line and value in (None, line[key]):
                    return self._kept.pop(place)
            try:
                self._kept.append(self._lines.get(timeout=max(0.0, end_s - time.monotonic())))
            except queue.Empty:
                raise RuntimeError(f"no {key!r} in {wait_s:g} s; {self._kept[-5:]}") from None
            if "ended" in self._kept[-1]:
                raise RuntimeError(f"it ended before {key!r}: {self._log.read_text()[-2000:]}")

    def cpu_s(self) -> float:
        """Processor time of the process and all under it."""
        spent = 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            whole = psutil.Process(self.process.pid)
            for process in (whole, *whole.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    spent += sum(process.cpu_times()[:2])
        return spent

    def kill(self) -> None:
        """SIGKILL, to all of it: a machine is gone."""
        under = []
        with contextlib.suppress(psutil.NoSuchProcess):
            under = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for process in under:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def end(self) -> None:
        """Close its stdin; by force if it does not take the hint."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()  # type: ignore[union-attr]
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.kill()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self._lines.put(json.loads(line))
        self._lines.put({"ended": True})


def end(peers: Sequence[Peer]) -> None:
    threads = [threading.Thread(target=peer.end) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def hivemind_python() -> str:
    """The interpreter of hivemind's own environment; made on first use, which takes minutes."""
    folder = CACHE / f"hivemind-{HIVEMIND}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"making an environment for hivemind {HIVEMIND} in {folder}, once", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        import torch

        wanted = [f"hivemind=={HIVEMIND}", "numpy<2.4", f"torch=={torch.__version__}", "psutil"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
        (folder / "ready").touch()
    return str(python)
