"""tar.gz archives, for and from people who don't trust each other: packed the same way every time,
unpacked without belief in anything that is inside.

An archive holds plain files and folders below one folder, nothing else: a link, a device, a name
that leads outside or one that comes twice is refused, and so is more of anything than the bounds
below. Both directions stream, and both count alike: what can be packed can be unpacked.
Source: POSIX.1-2017 pax (ustar and pax headers), RFC 1952 (gzip); GNU tar's long names are read.
"""

import gzip
import io
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, NoReturn

from marketplace.limits import ARCHIVE_CONTENT_BYTES_MAX as CONTENT_BYTES_MAX
from marketplace.limits import ARCHIVE_DEPTH_MAX as DEPTH_MAX
from marketplace.limits import ARCHIVE_ENTRIES_MAX as ENTRIES_MAX
from marketplace.limits import ARCHIVE_HEADER_BYTES_MAX as HEADER_BYTES_MAX
from marketplace.limits import ARCHIVE_NAME_BYTES_MAX as NAME_BYTES_MAX
from marketplace.limits import ARCHIVE_NAMES_BYTES_MAX as NAMES_BYTES_MAX
from marketplace.limits import ARCHIVE_STEP_BYTES_MAX as STEP_BYTES_MAX
from marketplace.limits import BLOB_BYTES_MAX as PACKED_BYTES_MAX
from marketplace.sdk.errors import InputError

_BLOCK = tarfile.BLOCKSIZE
_PIECE = 256 * 1024
_PACKED_PIECE = 16 * 1024  # small: what waits of it is copied for each piece that it unpacks to
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,4}) ([^=]+)=")
_SIZE = re.compile(rb"[0-9]{1,18}")
_OCTAL = re.compile(rb"[0-7]{0,12}")

Reason = Literal["malformed", "unsafe", "too_large", "unwritable"]


