"""Job events as server-sent events: numbered, resumable, read from the store."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from typing import Any

from fastapi import Request
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send

from marketplace.api.edge import Edge
from marketplace.api.limits import address_of
from marketplace.db.changes import UNTOLD_S, job_topic
from marketplace.db.tables import JobEventRow
from marketplace.domain.life import JOB_ENDED, LeaseState
from marketplace.errors import RateLimited, Unavailable
from marketplace.services.common import Principal
from marketplace.services.views import event_view
from marketplace.wire.jobs import JobEvent, streamed

BATCH = 200
PING_S = 15


class EventStream(EventSourceResponse):
    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the events, the client or the server end; always end the response, too."""
        is_open = True

        async def watched(message: Message) -> None:
            nonlocal is_open
            is_open = message["type"] == "http.response.start" or message.get("more_body", False)
            await send(message)

        await super().__call__(scope, receive, watched)
        if is_open:
            await send({"type": "http.response.body"})


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


async def events_after(
    edge: Edge, caller: Principal, request: Request, job_id: str, after: int
) -> AsyncIterator[ServerSentEvent]:
    """The events after a number, then new ones as they come, until the job is quite over. A stream
    that others overtook since `watch` ends at once."""
    with ExitStack() as stack:
        try:
            stack.enter_context(edge.streams.hold(caller.account, address_of(request)))
        except (RateLimited, Unavailable):
            return
        async for event in _events(edge, job_id, after):
            yield event


async def _events(edge: Edge, job_id: str, after: int) -> AsyncIterator[ServerSentEvent]:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(told.set)

    def fetch(seq: int) -> tuple[list[JobEventRow], bool]:
        with edge.database.read() as store:
            job = store.jobs.get(job_id)
            rows = store.events.after(job_id, seq, BATCH)
            lease = store.leases.get(job.lease_id) if job else None
            closed = lease is None or lease.state in (LeaseState.CLOSED, LeaseState.FAILED_TO_OPEN)
            return rows, job is None or (job.state in JOB_ENDED and closed)

    with edge.database.changes.subscribed(tell, job_topic(job_id)):
        while True:
            told.clear()
            rows, over = await run_in_threadpool(fetch, after)
            for row in rows:
                after = row.seq
                data = json.dumps(streamed(event_view(row)), separators=(",", ":"))
                yield ServerSentEvent(data, event=row.type, id=str(row.seq))
            if len(rows) == BATCH:
                continue
            if over:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), UNTOLD_S)
