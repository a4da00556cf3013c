"""Archives as tests want them: well-formed by tarfile, or hostile, block by block."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from collections.abc import Mapping
from functools import partial
from typing import BinaryIO

from marketplace.sdk.archive import Member, pack

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)


def member(name: str, kind: bytes = tarfile.REGTYPE, **changes: object) -> tarfile.TarInfo:
    """A file, or another kind of member."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A whole archive, not compressed."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as written:
        for info, content in members:
            info.size = len(content)
            written.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def zipped(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A whole archive."""
    return gzip.compress(tar(*members))


def block(info: tarfile.TarInfo, content: bytes = b"") -> bytes:
    """One header as it is, and a content."""
    padding = bytes(-len(content) % BLOCK)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + padding


def changed(header: bytes, at: int, field: bytes) -> bytes:
    """A header with other bytes in one place, its checksum put right."""
    whole = bytearray(header)
    whole[at : at + len(field)] = field
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole[:BLOCK])
    return bytes(whole)


def extension(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """A header that extends the next one, and its content; `size` is what it says of that."""
    info = member("extension", kind, size=len(content) if size is None else size)
    return block(info, content)


def pax(key: bytes, value: bytes) -> bytes:
    """A pax header with one record."""
    length = len(key) + len(value) + 3
    while len(text := b"%d %s=%s\n" % (length, key, value)) != length:
        length = len(text)
    return extension(tarfile.XHDTYPE, text)


def packed(files: Mapping[str, bytes | None]) -> bytes:
    """What `pack` makes of some files; None is a folder."""
    into = io.BytesIO()
    pack([held(name, content) for name, content in files.items()], into)
    return into.getvalue()


def held(name: str, content: bytes | None = b"") -> Member:
    """A member to pack."""
    return Member(name, None if content is None else partial(_opened, content))


def _opened(content: bytes) -> BinaryIO:
    file = tempfile.TemporaryFile()
    file.write(content)
    file.seek(0)
    return file
