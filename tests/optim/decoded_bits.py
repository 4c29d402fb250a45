"""A program: decodes the payloads given on stdin with the instruction set that NUMBA_CPU_NAME names.

Run in a process of its own by test_compiled.py, since numba asks for the processor once.
"""

from __future__ import annotations

import json
import sys

from atoll.optim.codecs import codec


def main() -> None:
    imported = "numba" in sys.modules
    from numba.core.registry import cpu_target

    assert cpu_target.target_context.codegen().magic_tuple()[1:] == ("generic", "")
    given = json.load(sys.stdin)
    decoded = {
        name: codec(name).decode(bytes.fromhex(payload), given["numel"]).numpy().tobytes().hex()
        for name, payload in given["payloads"].items()
    }
    print(json.dumps({"numba imported": imported, "decoded": decoded}))


if __name__ == "__main__":
    main()
