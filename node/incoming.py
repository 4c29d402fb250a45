"""Files in which a state's blobs come together, chunk by chunk; what is in them outlives a restart.

Nothing is said about which chunks are there: whoever goes on hashes the file and sees. So nothing needs to be
flushed, and a file that a crash left half written costs the chunks that it tore, no more.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from atoll.node.chunks import digests_of
from atoll.protocol.ids import BlobRef, digest_of


class Incoming:
    """A folder with one file for each blob that is wanted now; files of other blobs are removed."""

    def __init__(self, folder: Path, blobs: Sequence[BlobRef]) -> None:
        self._folder, self._blobs = folder, tuple(blobs)
        folder.mkdir(exist_ok=True)
        wanted = {ref.digest for ref in blobs}
        for path in folder.iterdir():
            if path.name not in wanted:
                path.unlink()
        self._files: list[int] = []
        self._lock = threading.Lock()
        try:
            for ref in blobs:
                self._files.append(os.open(folder / ref.digest, os.O_RDWR | os.O_CREAT, 0o600))
        except BaseException:
            self.close()
            raise

    def digests(self, blob: int) -> bytes:
        """BLAKE3 of each chunk that the file has bytes of; nothing where it is new."""
        view = self._map(blob, new=False)
        return b"" if view is None else digests_of(view)

    def write(self, blob: int, start: int, data: bytes | bytearray) -> None:
        """Bring a chunk into its file. OSError if the disk has no room."""
        view = memoryview(data)
        with self._lock:
            while view and self._files:
                count = os.pwrite(self._files[blob], view, start)
                start, view = start + count, view[count:]

    def verified(self, blob: int) -> memoryview | None:
        """The whole blob, mapped; None if its digest is another."""
        view = self._map(blob, new=True)
        return view if view is not None and digest_of(view) == self._blobs[blob].digest else None

    def _map(self, blob: int, new: bool) -> memoryview | None:
        """The file at its full length; None if it is empty and not to be made, or closed."""
        size = self._blobs[blob].size
        with self._lock:
            if not self._files:
                return None
            length = os.fstat(self._files[blob]).st_size
            if not size or not (new or length):
                return memoryview(b"") if new else None
            if length != size:
                os.ftruncate(self._files[blob], size)
            return memoryview(mmap.mmap(self._files[blob], size, access=mmap.ACCESS_READ))

    def close(self) -> None:
        """Leave the files for another try; what is mapped stays mapped.

        Threads may still be about to write: a closed file's number may be another file's by then.
        """
        with self._lock:
            for file in self._files:
                os.close(file)
            self._files.clear()


def discard(folder: Path, blobs: Sequence[BlobRef]) -> None:
    """These blobs are safe elsewhere: remove their files. Others may be on their way already."""
    for ref in blobs:
        (folder / ref.digest).unlink(missing_ok=True)
