"""Renew the generated sections of docs/protocol.md: `make diagrams`. With a path, write there instead."""

from __future__ import annotations

import sys
from pathlib import Path

from atoll.protocol.diagrams import renewed

PAGE = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"

if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    out.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
