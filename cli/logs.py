"""Where log lines go: key=value on stderr for people, JSON lines into the state folder for later.

Atoll's modules log through `logging`; structlog gives the lines their shape. Of other libraries only
warnings are kept. The file is rotated, so a daemon that runs for months fills no disk.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path

import structlog

FILE = "atoll.log"
FILE_BYTES_MAX, FILES_KEPT = 8 << 20, 3


def configure(state_dir: Path, as_json: bool) -> None:
    """Send this process's log to stderr and to `<state_dir>/atoll.log`, which is made if need be."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = logging.handlers.RotatingFileHandler(
        state_dir / FILE, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8"
    )
    terminal = logging.StreamHandler(sys.stderr)
    file.setFormatter(_formatter(structlog.processors.JSONRenderer()))
    terminal.setFormatter(_formatter(structlog.processors.JSONRenderer() if as_json else _plain()))
    logging.basicConfig(level=logging.WARNING, handlers=[terminal, file], force=True)
    logging.getLogger("atoll").setLevel(logging.INFO)
    # It warns of every child that ended before it was told to: a line beside the one that says why.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*_shape(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _shape() -> list[structlog.typing.Processor]:
    return [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _plain() -> structlog.typing.Processor:
    order = ["timestamp", "level", "logger", "event"]
    return structlog.processors.KeyValueRenderer(key_order=order, drop_missing=True, repr_native_str=False)


def _formatter(renderer: structlog.typing.Processor) -> logging.Formatter:
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    processors: list[structlog.typing.Processor] = [remove, structlog.processors.format_exc_info, renderer]
    return structlog.stdlib.ProcessorFormatter(processors=processors, foreign_pre_chain=_shape())
