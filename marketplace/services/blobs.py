"""Blobs: packed inputs and outputs by SHA-256; whoever uploaded one, or shares its lease, reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from marketplace.errors import NotFound, TooLarge
from marketplace.services.common import Principal, new_id
from marketplace.services.ports import BlobFiles, Clock, Store
from marketplace.services.records import Blob

BLOB_BYTES_MAX = 64 * 1024 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Blobs:
    """Files by content."""

    files: BlobFiles
    clock: Clock

    def keep(self, body: bytes) -> str:
        """Write the bytes durably, before any row names them; returns their SHA-256."""
        if len(body) > BLOB_BYTES_MAX:
            raise TooLarge(f"a blob has at most {BLOB_BYTES_MAX} bytes")
        sha256 = hashlib.sha256(body).hexdigest()
        self.files.write(sha256, body)
        return sha256

    def own(self, store: Store, caller: Principal, sha256: str, size: int) -> Blob:
        """Note that the caller has uploaded these bytes; again changes nothing."""
        row = Blob(new_id("blob"), sha256, caller.account, size, self.clock())
        store.blobs.ensure(row)
        return store.blobs.one(owner=caller.account, sha256=sha256) or row

    def open(self, store: Store, caller: Principal, sha256: str) -> Iterator[bytes]:
        """The bytes in pieces. Raises NotFound, also where the caller may not know of them."""
        if not _DIGEST.match(sha256) or not self._may_read(store, caller, sha256):
            raise NotFound("no such blob")
        try:
            return self.files.open(sha256)
        except KeyError as error:
            raise NotFound("no such blob") from error

    def _may_read(self, store: Store, caller: Principal, sha256: str) -> bool:
        if store.blobs.one(owner=caller.account, sha256=sha256):
            return True
        mine = store.jobs.find(account=caller.account, outputs=sha256)
        if any(_gave(store, job.lease_id, sha256) for job in mine):
            return True
        leases = store.leases.find(provider=caller.account, state=("active", "stopped"))
        jobs = (store.jobs.get(lease.job_id) for lease in leases)
        return any(job and job.spec.get("inputs", {}).get("sha256") == sha256 for job in jobs)


def _gave(store: Store, lease_id: str | None, sha256: str) -> bool:
    """Whether the lease's provider uploaded the bytes it named, rather than only naming them."""
    lease = store.leases.get(lease_id) if lease_id else None
    return bool(lease and store.blobs.one(owner=lease.provider, sha256=sha256))
