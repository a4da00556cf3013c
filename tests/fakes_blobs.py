"""Blobs without a disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MemoryDraft:
    """Bytes that have no name yet."""

    def __init__(self, bodies: dict[str, bytes]) -> None:
        self._bodies = bodies
        self._body = bytearray()

    def write(self, piece: bytes) -> None:
        self._body += piece

    def keep(self, sha256: str) -> None:
        self._bodies[sha256] = bytes(self._body)


class MemoryBlobFiles:
    """Bytes in a dict."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    @contextmanager
    def draft(self) -> Iterator[MemoryDraft]:
        yield MemoryDraft(self.bodies)

    def open(self, sha256: str) -> Iterator[bytes]:
        return iter([self.bodies[sha256]])
