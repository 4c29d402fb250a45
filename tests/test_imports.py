"""Who may import whom: the table of docs/architecture.md, kept by reading every module's imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

STDLIB = {*sys.stdlib_module_names, "tomllib"}  # which Python 3.10 has not
ROOT = Path(__file__).resolve().parent.parent
OWN_WORDS = "atoll.protocol.errors"
"""The two errors that cross folders: every folder may import this one module."""

FORBIDDEN_STDLIB = {
    "protocol": {"socket", "asyncio", "threading", "random", "time", "os", "multiprocessing", "subprocess"},
    "optim": {"socket", "asyncio", "subprocess", "multiprocessing", "pathlib", "tempfile"},
    "workload": {"socket", "asyncio"},
    "simulator": {"socket"},
}
LIBRARIES = {
    "protocol": {"blake3", "cryptography", "google"},
    "optim": {"blake3", "numba", "numpy", "torch"},
    "workload": {
        "datasets",
        "numpy",
        "safetensors",
        "schedulefree",
        "tokenizers",
        "tomli",
        "torch",
        "transformers",
    },
    "simulator": {"numpy", "torch", "matplotlib", "safetensors"},
}
SIBLINGS = {
    "protocol": set(),
    "optim": set(),
    "workload": set(),
    "simulator": {"protocol", "optim", "workload"},
    "node": {"protocol", "optim", "workload"},
    "coordinator": {"protocol", "optim", "workload", "node"},
    "cli": {"protocol", "optim", "workload", "node", "coordinator", "simulator"},
}
ONLY_IN = {
    "hivemind": {"node/dht.py"},
    "cryptography": {"protocol/keys.py", "node/identity.py"},
    "grpc": {
        "node/direct.py",
        "node/link.py",
        "node/admin.py",
        "node/serve.py",
        "coordinator/control.py",
        "cli/admin.py",
    },
}


def modules(folder: str) -> list[Path]:
    return [p for p in sorted((ROOT / folder).rglob("*.py")) if not p.stem.endswith(("_pb2", "_pb2_grpc"))]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            if node.module == "atoll":
                yield from (f"atoll.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder", sorted(SIBLINGS))
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    found = modules(folder)
    assert found
    for path in found:
        for name in imports(path):
            top, _, rest = name.partition(".")
            where = f"{path.relative_to(ROOT)} imports {name}"
            if top == "atoll":
                sibling = rest.partition(".")[0]
                allowed = SIBLINGS[folder] | {folder, "", "__version__"}
                assert sibling in allowed or name == OWN_WORDS, where
            elif top in STDLIB:
                assert top not in FORBIDDEN_STDLIB.get(folder, set()), where
            elif folder in LIBRARIES:
                assert top in LIBRARIES[folder], where


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_stays_behind_its_seam(library: str) -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for folder in SIBLINGS
        for path in modules(folder)
        if any(name.partition(".")[0] == library for name in imports(path))
    }
    assert users
    assert users <= ONLY_IN[library]


def test_the_links_lead_to_the_folders() -> None:
    for folder in SIBLINGS:
        assert (ROOT / "src" / "atoll" / folder).resolve() == ROOT / folder