class ArchiveError(InputError):
    """An archive that is not packed or unpacked; `reason` is stable, the message is for people."""

    def __init__(self, reason: Reason, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.reason = reason


class Member(NamedTuple):
    """What is packed under a name: a file, opened when its turn comes; None for a folder."""

    name: str
    open: Callable[[], BinaryIO] | None


def pack(members: Iterable[Member], into: BinaryIO) -> None:
    """Write a tar.gz whose bytes depend on nothing but names, contents and who may execute.

    Raises ArchiveError above the bounds, and for a name that could not be unpacked.
    """
    census = _Census()
    left = CONTENT_BYTES_MAX
    bounded = _Bounded(into)
    with gzip.GzipFile("", "wb", 6, fileobj=bounded, mtime=0) as zipped:
        for member in members:
            census.count(member.name, folder=member.open is None)
            if member.open is None:
                zipped.write(_header_of(member.name, tarfile.DIRTYPE, 0, True))
                continue
            with member.open() as file:
                status = os.fstat(file.fileno())
                left -= status.st_size
                if left < 0:
                    most = f"{CONTENT_BYTES_MAX // 1024**3} GiB"
                    raise ArchiveError("too_large", f"the files exceed {most}")
                executable = bool(status.st_mode & 0o100)
                zipped.write(_header_of(member.name, tarfile.REGTYPE, status.st_size, executable))
                _copy(file, zipped, member.name, status.st_size)
        zipped.write(bytes(2 * _BLOCK))
        zipped.write(bytes(-zipped.tell() % tarfile.RECORDSIZE))


def unpack(
    source: BinaryIO,
    into: Path,
    bytes_max: int = CONTENT_BYTES_MAX,
    below: Sequence[str] = ("",),
) -> list[str]:
    """Unpack a tar.gz into a folder, and return the files' names, which are at or below `below`.

    Nothing is there until all of it is sound. Folders that are there already take in more files;
    anything else in the way is neither replaced nor followed. Raises ArchiveError.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        staged = tempfile.mkdtemp(prefix=".unpacking-", dir=into)
        try:
            names = _write_all(_Inflated(source, bytes_max), staged, bytes_max, below)
            _check_places(staged, str(into))
            _move(staged, str(into))
        finally:
            shutil.rmtree(staged)
    except zlib.error as error:
        raise ArchiveError("malformed", f"not a tar.gz archive: {error}") from error
    except OSError as error:
        raise ArchiveError("unwritable", f"the archive cannot be unpacked: {error}") from error
    return names


class _Census:
    """Counts what an archive holds, and raises ArchiveError above the bounds."""

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._entries = self._name_bytes = 0

    def count(self, name: str, folder: bool) -> list[str]:
        """Take in one entry; return the folders that are new with it, from the outside in."""
        steps = steps_of(name)
        if not steps and not folder:
            raise ArchiveError("unsafe", f"{name!r} is not a file's name")
        self._add(name)
        new = []
        own = path = "/".join(steps if folder else steps[:-1])
        while path and path not in self._folders:
            if not (folder and path == own):
                self._add(path)
            self._folders.add(path)
            new.append(path)
            path = path.rpartition("/")[0]
        return new[::-1]

    def _add(self, name: str) -> None:
        self._entries += 1
        self._name_bytes += len(os.fsencode(name))
        if self._entries > ENTRIES_MAX:
            raise ArchiveError("too_large", f"there are more than {ENTRIES_MAX} entries")
        if self._name_bytes > NAMES_BYTES_MAX:
            most = f"{NAMES_BYTES_MAX // 1024**2} MiB"
            raise ArchiveError("too_large", f"the names are longer than {most} together")


def steps_of(name: str) -> list[str]:
    """The steps of a name inside an archive. Raises ArchiveError if one could lead outside."""
    raw = os.fsencode(name)
    steps = [step for step in raw.split(b"/") if step not in (b"", b".")]
    if raw.startswith(b"/") or b"\0" in raw or b".." in steps:
        raise ArchiveError("unsafe", f"the name {name!r:.200} leads outside the folder")
    too_long = len(raw) > NAME_BYTES_MAX or any(len(step) > STEP_BYTES_MAX for step in steps)
    if too_long or len(steps) > DEPTH_MAX:
        raise ArchiveError("unsafe", f"{name!r:.200} lies too deep or has too long a name")
    return [os.fsdecode(step) for step in steps]


# -- packing --------------------------------------------------------------------------------------


class _Bounded(io.RawIOBase):
    """Passes on as many bytes as an archive may have."""

    def __init__(self, into: BinaryIO) -> None:
        self._into = into
        self._left = PACKED_BYTES_MAX

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._left -= len(data)
        if self._left < 0:
            limit = PACKED_BYTES_MAX // 1024**2
            raise ArchiveError("too_large", f"the packed archive exceeds {limit} MiB")
        return self._into.write(data)


def _header_of(name: str, kind: bytes, size: int, executable: bool) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = size
    info.mode = 0o755 if executable else 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _copy(file: BinaryIO, into: gzip.GzipFile, name: str, size: int) -> None:
    left = size
    while left:
        piece = file.read(min(left, _PIECE))
        if not piece:
            raise ArchiveError("malformed", f"{name!r} became shorter while it was packed")
        into.write(piece)
        left -= len(piece)
    into.write(bytes(-size % _BLOCK))


# -- unpacking ------------------------------------------------------------------------------------


class _Inflated:
    """The bytes inside a gzip stream, in order, and no more of them than an archive may hold."""

    def __init__(self, source: BinaryIO, content_max: int) -> None:
        self._source = source
        self._zip = zlib.decompressobj(wbits=31)
        self._held = memoryview(b"")
        # Each entry has a header, an extending one with its content, and padding.
        self._left = content_max + ENTRIES_MAX * 4 * _BLOCK

    def take(self, size: int) -> memoryview:
        """The next bytes, at most `size` and at least one. Raises ArchiveError at the end."""
        if not self._fill():
            raise ArchiveError("malformed", "the archive ends too soon")
        piece, self._held = self._held[:size], self._held[size:]
        return piece

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        found = bytearray()
        while len(found) < size:
            found += self.take(size - len(found))
        return bytes(found)

    def finish(self) -> None:
        """Skip the padding, and check that the stream is whole and that nothing follows it."""
        while self._fill():
            if bytes(self._held).strip(b"\0"):
                raise ArchiveError("malformed", "something comes after the archive's end")
            self._held = memoryview(b"")
        if not self._zip.eof or self._zip.unused_data or self._source.read(1):
            raise ArchiveError("malformed", "the archive has no proper end")

    def _fill(self) -> bool:
        """Whether any byte is left."""
        while not self._held and not self._zip.eof:
            data = self._zip.unconsumed_tail or self._source.read(_PACKED_PIECE)
            self._held = memoryview(self._zip.decompress(data, _PIECE))
            self._left -= len(self._held)
            if self._left < 0:
                raise ArchiveError("too_large", "the archive holds more than its files may have")
            if not data and not self._held:
                break
        return bool(self._held)


class _Entry(NamedTuple):
    """A file or folder of an archive. A file's content comes next in the stream."""

    name: str
    folder: bool
    size: int
    executable: bool


def _entries(stream: _Inflated) -> Iterator[_Entry]:
    long_name: bytes | None = None
    pax: dict[bytes, bytes] = {}
    extensions = 0
    while (block := stream.exactly(_BLOCK)).strip(b"\0"):
        total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
        if block[257:262] != b"ustar" or _number(block[148:156]) != total:
            _malformed("a header is damaged")
        kind = block[156:157]
        size = _number(block[124:136])
        if kind in (b"x", b"g", b"L", b"K"):
            extensions += 1
            if size > HEADER_BYTES_MAX or extensions > 4:
                _malformed("it has too long a header")
            content = stream.exactly(size + -size % _BLOCK)[:size]
            if kind == b"x":
                pax = _pax_records(content)
            elif kind == b"L":
                long_name = content.rstrip(b"\0")
            continue
        if b"size" in pax:
            size = int(pax[b"size"]) if _SIZE.fullmatch(pax[b"size"]) else _malformed("no size")
        raw = pax.get(b"path", _name_of(block) if long_name is None else long_name)
        folder = kind == b"5" or (kind == b"\0" and raw.endswith(b"/"))
        if not folder and kind not in (b"0", b"\0"):
            raise ArchiveError("unsafe", f"{raw!r:.200} is neither a file nor a folder")
        executable = bool(_number(block[100:108]) & 0o100)
        yield _Entry(os.fsdecode(raw), folder, 0 if folder else size, executable)
        long_name, pax, extensions = None, {}, 0
    if extensions:
        _malformed("it ends after a header")


def _name_of(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0]
    posix = block[257:263] == b"ustar\0"  # GNU's headers have other things there
    return prefix + b"/" + name if posix and prefix else name


def _number(field: bytes) -> int:
    """A number of a header: octal text, or big-endian after a byte 0x80 (GNU)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip(b" ")
    if not _OCTAL.fullmatch(text):
        _malformed("a header has no number where one belongs")
    return int(text or b"0", 8)


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        found = _PAX_RECORD.match(content, at)
        end = at + int(found.group(1)) if found else 0
        if found is None or end <= found.end() or content[end - 1 : end] != b"\n":
            _malformed("a pax header is damaged")
        if found.group(2).startswith(b"GNU.sparse"):
            _malformed("it has sparse files")
        records[found.group(2)] = content[found.end() : end - 1]
        at = end
    return records


def _malformed(why: str) -> NoReturn:
    raise ArchiveError("malformed", f"not an archive that can be unpacked: {why}")


def _write_all(stream: _Inflated, top: str, bytes_max: int, below: Sequence[str]) -> list[str]:
    """Write an archive's files into an empty folder that nobody else uses; return their names."""
    census = _Census()
    names = []
    left = bytes_max
    for entry in _entries(stream):
        path = "/".join(steps_of(entry.name))
        if not _is_below(path, entry.folder, below):
            raise ArchiveError("unsafe", f"{entry.name!r:.200} is not among the job's outputs")
        for folder in census.count(entry.name, entry.folder):
            try:
                os.mkdir(f"{top}/{folder}", 0o755)
            except FileExistsError:
                raise _twice(folder) from None
        if entry.folder:
            continue
        left -= entry.size
        if left < 0:
            raise ArchiveError("too_large", f"the archive's files have more than {bytes_max} bytes")
        names.append(path)
        _write(stream, f"{top}/{path}", entry)
    stream.finish()
    return names


def _is_below(path: str, folder: bool, below: Sequence[str]) -> bool:
    """Whether a name is at or below one of some paths, or is of a folder on the way to one."""
    return any(
        f"{path}/".startswith(f"{part}/" if part else "")
        or (folder and (not path or f"{part}/".startswith(f"{path}/")))
        for part in below
    )


def _write(stream: _Inflated, path: str, entry: _Entry) -> None:
    try:
        descriptor = os.open(path, _FLAGS, 0o600)
    except FileExistsError:
        raise _twice(entry.name) from None
    with os.fdopen(descriptor, "wb") as file:
        left = entry.size
        while left:
            piece = stream.take(min(left, _PIECE))
            file.write(piece)
            left -= len(piece)
        os.fchmod(file.fileno(), 0o755 if entry.executable else 0o644)
    if entry.size % _BLOCK:
        stream.exactly(-entry.size % _BLOCK)


def _twice(name: str) -> ArchiveError:
    return ArchiveError("unsafe", f"{name!r:.200} is in the archive twice, or differs only in case")


def _check_places(staged: str, into: str) -> None:
    """Raise ArchiveError if something in the target is in the way."""
    with os.scandir(staged) as items:
        for item in items:
            place = f"{into}/{item.name}"
            if not os.path.lexists(place):
                continue
            if not (item.is_dir(follow_symlinks=False) and stat.S_ISDIR(os.lstat(place).st_mode)):
                why = f"{place} is there already"
                raise ArchiveError("unwritable", why, fix="unpack into another folder")
            _check_places(item.path, place)


def _move(staged: str, into: str) -> None:
    with os.scandir(staged) as items:
        for item in items:
            place = f"{into}/{item.name}"
            if os.path.lexists(place):
                _move(item.path, place)
            else:
                os.rename(item.path, place)
