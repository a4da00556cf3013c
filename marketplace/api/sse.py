"""Job events as server-sent events: numbered, resumable, read from the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

from fastapi import Request
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from marketplace.api.edge import Edge
from marketplace.api.limits import address_of
from marketplace.domain.life import JOB_ENDED
from marketplace.errors import RateLimited, Unavailable
from marketplace.services.common import Principal
from marketplace.services.records import JobEvent as EventRecord
from marketplace.services.views import event_view
from marketplace.wire.events import JobEvent, streamed

POLL_S = 0.25
BATCH = 200
PING_S = 15


class EventStream(EventSourceResponse):
    """A stream of job events."""

    media_type = "text/event-stream"


EXAMPLE = """id: 7
event: log
data: {"stream":"stdout","offset":0,"text":"hello","at":"2027-01-15T08:00:00.000Z"}

"""
STREAM: dict[str, Any] = {
    "model": JobEvent,
    "description": (
        "Server-sent events, each of one schema below: `id` and `type` are the fields `id` and "
        "`event` of the stream, its data is the JSON of `data` with `at` added."
    ),
    "content": {EventStream.media_type: {"example": EXAMPLE}},
}


async def watch(edge: Edge, caller: Principal, request: Request, job_id: str) -> None:
    """Pass if the caller may watch the job. Raises NotFound, RateLimited, Unavailable."""

    def check() -> None:
        with edge.database.read() as store:
            edge.catalog.jobs.get(store, caller, job_id)

    await run_in_threadpool(check)
    edge.streams.check(caller.account, address_of(request))


def event_stream(
    edge: Edge, caller: Principal, request: Request, job_id: str, after: int
) -> EventStream:
    """The events after a number, then new ones as they come, until the job is quite over."""
    return EventStream(_held(edge, caller, request, job_id, after), ping=PING_S)


async def _held(
    edge: Edge, caller: Principal, request: Request, job_id: str, after: int
) -> AsyncIterator[ServerSentEvent]:
    """The stream while it counts as open. One that others overtook since `watch` ends at once."""
    with ExitStack() as stack:
        try:
            stack.enter_context(edge.streams.hold(caller.account, address_of(request)))
        except (RateLimited, Unavailable):
            return
        async for event in _events(edge, request, job_id, after):
            yield event


async def _events(
    edge: Edge, request: Request, job_id: str, after: int
) -> AsyncIterator[ServerSentEvent]:
    def fetch(seq: int) -> tuple[list[EventRecord], bool]:
        with edge.database.read() as store:
            job = store.jobs.get(job_id)
            rows = edge.catalog.streams.after(store, job_id, seq, BATCH)
            lease = store.leases.get(job.lease_id) if job and job.lease_id else None
            closed = lease is None or lease.state in ("closed", "failed_to_open")
            return rows, job is None or (job.state in JOB_ENDED and closed)

    while not await request.is_disconnected():
        rows, over = await run_in_threadpool(fetch, after)
        for row in rows:
            after = row.seq
            data = json.dumps(streamed(event_view(row)), separators=(",", ":"))
            yield ServerSentEvent(data, event=row.type, id=str(row.seq))
        if over and not rows:
            return
        if len(rows) < BATCH:
            await asyncio.sleep(POLL_S)
