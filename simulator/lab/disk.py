"""What a lab keeps in its folder: each trial's newest state while it runs, and its result when it is done.

    DIR/start/seed-0.safetensors                       what all methods start from, if [start] says so
    DIR/trials/03-sparseloco/seed-0/state.json         names the folder beside it that is whole
                                   /at-480/            tensors of that step, safetensors
                                   /result.json        instead, once the trial is done
    DIR/results.json, DIR/loss.png                     of the whole lab

`state.json` is replaced in one rename after everything that it names is on the disk, so a trial that is
killed at any moment finds a whole state, or none. Files of another LAB.toml are told by their digest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from atoll.protocol.errors import ConfigError
from atoll.workload.inner_state import flush_folder, replace

_SLUG = re.compile(r"[^a-z0-9]+")
START_OVER = "another --out, or no --resume: then all begins anew"


class StartFolder:
    """The parameters that one machine trained before the swarm began, for each seed."""

    def __init__(self, out: Path, digest: str) -> None:
        self.path, self._digest = out / "start", digest

    def clear(self) -> None:
        """Forget an earlier lab's."""
        shutil.rmtree(self.path, ignore_errors=True)

    def load(self, seed: int) -> Tensor | None:
        """They, if they were made already. Raises ConfigError if they are another lab's."""
        path = self.path / f"seed-{seed}.safetensors"
        if not path.exists():
            return None
        found = load_tensors(path)
        if self._digest not in found:
            raise ConfigError("this is of another LAB.toml", str(path), START_OVER)
        return found[self._digest]

    def save(self, seed: int, start: Tensor) -> None:
        """Keep them. Two processes may both do so, at once: they have the same."""
        self.path.mkdir(parents=True, exist_ok=True)
        own = self.path / f"seed-{seed}.{os.getpid()}"
        save_tensors({self._digest: start}, own)
        os.replace(own, self.path / f"seed-{seed}.safetensors")


class TrialFolder:
    """The files of one trial. `digest` is of all that its numbers depend on."""

    def __init__(self, out: Path, number: int, method: str, seed: int, digest: str) -> None:
        slug = _SLUG.sub("-", method.lower()).strip("-")[:40]
        self.path = out / "trials" / f"{number:02d}-{slug}" / f"seed-{seed}"
        self._digest = digest

    def clear(self) -> None:
        """Forget an earlier trial."""
        shutil.rmtree(self.path, ignore_errors=True)

    def result(self) -> dict[str, Any] | None:
        return self._read("result.json")

    def finish(self, result: Mapping[str, Any]) -> None:
        """Keep the result; the state is not needed any more."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._replace("result.json", result)
        (self.path / "state.json").unlink(missing_ok=True)
        self._drop_but(None)

    def begin_state(self, step: int) -> Path:
        """An empty folder for the tensors of that step."""
        folder = self.path / f"at-{step}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def commit_state(self, step: int, facts: Mapping[str, Any]) -> None:
        """From now on the state of that step is the one to go on from."""
        flush_folder(self.path / f"at-{step}")
        flush_folder(self.path)
        self._replace("state.json", {**facts, "step": step})
        self._drop_but(step)

    def state(self) -> tuple[dict[str, Any], Path] | None:
        """What the newest whole state says, and where its tensors are."""
        facts = self._read("state.json")
        return None if facts is None else (facts, self.path / f"at-{facts['step']}")

    def _drop_but(self, step: int | None) -> None:
        for folder in self.path.glob("at-*"):
            if folder.name != f"at-{step}":
                shutil.rmtree(folder, ignore_errors=True)

    def _replace(self, name: str, content: Mapping[str, Any]) -> None:
        replace(self.path / name, json.dumps({**content, "digest": self._digest}).encode())

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ConfigError(f"damaged: {error}", str(path), START_OVER) from None
        if not isinstance(found, dict) or found.pop("digest", "") != self._digest:
            raise ConfigError(
                "this is of another LAB.toml, or another number of tokens", str(path), START_OVER
            )
        return found


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors; they are on the disk when it returns."""
    replace(path, to_bytes({name: tensor.contiguous() for name, tensor in tensors.items()}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read them back, copied: a mapping of a file must not outlive it. Raises ConfigError if damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: torch.clone(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"damaged: {error}", str(path), START_OVER) from error
