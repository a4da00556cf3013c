"""Blobs: packed inputs and outputs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from marketplace.api.edge import AUTH, OWNED, Anyone, EdgeDep, Reply, SoundRoute, problems
from marketplace.api.schemas.base import Id
from marketplace.api.schemas.work import Blob

router = APIRouter(route_class=SoundRoute, prefix="/blobs", tags=["blobs"])
_RAW = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.post(
    "",
    status_code=201,
    operation_id="put_blob",
    response_model=Blob,
    responses=problems(*AUTH, "too_large"),
    openapi_extra={"requestBody": {"required": True, "content": _RAW}},
)
async def put(edge: EdgeDep, caller: Anyone, request: Request) -> Any:
    """Store a file of up to 64 MiB by its SHA-256; the same file again changes nothing.

    An account uploads up to 16 GiB in 24 hours.
    """
    blobs = edge.catalog.blobs

    def check(size: int) -> None:
        with edge.database.read() as store:
            blobs.check_room(store, caller, size)

    await run_in_threadpool(check, 0)
    with blobs.receive() as upload:
        async for piece in request.stream():
            await run_in_threadpool(upload.write, piece)

        def keep() -> Reply:
            check(upload.size)  # before the bytes stay
            sha256 = upload.keep()
            with edge.database.write() as store:
                row = blobs.own(store, caller, sha256, upload.size)
            headers = {"Location": f"/v1/blobs/{sha256}"}
            return Reply({"sha256": row.sha256, "size": row.size}, 201, headers)

        return (await run_in_threadpool(keep)).response()


@router.get(
    "/{sha256}",
    operation_id="get_blob",
    response_class=StreamingResponse,
    responses={**problems(*OWNED), 200: {"content": _RAW}},
)
def get(edge: EdgeDep, caller: Anyone, sha256: Id) -> Any:
    """A file, for whoever uploaded it and the parties of a lease whose job names it."""
    with edge.database.read() as store:
        pieces = edge.catalog.blobs.open(store, caller, sha256)
    return StreamingResponse(pieces, media_type="application/octet-stream")
