"""The generated wire code is what the .proto files say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    script = ROOT / "tools" / "generate_wire.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, cwd=tmp_path)
    generated = sorted(path for path in tmp_path.rglob("*_pb2*") if path.is_file())
    assert len(generated) == 2 + 3 * 3
    for path in generated:
        checked_in = ROOT / "src" / path.relative_to(tmp_path)
        assert checked_in.read_text() == path.read_text(), f"{checked_in.relative_to(ROOT)}: run `make proto`"
