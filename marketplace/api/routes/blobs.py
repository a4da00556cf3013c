"""Blobs: packed inputs and outputs."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from marketplace.api.edge import Anyone, EdgeDep, Id, Reply, SoundRoute
from marketplace.api.problems import AUTH, OWNED, documented
from marketplace.wire.jobs import Blob

router = APIRouter(route_class=SoundRoute, prefix="/blobs", tags=["blobs"])
BYTES = "application/octet-stream"
_RAW: dict[str, Any] = {BYTES: {"schema": {"type": "string", "format": "binary"}}}


class Bytes(StreamingResponse):
    """A stored file."""

    media_type = BYTES


@router.post(
    "",
    status_code=201,
    operation_id="put_blob",
    response_model=Blob,
    responses=documented(*AUTH, "too_large", "too_slow"),
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
    with blobs.receive() as upload:
        async for piece in request.stream():
            await run_in_threadpool(upload.write, piece)

        def keep() -> Reply:
            check(upload.size)  # before the bytes stay
            sha256 = upload.keep()
            with edge.database.write() as store:
                row = blobs.own(store, caller, sha256, upload.size)
                kept = Blob(sha256=row.sha256, size=row.size)
            return Reply(kept, 201, {"Location": f"/v1/blobs/{sha256}"})

        return (await run_in_threadpool(keep)).response()


@router.get(
    "/{sha256}",
    operation_id="get_blob",
    response_class=Bytes,
    responses={**documented(*OWNED), 200: {"content": _RAW}},
)
def get(edge: EdgeDep, caller: Anyone, sha256: Id) -> Response:
    """A file, for whoever uploaded it and the parties of a lease whose job names it."""
    with edge.database.read() as store:
        return Bytes(edge.catalog.blobs.open(store, caller, sha256))
