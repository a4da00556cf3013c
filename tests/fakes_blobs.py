"""Blobs without a disk."""

from __future__ import annotations

from collections.abc import Iterator


class MemoryBlobFiles:
    """Bytes in a dict."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    def write(self, sha256: str, body: bytes) -> None:
        self.bodies[sha256] = body

    def open(self, sha256: str) -> Iterator[bytes]:
        return iter([self.bodies[sha256]])
