"""Jobs: submitted, watched, cancelled."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from marketplace.api.edge import (
    Anyone,
    Buyer,
    Cursor,
    EdgeDep,
    Id,
    Limit,
    Reply,
    SoundRoute,
    Words,
    WritingDep,
    decode_cursor,
    page,
)
from marketplace.api.problems import AUTH, ONCE, OWNED, documented
from marketplace.api.sse import STREAM, EventStream, event_stream, watch
from marketplace.db.store import Store
from marketplace.domain.reader import seconds_of
from marketplace.errors import InvalidInput, Problem
from marketplace.services.receipts import receipt_view
from marketplace.services.views import event_view, job_view
from marketplace.wire.base import Page
from marketplace.wire.jobs import Job, JobOrder, JobReceipt, LogEvent, TopUp, TopUpRequest

router = APIRouter(route_class=SoundRoute, prefix="/jobs", tags=["jobs"])
_DIGITS_MAX = 18
REFUSED = (
    "invalid_job", "invalid_order", "invalid_signature", "already_exists", "conflict",
    "insufficient_balance", "budget_exceeded", "chain_unavailable",
)  # fmt: skip


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX


@router.post(
    "",
    status_code=202,
    operation_id="submit_job",
    response_model=Job,
    responses=documented(*AUTH, *ONCE, *REFUSED),
)
def submit(edge: EdgeDep, caller: Buyer, body: JobOrder, write: WritingDep) -> Response:
    """Buy compute: a job and its signed bid go to the book. `max_cost` is what it may lock."""
    jobs = edge.catalog.jobs
    stored = write.replay(caller)
    if stored is not None:
        return stored
    order = jobs.check(caller, body)

    def act(store: Store) -> Reply:
        job = jobs.submit(store, caller, order)
        view = job_view(store, edge.catalog.market, job)
        return Reply(view, 202, {"Location": f"/v1/jobs/{job.id}"})

    return write.run(caller, act)


@router.get("", operation_id="list_jobs", responses=documented(*AUTH))
def list_jobs(
    edge: EdgeDep,
    caller: Buyer,
    state: Annotated[str | None, Words] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[Job]:
    """The caller's jobs, newest first."""
    jobs, market = edge.catalog.jobs, edge.catalog.market
    states = tuple(state.split(",")) if state else ()
    with edge.database.read() as store:
        rows = jobs.page(store, caller, states, limit + 1, decode_cursor(cursor))
        return page(Page[Job], rows, limit, lambda row: job_view(store, market, row))


@router.get("/{job_id}", operation_id="get_job", responses=documented(*OWNED))
def get(edge: EdgeDep, caller: Buyer, job_id: Id) -> Job:
    """One job of the caller."""
    with edge.database.read() as store:
        job = edge.catalog.jobs.get(store, caller, job_id)
        return job_view(store, edge.catalog.market, job)


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    operation_id="cancel_job",
    response_model=Job,
    responses=documented(*OWNED, *ONCE, "conflict"),
)
def cancel(edge: EdgeDep, caller: Buyer, job_id: Id, write: WritingDep) -> Response:
    """Begin to end a job; what was used until then is paid, the rest goes back."""

    def act(store: Store) -> Reply:
        job = edge.catalog.jobs.cancel(store, caller, job_id)
        view = job_view(store, edge.catalog.market, job)
        return Reply(view, 202, {"Location": f"/v1/jobs/{job.id}"})

    return write.run(caller, act)


@router.get(
    "/{job_id}/events",
    operation_id="watch_job",
    response_class=EventStream,
    responses={**documented(*OWNED), 200: STREAM},
)
async def events(
    edge: EdgeDep,
    caller: Buyer,
    request: Request,
    job_id: Id,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """Server-sent events `status, log, metric, cost, receipt`; resumes after Last-Event-ID."""
    after = 0
    if last_event_id:
        if not _is_number(last_event_id):
            raise InvalidInput([Problem("/Last-Event-ID", "must be the id of an event")])
        after = int(last_event_id)
    await watch(edge, caller, request, job_id)
    return event_stream(edge, caller, request, job_id, after)


@router.get("/{job_id}/logs", operation_id="list_job_logs", responses=documented(*OWNED))
def logs(
    edge: EdgeDep, caller: Buyer, job_id: Id, limit: Limit = 100, cursor: Cursor = None
) -> Page[LogEvent]:
    """Output of a job in order."""
    catalog = edge.catalog
    after = decode_cursor(cursor)
    if after is not None and not _is_number(after):
        raise InvalidInput([Problem("/cursor", "is not a cursor of this list")])
    with edge.database.read() as store:
        catalog.jobs.get(store, caller, job_id)
        rows = store.events.after(job_id, int(after or 0), limit + 1, "log")
        return page(Page[LogEvent], rows, limit, event_view, lambda row: str(row.seq))


@router.get("/{job_id}/receipt", operation_id="get_job_receipt", responses=documented(*OWNED))
def receipt(edge: EdgeDep, caller: Anyone, job_id: Id) -> JobReceipt:
    """The receipt of the job's last lease; `earlier` are those of leases that were lost."""
    with edge.database.read() as store:
        rows = edge.catalog.receipts.of_job(store, caller, job_id)
        *earlier, last = (receipt_view(row) for row in rows)
    return JobReceipt(**dict(last), earlier=tuple(earlier))


@router.post(
    "/{job_id}/top-up/prepare",
    operation_id="prepare_top_up",
    responses=documented(*OWNED, "conflict"),
)
def top_up(edge: EdgeDep, caller: Buyer, job_id: Id, body: TopUpRequest) -> TopUp:
    """Write out what the buyer sends to let a job run longer, within the bid's budget."""
    try:
        seconds = seconds_of(body.duration)
    except ValueError as error:
        raise InvalidInput([Problem("/duration", str(error))]) from error
    with edge.database.read() as store:
        return edge.catalog.topups.prepare(store, caller, job_id, seconds)
