"""Blobs: packed inputs and outputs, named by their SHA-256."""

from __future__ import annotations

import hashlib

from marketplace.limits import BLOB_BYTES_MAX
from marketplace.sdk._async.base import AsyncResource
from marketplace.sdk.errors import InputError, ProtocolError
from marketplace.sdk.http import json_of
from marketplace.sdk.reading import read
from marketplace.wire.jobs import Blob


class AsyncBlobs(AsyncResource):
    """Files up to 64 MiB, stored by content."""

    async def put(self, content: bytes) -> Blob:
        """Store a file. Raises InputError above 64 MiB, ProtocolError if the digest differs."""
        if len(content) > BLOB_BYTES_MAX:
            raise InputError(f"{len(content)} bytes exceed the limit of {BLOB_BYTES_MAX} (64 MiB)")
        answer = await self._transport.send("POST", "/v1/blobs", content=content, repeatable=True)
        blob = read(Blob, json_of(answer))
        if blob.sha256 != hashlib.sha256(content).hexdigest():
            raise ProtocolError(f"the server stored {blob.sha256}, which is not what was sent")
        return blob

    async def get(self, sha256: str) -> bytes:
        """Fetch a file and check it against its name. Raises ProtocolError if it differs."""
        path = f"/v1/blobs/{sha256}"
        content = await self._transport.send("GET", path, bytes_max=BLOB_BYTES_MAX)
        if hashlib.sha256(content).hexdigest() != sha256.lower():
            raise ProtocolError(f"the server's answer for blob {sha256} has another SHA-256")
        return content
