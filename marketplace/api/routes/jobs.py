"""Jobs: submitted, watched, cancelled, paid for."""

from typing import Annotated

from fastapi import Header, Request, Response

from marketplace.api.edge import (
    Anyone,
    Buyer,
    EdgeDep,
    Id,
    Paged,
    Paging,
    Routes,
    Words,
    WritingDep,
    paging,
)
from marketplace.api.problems import AUTH, ONCE, OWNED
from marketplace.api.sse import PING_S, STREAM, EventStream, events_after, watch
from marketplace.db.store import Store
from marketplace.domain.reader import seconds_of
from marketplace.errors import InvalidInput, Problem
from marketplace.limits import NUMBER_DIGITS_MAX
from marketplace.services.jobs import Submission
from marketplace.services.receipts import receipt_view
from marketplace.services.views import event_view, job_view
from marketplace.wire.base import Page
from marketplace.wire.jobs import (
    Job,
    JobOrder,
    JobReceipt,
    LogEvent,
    Receipt,
    TopUpPlan,
    TopUpRequest,
)

routes = Routes()
REFUSED = (
    *AUTH, *ONCE, "invalid_job", "invalid_order", "invalid_signature", "already_exists",
    "conflict", "purse_expired", "insufficient_balance", "budget_exceeded", "too_many_stops",
    "chain_unavailable",
)  # fmt: skip


def _number(text: str, problem: Problem) -> int:
    if text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX:
        return int(text)
    raise InvalidInput([problem])


@routes.on("POST /jobs", "submit_job", *REFUSED, status_code=202, response_model=Job)
def submit(edge: EdgeDep, caller: Buyer, body: JobOrder, write: WritingDep) -> Response:
    """Buy compute: a job and its signed bid go to the book. `max_cost` is what it may lock."""
    jobs, market = edge.catalog.jobs, edge.catalog.market

    def act(store: Store, order: Submission) -> Job:
        return job_view(store, market, jobs.submit(store, caller, order))

    return write.run_checked(caller, lambda: jobs.check(caller, body), act, 202)


@routes.reads("GET /jobs", "list_jobs", *AUTH)
def list_jobs(
    edge: EdgeDep, store: Store, caller: Buyer, paging: Paged, state: Words = None
) -> Page[Job]:
    """The caller's jobs, newest first."""
    states = tuple(state.split(",")) if state else ()
    rows = edge.catalog.jobs.page(store, caller, states, paging.wanted)
    return paging.page(Page[Job], rows, lambda row: job_view(store, edge.catalog.market, row))


@routes.reads("GET /jobs/{job_id}", "get_job", *OWNED)
def get(edge: EdgeDep, store: Store, caller: Buyer, job_id: Id) -> Job:
    """One job of the caller."""
    return job_view(store, edge.catalog.market, edge.catalog.jobs.get(store, caller, job_id))


@routes.writes("POST /jobs/{job_id}/cancel", "cancel_job", *OWNED, "conflict", status=202)
def cancel(edge: EdgeDep, store: Store, caller: Buyer, job_id: Id) -> Job:
    """Begin to end a job; what was used until then is paid, the rest goes back."""
    return job_view(store, edge.catalog.market, edge.catalog.jobs.cancel(store, caller, job_id))


@routes.on(
    "GET /jobs/{job_id}/events",
    "watch_job",
    *OWNED,
    response_class=EventStream,
    responses={200: STREAM},
)
async def events(
    edge: EdgeDep,
    caller: Buyer,
    request: Request,
    job_id: Id,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """Server-sent events `status, log, metric, cost, receipt`; resumes after Last-Event-ID."""
    wrong = Problem("/Last-Event-ID", "must be the id of an event")
    after = _number(last_event_id, wrong) if last_event_id else 0
    await watch(edge, caller, request, job_id)
    return EventStream(events_after(edge, caller, request, job_id, after), ping=PING_S)


@routes.reads("GET /jobs/{job_id}/logs", "list_job_logs", *OWNED)
def logs(
    edge: EdgeDep, store: Store, caller: Buyer, job_id: Id, paging: Annotated[Paging, paging(100)]
) -> Page[LogEvent]:
    """Output of a job in order."""
    limit, after = paging.wanted
    seq = 0 if after is None else _number(after, Problem("/cursor", "is not a cursor of this list"))
    edge.catalog.jobs.get(store, caller, job_id)
    rows = store.events.after(job_id, seq, limit, "log")
    return paging.page(Page[LogEvent], rows, event_view, lambda row: row.seq)


@routes.reads("GET /jobs/{job_id}/receipt", "get_job_receipt", *OWNED)
def receipt(edge: EdgeDep, store: Store, caller: Anyone, job_id: Id) -> JobReceipt:
    """The receipt of the job's last lease; `earlier` are those of leases that were lost."""
    rows = edge.catalog.receipts.of_job(store, caller, job_id)
    *earlier, last = (receipt_view(row) for row in rows)
    return JobReceipt(**dict(last), earlier=tuple(earlier))


@routes.reads("GET /receipts", "list_receipts", *AUTH)
def list_receipts(edge: EdgeDep, store: Store, caller: Anyone, paging: Paged) -> Page[Receipt]:
    """The caller's receipts, as buyer or provider, newest first."""
    rows = store.receipts.page(caller.account, paging.wanted)
    return paging.page(Page[Receipt], rows, receipt_view)


@routes.reads("POST /jobs/{job_id}/top-up/prepare", "prepare_top_up", *OWNED, "conflict")
def top_up(edge: EdgeDep, store: Store, caller: Buyer, job_id: Id, body: TopUpRequest) -> TopUpPlan:
    """Write out what the buyer sends to let a job run longer, within the bid's budget."""
    try:
        seconds = seconds_of(body.duration)
    except ValueError as error:
        raise InvalidInput([Problem("/duration", str(error))]) from error
    return edge.catalog.jobs.top_up(store, caller, job_id, seconds)
