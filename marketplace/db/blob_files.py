"""Blobs as files named by their SHA-256, written whole or not at all."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from marketplace.errors import TooLarge, Unavailable
from marketplace.limits import BLOB_BYTES_MAX

PIECE_BYTES = 256 * 1024
FREE_BYTES_MIN = 512 * 1024 * 1024  # left to the database, which may lie on the same disk


class FileUpload:
    """Implements `marketplace.services.ports.Upload`: a file without its name yet."""

    def __init__(self, folder: Path) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        self._folder = folder
        self._path = folder / f"{secrets.token_hex(16)}.new"
        self._file = self._path.open("xb")

    def write(self, piece: bytes) -> None:
        """Take the next bytes. Raises TooLarge; Unavailable if the disk is almost full."""
        self.size += len(piece)
        if self.size > BLOB_BYTES_MAX:
            raise TooLarge(f"a blob has at most {BLOB_BYTES_MAX} bytes")
        if shutil.disk_usage(self._folder).free < FREE_BYTES_MIN + len(piece):
            raise Unavailable("the blob store is full; its operator has to make room")
        self._hash.update(piece)
        self._file.write(piece)

    def keep(self) -> str:
        """Make the bytes durable under their name: synced, then renamed into place."""
        sha256 = self._hash.hexdigest()
        path = path_of(self._folder, sha256)
        if path.exists():
            return sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return sha256

    def discard(self) -> None:
        """Close the file; if it was not kept, remove it."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class BlobFolder:
    """A folder of blobs. Implements `marketplace.services.ports.BlobFiles`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def receive(self) -> Iterator[FileUpload]:
        """A new file, which is removed at the end unless it was kept."""
        self._folder.mkdir(parents=True, exist_ok=True)
        made = FileUpload(self._folder)
        try:
            yield made
        finally:
            made.discard()

    def open(self, sha256: str) -> Iterator[bytes]:
        """The bytes in pieces. Raises KeyError if they are not here."""
        try:
            file = path_of(self._folder, sha256).open("rb")
        except FileNotFoundError:
            raise KeyError(sha256) from None

        def pieces() -> Iterator[bytes]:
            with file:
                while piece := file.read(PIECE_BYTES):
                    yield piece

        return pieces()


def path_of(folder: Path, sha256: str) -> Path:
    return folder / sha256[:2] / sha256
