"""Generate the wire messages and gRPC stubs from their .proto files, next to them.

`make proto` writes them into the tree; the test that they are fresh writes into a folder of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
WIRE = ("atoll/protocol/wire/messages.proto",)
SERVICES = (
    "atoll/node/rpc/peer.proto",
    "atoll/node/rpc/admin.proto",
    "atoll/coordinator/rpc/control.proto",
)


def generate(out: Path) -> None:
    """Write *_pb2.py, *_pb2.pyi and *_pb2_grpc.py below `out`, in the package's own folders."""
    include = [f"-I{ROOT / 'src'}"]
    types = [f"--python_out={out}", f"--pyi_out={out}"]
    for command in ([*types, *WIRE], [*types, f"--grpc_python_out={out}", *SERVICES]):
        if code := protoc.main(["protoc", *include, *command]):
            raise SystemExit(code)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "src")
