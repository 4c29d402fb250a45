"""The texts of a run: the Python standard library's source, or the user's own files.

The standard library is real text that every machine already has. Files come back in the order of their
content's digest, so neither a machine's folder names nor its directory order matter.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atoll.protocol.errors import ConfigError
from atoll.workload.config import STDLIB, TEXT_PREFIX, DataConfig

log = logging.getLogger("atoll.workload")

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
PIECE_BYTES = 32_768


@dataclass(frozen=True, slots=True)
class Document:
    """A text, or a piece of a long one; `last` tells whether the text ends with it."""

    content: bytes
    last: bool

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.content).digest()


def load(data: DataConfig, where: str) -> list[Document]:
    """Read at most `bytes_max` bytes of UTF-8 text. Raises ConfigError if there is nothing to read."""
    texts: list[bytes] = []
    room = data.bytes_max
    for content in _contents(data.source, where):
        if room <= 0:
            log.info("%s: reading stops at bytes_max = %d", data.source, data.bytes_max)
            break
        texts.append(_head(content, room))
        room -= len(content)
    ordered = sorted(filter(None, texts), key=lambda content: hashlib.sha256(content).digest())
    return [piece for content in ordered for piece in _pieces(content)]


def _contents(source: str, where: str) -> Iterator[bytes]:
    return _stdlib(where) if source == STDLIB else _files(source.removeprefix(TEXT_PREFIX), where)


def _stdlib(where: str) -> Iterator[bytes]:
    """Yield source files in the order of their relative path's digest: a cap takes a mixture of topics."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path.relative_to(root).as_posix() for path in _sources(root)]
    if not paths:
        raise ConfigError(f"no source files below {root}", where, 'a source "text:" and a glob of your files')
    for path in sorted(paths, key=lambda name: hashlib.sha256(name.encode()).digest()):
        content = (root / path).read_bytes()
        if content and _is_text(content):
            yield content


def _sources(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _files(pattern: str, where: str) -> Iterator[bytes]:
    names = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    paths = [Path(name) for name in names if os.path.isfile(name)]
    if not paths:
        raise ConfigError(
            f"`{TEXT_PREFIX}{pattern}` matches no file", where, "a glob of files on this machine"
        )
    for path in paths:
        yield _text_file(path)


def _text_file(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read it: {error.strerror}", str(path), "a readable text file") from error
    if not content:
        raise ConfigError("the file is empty", str(path), "a glob that names texts only")
    if not _is_text(content):
        raise ConfigError("not UTF-8 text", str(path), "a glob that names texts only")
    return content


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _head(content: bytes, room: int) -> bytes:
    if len(content) <= room:
        return content
    return content[:room].decode("utf-8", "ignore").encode()


def _pieces(content: bytes) -> Iterator[Document]:
    """Cut a long text after line ends, so that one big file still has a held-out share."""
    start = 0
    while len(content) - start > PIECE_BYTES:
        end = _cut(content, start)
        yield Document(content[start:end], last=False)
        start = end
    yield Document(content[start:], last=True)


def _cut(content: bytes, start: int) -> int:
    """Give the place after the last line end in reach, else before a character that would be split."""
    newline = content.rfind(b"\n", start, start + PIECE_BYTES)
    if newline >= start:
        return newline + 1
    end = start + PIECE_BYTES
    while content[end] & 0xC0 == 0x80:
        end -= 1
    return end
