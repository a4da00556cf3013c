"""Folders as blobs: packed the same way every time, unpacked without trusting what is inside."""

from __future__ import annotations

import fnmatch
import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from marketplace.sdk.errors import InputError

PACKED_BYTES_MAX = 64 * 1024 * 1024
UNPACKED_BYTES_MAX = 4 * 1024 * 1024 * 1024
FILES_MAX = 100_000
# Agents unpack no longer and no deeper names.
NAME_BYTES_MAX = 1024
DEPTH_MAX = 64
IGNORE_FILE = ".coulombignore"
ALWAYS_LEFT_OUT = (".git", ".venv", "__pycache__")


class _Bounded(io.BytesIO):
    """A buffer that refuses to grow beyond the limit, so that no huge folder fills the memory."""

    def write(self, data: object) -> int:
        if self.tell() + memoryview(data).nbytes > PACKED_BYTES_MAX:  # type: ignore[arg-type]
            raise InputError(
                f"the packed folder exceeds {PACKED_BYTES_MAX} bytes (64 MiB)",
                fix=f"leave files out with a {IGNORE_FILE} file, or fetch large data from the job",
            )
        return super().write(data)  # type: ignore[arg-type]


def pack(folder: Path) -> bytes:
    """A tar.gz of a folder whose bytes depend on nothing but names, modes and content.

    Left out: .git, .venv, __pycache__ and what a .coulombignore file matches (one shell pattern a
    line). A link to a file inside becomes a copy of it, as agents unpack no links. Raises
    InputError: no folder, above 64 MiB or 100,000 entries, or a link that leads elsewhere.
    """
    if not folder.is_dir():
        raise _refused(folder, "is not a folder", "correct `workdir` in the job file")
    buffer = _Bounded()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for count, path in enumerate(_members(folder)):
            if count >= FILES_MAX:
                raise _refused(folder, f"has more than {FILES_MAX} entries", "leave some out")
            _add(archive, folder, path)
    return buffer.getvalue()


def _members(folder: Path) -> Iterator[Path]:
    patterns = [*ALWAYS_LEFT_OUT, *_patterns(folder)]

    def walk(inside: Path) -> Iterator[Path]:
        for path in sorted(inside.iterdir(), key=lambda p: p.name):
            name = path.relative_to(folder).as_posix()
            if any(fnmatch.fnmatchcase(t, p) for p in patterns for t in (name, path.name)):
                continue
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from walk(path)

    return walk(folder)


def _patterns(folder: Path) -> list[str]:
    file = folder / IGNORE_FILE
    if not file.is_file():
        return []
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line.rstrip("/") for line in lines if line and not line.startswith("#")]


def _add(archive: tarfile.TarFile, folder: Path, path: Path) -> None:
    name = path.relative_to(folder).as_posix()
    if len(os.fsencode(name)) > NAME_BYTES_MAX or name.count("/") >= DEPTH_MAX:
        raise _refused(path, "lies too deep or has too long a name", "leave it out")
    info = tarfile.TarInfo(name)
    if path.is_symlink():
        _check_link(folder, path)
    if path.is_dir():
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(info)
    elif path.is_file():
        content = path.read_bytes()
        info.size = len(content)
        info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
        archive.addfile(info, io.BytesIO(content))
    else:
        raise _refused(path, "is neither a file, a folder nor a link", "leave it out")


def _check_link(folder: Path, path: Path) -> None:
    """Refuse a link to anything but a file of the folder. It need not be one that is packed."""
    target = path.readlink()
    try:
        leads_to = (path.parent / target).resolve()
    except (OSError, RuntimeError):
        raise _refused(path, f"links to {target} in a circle", "leave it out") from None
    if target.is_absolute() or not leads_to.is_relative_to(folder.resolve()):
        raise _refused(path, f"links to {target}, outside the folder", "copy the file instead")
    if not leads_to.is_file():
        raise _refused(path, f"links to {target}, which is no file", "links to files are packed")


def _refused(path: Path, what: str, fix: str) -> InputError:
    return InputError(f"{path} {what}", fix=fix, pointer="/workdir")


def unpack(content: bytes, into: Path, bytes_max: int = UNPACKED_BYTES_MAX) -> list[str]:
    """Unpack a tar.gz into a folder and return the files' names.

    Nothing lands outside the folder, no device or owner is taken over, and the unpacked size is
    bounded. Raises InputError on anything else than such an archive.
    """
    into.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                total += member.size
                if total > bytes_max or len(names) >= FILES_MAX:
                    raise InputError(f"the archive unpacks to more than {bytes_max} bytes")
                archive.extract(member, into, filter="data")
                if member.isfile():
                    names.append(member.name)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot unpack the archive: {error}") from error
    return names
