"""docs/protocol.md shows what the protocol's tables say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_is_fresh(tmp_path: Path) -> None:
    made = tmp_path / "protocol.md"
    script = ROOT / "tools" / "generate_diagrams.py"
    subprocess.run([sys.executable, str(script), str(made)], check=True, cwd=tmp_path)
    page = ROOT / "docs" / "protocol.md"
    assert made.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), "run `make diagrams`"
