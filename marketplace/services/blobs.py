"""Blobs: packed inputs and outputs by SHA-256; whoever uploaded one, or shares its lease, reads."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import BlobRow
from marketplace.errors import NotFound, TooLarge
from marketplace.limits import BLOB_BYTES_MAX, BLOB_BYTES_PER_DAY_MAX
from marketplace.services.common import Principal, new_id
from marketplace.services.ports import BlobDraft, BlobFiles, Clock

DAY_MS = 86_400_000
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Upload:
    """One blob on its way in: hashed and counted as it comes, so it is never whole in memory."""

    def __init__(self, draft: BlobDraft) -> None:
        self._draft = draft
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Take the next bytes. Raises TooLarge, Unavailable."""
        self.size += len(piece)
        if self.size > BLOB_BYTES_MAX:
            raise TooLarge(f"a blob has at most {BLOB_BYTES_MAX} bytes")
        self._hash.update(piece)
        self._draft.write(piece)

    def keep(self) -> str:
        """Make the bytes durable, before any row names them; returns their SHA-256."""
        sha256 = self._hash.hexdigest()
        self._draft.keep(sha256)
        return sha256


@dataclass(frozen=True, slots=True)
class Blobs:
    """Files by content."""

    files: BlobFiles
    clock: Clock
    day_bytes_max: int = BLOB_BYTES_PER_DAY_MAX

    @contextmanager
    def receive(self) -> Iterator[Upload]:
        """An upload; nothing stays of one that is not kept. Raises Unavailable."""
        with self.files.draft() as draft:
            yield Upload(draft)

    def check_room(self, store: Store, caller: Principal, size: int) -> None:
        """Pass if the caller may upload so many bytes now. Raises TooLarge."""
        used = store.blobs.bytes_since(caller.account, self.clock() - DAY_MS)
        if used + size > self.day_bytes_max:
            left = max(0, self.day_bytes_max - used)
            detail = f"an account uploads at most {self.day_bytes_max} bytes in 24 hours"
            raise TooLarge(f"{detail}; {left} are left, of which every blob takes a few KiB more")

    def own(self, store: Store, caller: Principal, sha256: str, size: int) -> BlobRow:
        """Note that the caller has uploaded these bytes; again changes nothing. Raises TooLarge."""
        # With the account locked, its uploads are counted in turn.
        store.accounts.get_or_add(caller.account, self.clock(), lock=True)
        known = store.blobs.of(caller.account, sha256)
        if known is not None:
            return known
        self.check_room(store, caller, size)
        return store.blobs.add(
            BlobRow(
                id=new_id("blob"),
                sha256=sha256,
                owner=caller.account,
                size=size,
                created_ms=self.clock(),
            )
        )

    def open(self, store: Store, caller: Principal, sha256: str) -> Iterator[bytes]:
        """The bytes in pieces. Raises NotFound, also where the caller may not know of them."""
        if not _DIGEST.match(sha256) or not self._may_read(store, caller, sha256):
            raise NotFound("no such blob")
        try:
            return self.files.open(sha256)
        except KeyError as error:
            raise NotFound("no such blob") from error

    def _may_read(self, store: Store, caller: Principal, sha256: str) -> bool:
        """Also what a provider uploaded as the output of the caller's job, rather than only named
        so, and the inputs of a job that runs under the caller's lease."""
        return (
            store.blobs.of(caller.account, sha256) is not None
            or store.blobs.is_output_for(caller.account, sha256)
            or store.blobs.is_input_for(caller.account, sha256)
        )
