"""Inputs unpacked and outputs packed: tar.gz archives from, and for, people we don't trust."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
import zlib
from pathlib import Path
from typing import IO, BinaryIO

from marketplace.agent.errors import BundleError
from marketplace.agent.folders import TooDeep, walk

ARCHIVE_BYTES_MAX = 64 * 1024 * 1024
ENTRIES_MAX = 100_000
NAME_BYTES_MAX = 1024
DEPTH_MAX = 64
# What may be packed before compression: bounds the time that packing takes.
CONTENT_BYTES_MAX = 4 * 1024 * 1024 * 1024
_CHUNK = 1024 * 1024
_HEADER_BYTES_MAX = 1024 * 1024  # the most that one read of an archive's header may ask for
# RecursionError: tarfile follows a chain of extension headers by recursion. ValueError: numbers in
# headers that are none.
_NOT_AN_ARCHIVE = (
    tarfile.TarError,
    zlib.error,
    EOFError,
    gzip.BadGzipFile,
    RecursionError,
    ValueError,
)
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(archive: bytes, sha256: str, folder: Path, content_bytes_max: int) -> None:
    """Unpack files and folders into an empty folder.

    Raises BundleError where the SHA-256 differs, before anything is written; later on links,
    devices, names that leave the folder, and above `content_bytes_max` bytes, ENTRIES_MAX entries.
    """
    found = hashlib.sha256(archive).hexdigest()
    if found != sha256.lower():
        raise BundleError("inputs_mismatch", f"inputs have SHA-256 {found}, expected {sha256}")
    # Padding and headers: a tar block each for every entry, and then some.
    total = content_bytes_max + ENTRIES_MAX * 2 * tarfile.BLOCKSIZE
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(archive)) as raw:
            with tarfile.open(fileobj=_Bounded(raw, total), mode="r:") as tar:  # type: ignore[call-overload]
                _unpack_all(tar, folder, content_bytes_max)
    except _NOT_AN_ARCHIVE as error:
        raise BundleError(
            "inputs_malformed", f"inputs are not a tar.gz archive: {error}"
        ) from error
    except OSError as error:
        raise BundleError("inputs_unwritable", f"inputs cannot be unpacked: {error}") from error


def pack(root: Path, paths: tuple[str, ...], target: Path) -> str | None:
    """Pack regular files below `root` into a tar.gz that depends on nothing but names and contents.

    `paths` are relative to root ("" for all of it); links and special files are left out, because
    following one could take a file of the node along. Returns the archive's SHA-256, or None where
    there was nothing to pack. Raises BundleError above ARCHIVE_BYTES_MAX.
    """
    names = _names(root, paths)
    if not names:
        return None
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with target.open("wb") as raw:
            bounded = _BoundedWriter(raw, ARCHIVE_BYTES_MAX)
            with gzip.GzipFile(filename="", fileobj=bounded, mode="wb", mtime=0) as zipped:
                with tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    for name in names:
                        _pack_one(tar, root_fd, name)
            return bounded.digest.hexdigest()
    finally:
        os.close(root_fd)


class _Bounded:
    """A forward reader of a decompressed archive that refuses to become a bomb."""

    def __init__(self, raw: gzip.GzipFile, total_max: int) -> None:
        self._raw = raw
        self._total_max = total_max

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _HEADER_BYTES_MAX:
            raise BundleError("inputs_malformed", "an archive header is too long")
        self._check(self._raw.tell() + size)
        return self._raw.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check(offset)
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def _check(self, position: int) -> None:
        if position > self._total_max + _HEADER_BYTES_MAX:
            raise BundleError("inputs_too_large", "inputs are larger than the job's disk")


class _BoundedWriter(io.RawIOBase):
    """Writes and hashes, up to a limit."""

    def __init__(self, raw: BinaryIO, bytes_max: int) -> None:
        self._raw = raw
        self._left = bytes_max
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._left -= len(data)
        if self._left < 0:
            limit = ARCHIVE_BYTES_MAX // (1024 * 1024)
            raise BundleError("outputs_too_large", f"outputs exceed {limit} MiB when packed")
        self.digest.update(data)
        return self._raw.write(data)


def _unpack_all(tar: tarfile.TarFile, folder: Path, content_bytes_max: int) -> None:
    left = content_bytes_max
    for count, member in enumerate(tar):
        if count >= ENTRIES_MAX:
            raise BundleError("inputs_too_large", f"inputs have more than {ENTRIES_MAX} entries")
        parts = _safe_parts(member.name)
        path = folder.joinpath(*parts)
        if member.isdir():
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            continue
        if not member.isreg() or not parts:
            raise BundleError("inputs_unsafe", f"{member.name!r} is no plain file or folder")
        left -= member.size
        if left < 0:
            raise BundleError("inputs_too_large", "inputs are larger than the job's disk")
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        source = tar.extractfile(member)
        if source is None:
            raise BundleError("inputs_malformed", f"{member.name!r} has no content")
        _write_file(path, source, 0o755 if member.mode & 0o100 else 0o644)


def _safe_parts(name: str) -> tuple[str, ...]:
    """The steps of a name inside an archive. Raises BundleError where it could lead outside."""
    if name.startswith("/") or "\0" in name or len(os.fsencode(name)) > NAME_BYTES_MAX:
        raise BundleError("inputs_unsafe", f"{name!r:.200} is no safe name")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or len(parts) > DEPTH_MAX:
        raise BundleError("inputs_unsafe", f"{name!r:.200} is no safe name")
    return parts


def _write_file(path: Path, source: IO[bytes], mode: int) -> None:
    try:
        descriptor = os.open(path, _FILE_FLAGS, 0o600)
    except FileExistsError:
        raise BundleError("inputs_unsafe", f"{path.name!r} is in the archive twice") from None
    with os.fdopen(descriptor, "wb") as target:
        while chunk := source.read(_CHUNK // 4):
            target.write(chunk)
        os.fchmod(target.fileno(), mode)


def _names(root: Path, paths: tuple[str, ...]) -> list[str]:
    """Every regular file under the wanted paths, sorted; links are neither followed nor listed."""
    wanted = [path.strip("/") for path in paths]
    found = []
    try:
        for entry in walk(root):
            name = entry.path
            inside = any(not w or name == w or name.startswith(w + "/") for w in wanted)
            if inside and stat.S_ISREG(entry.status.st_mode):
                found.append(name)
            if len(found) > ENTRIES_MAX:
                raise BundleError("outputs_too_large", f"more than {ENTRIES_MAX} output files")
    except TooDeep as error:
        raise BundleError("outputs_too_large", f"outputs: {error}") from error
    return sorted(found, key=os.fsencode)


def _pack_one(tar: tarfile.TarFile, root_fd: int, name: str) -> None:
    # The job is dead, so no folder on the way turns into a link any more.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=root_fd), "rb") as file:
        status = os.fstat(file.fileno())
        if tar.offset + status.st_size > CONTENT_BYTES_MAX:
            limit = CONTENT_BYTES_MAX // 1024**3
            raise BundleError("outputs_too_large", f"outputs exceed {limit} GiB before packing")
        info = tarfile.TarInfo(name)
        info.size = status.st_size
        info.mode = 0o755 if status.st_mode & 0o100 else 0o644
        tar.addfile(info, file)
