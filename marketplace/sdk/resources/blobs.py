"""Blobs: packed inputs and outputs, named by their SHA-256."""

from __future__ import annotations

import hashlib

from marketplace.limits import BLOB_BYTES_MAX
from marketplace.sdk.decode import decode
from marketplace.sdk.errors import InputError, ProtocolError
from marketplace.sdk.flow import Flow, Request, S, op
from marketplace.sdk.models import Blob
from marketplace.sdk.resources.base import ApiResource
from marketplace.sdk.transfer import json_of


class Blobs(ApiResource[S]):
    """Files up to 64 MiB, stored by content."""

    @op
    def put(self, content: bytes) -> Flow[Blob]:
        """Store a file. Raises InputError above 64 MiB, ProtocolError if the digest differs."""
        if len(content) > BLOB_BYTES_MAX:
            raise InputError(f"{len(content)} bytes exceed the limit of {BLOB_BYTES_MAX} (64 MiB)")
        headers = {"Content-Type": "application/octet-stream"}
        request = Request("POST", "/v1/blobs", content=content, headers=headers, repeatable=True)
        blob = decode(Blob, json_of((yield from self._send(request))))
        if blob.sha256 != hashlib.sha256(content).hexdigest():
            raise ProtocolError(f"the server stored {blob.sha256}, which is not what was sent")
        return blob

    @op
    def get(self, sha256: str) -> Flow[bytes]:
        """Fetch a file and check it against its name. Raises ProtocolError where it differs."""
        response = yield from self._send(Request("GET", f"/v1/blobs/{sha256}"))
        if hashlib.sha256(response.body).hexdigest() != sha256.lower():
            raise ProtocolError(f"the server's answer for blob {sha256} has another SHA-256")
        return response.body
