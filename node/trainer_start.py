"""What a daemon starts as its trainer: the imports, and then `trainer_process`."""

from __future__ import annotations

from atoll.workload.quick_imports import quick_imports

with quick_imports():
    from atoll.node.trainer_process import main

if __name__ == "__main__":
    main()
