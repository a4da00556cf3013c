"""Blobs: packed inputs and outputs."""

from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from marketplace.api.edge import JSON, PREFIX, Anyone, EdgeDep, Id, Routes
from marketplace.api.problems import AUTH, OWNED
from marketplace.wire.jobs import Blob

routes = Routes()
BYTES = "application/octet-stream"
_RAW: dict[str, Any] = {BYTES: {"schema": {"type": "string", "format": "binary"}}}


class Bytes(StreamingResponse):
    media_type = BYTES


@routes.on(
    "POST /blobs",
    "put_blob",
    *AUTH,
    "too_large",
    "too_slow",
    status_code=201,
    response_model=Blob,
    openapi_extra={"requestBody": {"required": True, "content": _RAW}},
)
async def put(edge: EdgeDep, caller: Anyone, request: Request) -> Response:
    """Store a file of up to 64 MiB by its SHA-256; the same file again changes nothing.

    An account uploads up to 16 GiB in 24 hours.
    """
    blobs = edge.catalog.blobs

    def check(size: int) -> None:
        with edge.database.read() as store:
            blobs.check_room(store, caller, size)

    await run_in_threadpool(check, 0)
    with blobs.files.receive() as upload:
        async for piece in request.stream():
            await run_in_threadpool(upload.write, piece)

        def keep() -> Blob:
            check(upload.size)  # before the bytes stay
            sha256 = upload.keep()
            with edge.database.write() as store:
                row = blobs.own(store, caller, sha256, upload.size)
                return Blob(sha256=row.sha256, size=row.size)

        kept = await run_in_threadpool(keep)
    headers = {"Location": f"{PREFIX}/blobs/{kept.sha256}"}
    return Response(kept.model_dump_json(), 201, headers, JSON)


@routes.on(
    "GET /blobs/{sha256}",
    "get_blob",
    *OWNED,
    response_class=Bytes,
    responses={200: {"content": _RAW}},
)
def get(edge: EdgeDep, caller: Anyone, sha256: Id) -> Response:
    """A file, for whoever uploaded it and the parties of a lease whose job names it."""
    with edge.database.read() as store:
        return Bytes(edge.catalog.blobs.open(store, caller, sha256))
