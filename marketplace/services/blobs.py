"""Blobs: packed inputs and outputs by SHA-256; whoever uploaded one, or shares its lease, reads."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import BlobRow
from marketplace.errors import InvalidInput, NotFound, Problem, TooLarge
from marketplace.limits import BLOB_BYTES_PER_DAY_MAX
from marketplace.services.common import Principal, new_id
from marketplace.services.ports import BlobFiles, Clock

DAY_MS = 86_400_000
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def need_blob(store: Store, owner: str, sha256: str, pointer: str) -> BlobRow:
    """An account's own upload of what a request names. Raises InvalidInput."""
    blob = store.blobs.of(owner, sha256)
    if blob is None:
        detail = "is not a blob of yours: upload it first with POST /v1/blobs"
        raise InvalidInput([Problem(pointer, detail)])
    return blob


@dataclass(frozen=True, slots=True)
class Blobs:
    files: BlobFiles
    clock: Clock
    day_bytes_max: int = BLOB_BYTES_PER_DAY_MAX

    def check_room(self, store: Store, caller: Principal, size: int) -> None:
        """Pass if the caller may upload so many bytes now. Raises TooLarge."""
        used = store.blobs.bytes_since(caller.account, self.clock() - DAY_MS)
        if used + size > self.day_bytes_max:
            left = max(0, self.day_bytes_max - used)
            detail = f"an account uploads at most {self.day_bytes_max} bytes in 24 hours"
            raise TooLarge(f"{detail}; {left} are left, of which every blob takes a few KiB more")

    def own(self, store: Store, caller: Principal, sha256: str, size: int) -> BlobRow:
        """Note that the caller has uploaded these bytes; again changes nothing. Raises TooLarge."""
        # The lock makes simultaneous uploads of an account wait, so that each is counted.
        store.accounts.get_or_add(caller.account, self.clock(), lock=True)
        known = store.blobs.of(caller.account, sha256)
        if known is not None:
            return known
        self.check_room(store, caller, size)
        row = BlobRow(
            id=new_id("blob"),
            sha256=sha256,
            owner=caller.account,
            size=size,
            created_ms=self.clock(),
        )
        return store.blobs.add(row)

    def open(self, store: Store, caller: Principal, sha256: str) -> Iterator[bytes]:
        """The bytes in pieces, of what the caller uploaded, what a provider uploaded as the output
        of the caller's job, or the inputs of a job that runs under the caller's lease. Raises
        NotFound, too, if the caller may not know of them."""
        may_read = _DIGEST.match(sha256) and (
            store.blobs.of(caller.account, sha256) is not None
            or store.blobs.is_output_for(caller.account, sha256)
            or store.blobs.is_input_for(caller.account, sha256)
        )
        if not may_read:
            raise NotFound("no such blob")
        try:
            return self.files.open(sha256)
        except KeyError as error:
            raise NotFound("no such blob") from error
