"""Jobs: submitted, watched, cancelled."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request

from marketplace.api.edge import (
    AUTH,
    OWNED,
    Anyone,
    Buyer,
    Cursor,
    EdgeDep,
    Limit,
    Reply,
    SoundRoute,
    WritingDep,
    decode_cursor,
    page,
    problems,
)
from marketplace.api.schemas.base import Id, Words
from marketplace.api.schemas.orders import TopUp, TopUpIn
from marketplace.api.schemas.work import Job, JobEventPage, JobIn, JobPage, Receipt
from marketplace.api.sse import event_json, event_stream, watch
from marketplace.db.store import Store
from marketplace.domain.reader import seconds_of
from marketplace.errors import InvalidInput, Problem
from marketplace.services.common import from_hex

router = APIRouter(route_class=SoundRoute, prefix="/jobs", tags=["jobs"])
_DIGITS_MAX = 18


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX


@router.post(
    "",
    status_code=202,
    operation_id="submit_job",
    response_model=Job,
    responses=problems(
        *AUTH,
        "invalid_job",
        "invalid_order",
        "invalid_signature",
        "already_exists",
        "conflict",
        "insufficient_balance",
        "budget_exceeded",
        "chain_unavailable",
        "idempotency_mismatch",
        "idempotency_in_flight",
    ),
)
def submit(edge: EdgeDep, caller: Buyer, body: JobIn, write: WritingDep) -> Any:
    """Buy compute: a job and its signed bid go to the book. `max_cost` is what it may lock."""
    jobs = edge.catalog.jobs
    stored = write.replay(caller)
    if stored is not None:
        return stored
    order = jobs.check(caller, body.job, body.bid, from_hex(body.signature, "/signature"))

    def act(store: Store) -> Reply:
        job = jobs.submit(store, caller, order)
        return Reply(jobs.to_json(store, job), 202, {"Location": f"/v1/jobs/{job.id}"})

    return write.run(caller, act)


@router.get("", operation_id="list_jobs", response_model=JobPage, responses=problems(*AUTH))
def list_jobs(
    edge: EdgeDep,
    caller: Buyer,
    state: Annotated[str | None, Words] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """The caller's jobs, newest first."""
    jobs = edge.catalog.jobs
    states = tuple(state.split(",")) if state else ()
    with edge.database.read() as store:
        rows = jobs.page(store, caller, states, limit + 1, decode_cursor(cursor))
        return page(rows, limit, lambda row: row.id, lambda row: jobs.to_json(store, row))


@router.get("/{job_id}", operation_id="get_job", response_model=Job, responses=problems(*OWNED))
def get(edge: EdgeDep, caller: Buyer, job_id: Id) -> Any:
    """One job of the caller."""
    jobs = edge.catalog.jobs
    with edge.database.read() as store:
        return jobs.to_json(store, jobs.get(store, caller, job_id))


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    operation_id="cancel_job",
    response_model=Job,
    responses=problems(*OWNED, "conflict", "idempotency_mismatch", "idempotency_in_flight"),
)
def cancel(edge: EdgeDep, caller: Buyer, job_id: Id, write: WritingDep) -> Any:
    """Begin to end a job; what was used until then is paid, the rest goes back."""
    jobs = edge.catalog.jobs

    def act(store: Store) -> Reply:
        job = jobs.cancel(store, caller, job_id)
        return Reply(jobs.to_json(store, job), 202, {"Location": f"/v1/jobs/{job.id}"})

    return write.run(caller, act)


@router.get(
    "/{job_id}/events",
    operation_id="watch_job",
    responses={
        **problems(*OWNED),
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
    },
)
async def events(
    edge: EdgeDep,
    caller: Buyer,
    request: Request,
    job_id: Id,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Any:
    """Server-sent events `status, log, metric, cost, receipt`; resumes after Last-Event-ID."""
    after = 0
    if last_event_id:
        if not _is_number(last_event_id):
            raise InvalidInput([Problem("/Last-Event-ID", "must be the id of an event")])
        after = int(last_event_id)
    await watch(edge, caller, request, job_id)
    return event_stream(edge, caller, request, job_id, after)


@router.get(
    "/{job_id}/logs",
    operation_id="list_job_logs",
    response_model=JobEventPage,
    responses=problems(*OWNED),
)
def logs(
    edge: EdgeDep, caller: Buyer, job_id: Id, limit: Limit = 100, cursor: Cursor = None
) -> Any:
    """Output of a job in order."""
    catalog = edge.catalog
    after = decode_cursor(cursor)
    if after is not None and not _is_number(after):
        raise InvalidInput([Problem("/cursor", "is no cursor of this list")])
    with edge.database.read() as store:
        catalog.jobs.get(store, caller, job_id)
        rows = store.events.after(job_id, int(after or 0), limit + 1, "log")
    return page(rows, limit, lambda row: str(row.seq), event_json)


@router.get(
    "/{job_id}/receipt",
    operation_id="get_job_receipt",
    response_model=Receipt,
    responses=problems(*OWNED),
)
def receipt(edge: EdgeDep, caller: Anyone, job_id: Id) -> Any:
    """The receipt of the job's last lease; `earlier` are those of leases that were lost."""
    receipts = edge.catalog.receipts
    with edge.database.read() as store:
        rows = [receipts.to_json(row) for row in receipts.of_job(store, caller, job_id)]
    return {**rows[-1], "earlier": rows[:-1]}


@router.post(
    "/{job_id}/top-up/prepare",
    operation_id="prepare_top_up",
    response_model=TopUp,
    responses=problems(*OWNED, "conflict"),
)
def top_up(edge: EdgeDep, caller: Buyer, job_id: Id, body: TopUpIn) -> Any:
    """Write out what the buyer sends to let a job run longer, within the bid's budget."""
    try:
        seconds = seconds_of(body.duration)
    except ValueError as error:
        raise InvalidInput([Problem("/duration", str(error))]) from error
    with edge.database.read() as store:
        return edge.catalog.topups.prepare(store, caller, job_id, seconds)
