"""The rules of a job's life, one row each; who may do what when; the page that lists it all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from marketplace.domain.advance import (
    BidFilled,
    BidLeftBook,
    BidVoided,
    BuyerCancelled,
    CloseOverdue,
    EndReverted,
    Fact,
    Fault,
    LeaseClosed,
    LeaseOpened,
    LeaseStopped,
    OpeningFailed,
    OpeningReverted,
    ProviderSilent,
    RetryWindowPassed,
    RunReported,
    SeatMarked,
    StartLimitPassed,
    StopOverdue,
    StopSigned,
    UsageAttested,
    advance,
)
from marketplace.domain.life import (
    JOB_ENDED,
    JOB_STEPS,
    LEASE_STEPS,
    Do,
    Effect,
    JobLife,
    JobState,
    LeaseLife,
    LeaseState,
    Outcome,
    PutOnBook,
    Retry,
    RetryOn,
    RunReport,
    StopReason,
    SuspendAsk,
    TellStatus,
    runs_again,
)
from marketplace.errors import Conflict
from marketplace.services.lives import chain_facts
from scripts.lib.life_page import VARIANTS, page
from settlement.events import Opened
from settlement.leases import ChainLease, LeaseStatus, fold

NOW = 100_000
PAGE = Path(__file__).resolve().parents[3] / "docs" / "life.md"

WAITING = JobLife(JobState.QUEUED, reserve=5, rest_until_ms=NOW + 9)
MATCHED = replace(WAITING, state=JobState.MATCHED, lease_id="l", excluded=("a",), matched_ms=1)
STARTING = replace(MATCHED, state=JobState.STARTING, reserve=0)
RUNNING = replace(STARTING, state=JobState.RUNNING, started_ms=2)
FAILED = replace(RUNNING, state=JobState.FAILED, reason="why", finished_ms=3)
RETRY = Retry((RetryOn.INTERRUPTION, RetryOn.ERROR), 60)
LOST = {"ending": Outcome.LOST, "reason": "provider_lost"}
REQUEUED = replace(WAITING, lease_id="l", requeue_after="l", reserve=0, retry_until_ms=NOW + 60)

OPENING = LeaseLife("l", LeaseState.OPENING, lock=7)
ACTIVE = replace(OPENING, state=LeaseState.ACTIVE)
STOPPED = replace(OPENING, state=LeaseState.STOPPED)
CLOSED = replace(OPENING, state=LeaseState.CLOSED)
ASKED = replace(ACTIVE, stop_requested=StopReason.LOST, stop_requested_ms=4)
STOP = {"stop_requested": StopReason.CANCELLED, "stop_requested_ms": NOW}
SEEK = {"stop_requested": StopReason.RETRY, "stop_requested_ms": NOW}
UNMARKED = replace(STOPPED, stop_requested=StopReason.RETRY, stop_requested_ms=4)
MARKED = replace(STOPPED, again=True)
SOUGHT = {"stop_requested": None, "stop_requested_ms": None}  # the witness is asked no more
OK = RunReport(Outcome.SUCCEEDED, None, 0, "blob")
BAD = RunReport(Outcome.FAILED, "exit_code", 3)

TELL, BACK = "tell", PutOnBook(NOW + 60, True)  # TELL: a TellStatus, whatever it says
ENDS = [Do.SETTLE_CHARGE, TELL]
ENDS_LEASE = [Do.TELL_COST, Do.FREE_CAPACITY, Do.JUDGE_PROVIDER]
CLOSES_STOPPED = [Do.TELL_COST, Do.JUDGE_PROVIDER]  # its node is free already
NO_CHANGES: Mapping[str, Any] = {}
OTHER = LeaseLife("new", LeaseState.OPENING, 8, budget_limited=True)


class Case(NamedTuple):
    """A fact, what it is about, and what of both it changes."""

    name: str
    job: JobLife
    lease: LeaseLife | None
    fact: Fact
    job_changes: Mapping[str, Any] = NO_CHANGES
    lease_changes: Mapping[str, Any] = NO_CHANGES
    effects: Sequence[Effect | str] = ()


def ended(state: JobState, reason: str | None = None, detail: str | None = None) -> dict[str, Any]:
    said = {"reason": reason, "detail": detail}
    return {"state": state, "finished_ms": NOW, "reserve": 0, **said}


def requeued(outcome: Outcome, **more: Any) -> dict[str, Any]:
    return {
        "state": JobState.QUEUED, "reason": outcome, "detail": "looking for another ask",
        "ending": None, "retry_until_ms": NOW + 60_000, "requeue_after": "l", **more,
    }  # fmt: skip


def reported(job: JobLife, lease: LeaseLife, report: RunReport) -> tuple[JobLife, LeaseLife]:
    return replace(job, ending=report.outcome), replace(lease, report=report, finished_ms=4)


FAILED_OPENING = {"state": LeaseState.FAILED_TO_OPEN, "reason": "why"}
UNHEARD = {"stop_requested": StopReason.LOST, "stop_requested_ms": NOW, "reason": "lost"}
# Values that docs/life.md does not show; what it shows is tested by the page itself.
CASES = (
    Case(
        "a fill opens a lease", WAITING, None, BidFilled(OTHER, "b"),
        {"state": JobState.MATCHED, "lease_id": "new", "excluded": ("b",), "reserve": 8,
         "matched_ms": NOW}, {}, [TELL, Do.SEND_OPENING],
    ),
    Case("no match", WAITING, None, BidLeftBook("no_match", detail="why"),
         ended(JobState.NO_MATCH, "no_match", "why"), {}, ENDS),
    Case("cancelled while it runs", RUNNING, ACTIVE, BuyerCancelled(),
         {"ending": Outcome.CANCELLED}, STOP, [TELL]),
    Case("cancelled again", replace(RUNNING, ending=Outcome.CANCELLED), ACTIVE, BuyerCancelled()),
    Case("the chain refuses the ask", MATCHED, OPENING, OpeningFailed("why", Fault.ASK),
         {"state": JobState.QUEUED, "lease_id": None, "reason": "open_failed", "detail": "why"},
         FAILED_OPENING,
         [SuspendAsk("why"), Do.FREE_CAPACITY, TELL, PutOnBook(NOW + 9, False), TELL]),
    Case("the chain refuses the pair", replace(MATCHED, retry=Retry((RetryOn.NO_CAPACITY,))),
         OPENING, OpeningFailed("why", Fault.PAIR, "before"),
         {"state": JobState.QUEUED, "lease_id": "before", "reason": "open_failed",
          "detail": "why"}, FAILED_OPENING,
         [Do.FREE_CAPACITY, TELL, PutOnBook(NOW + 9, True), TELL]),
    Case("the chain refuses a retry", replace(MATCHED, retry_until_ms=NOW + 60), OPENING,
         OpeningFailed("why", Fault.PAIR, "before"),
         {"state": JobState.QUEUED, "lease_id": "before", "reason": "open_failed",
          "detail": "why"}, FAILED_OPENING, [Do.FREE_CAPACITY, TELL, BACK, TELL]),
    Case("the opening of a void bid fails", replace(MATCHED, void=True), OPENING,
         OpeningFailed("why", Fault.PAIR),
         {**ended(JobState.CANCELLED, "order_cancelled"), "lease_id": None}, FAILED_OPENING,
         [Do.FREE_CAPACITY, TELL, *ENDS]),
    Case("the opening fails again after a reorg took it from a running job", RUNNING, OPENING,
         OpeningFailed("why", Fault.PAIR), ended(JobState.FAILED, "open_failed", "why"),
         FAILED_OPENING, [Do.FREE_CAPACITY, *ENDS]),
    Case("the same, after the cancel", replace(RUNNING, ending=Outcome.CANCELLED), OPENING,
         OpeningFailed("why", Fault.BUYER), ended(JobState.CANCELLED, "cancelled"),
         FAILED_OPENING, [Do.FREE_CAPACITY, *ENDS]),
    Case("the opening of a lease whose end a job waits for fails", REQUEUED, OPENING,
         OpeningFailed("why", Fault.PAIR), {"requeue_after": None, "lease_id": None},
         FAILED_OPENING, [Do.FREE_CAPACITY, BACK, TELL]),
    Case("opened", MATCHED, OPENING, LeaseOpened(), {"state": JobState.STARTING, "reserve": 0},
         {"state": LeaseState.ACTIVE}, [TELL, Do.TELL_COST]),
    Case("opened after the cancel", replace(MATCHED, ending=Outcome.CANCELLED), OPENING,
         LeaseOpened(), {"state": JobState.STARTING, "reserve": 0},
         {"state": LeaseState.ACTIVE, **STOP}, [TELL, Do.TELL_COST]),
    Case("opening reverted before the start", STARTING, ACTIVE, OpeningReverted(),
         {"state": JobState.MATCHED, "reserve": 7}, {"state": LeaseState.OPENING}, [TELL]),
    Case("opening reverted after the mark", FAILED, MARKED, OpeningReverted(), {},
         {"state": LeaseState.OPENING, "again": False}),
    Case("stopped past the server", RUNNING, ACTIVE, LeaseStopped(),
         ended(JobState.CANCELLED, "lease_stopped"), {"state": LeaseState.STOPPED},
         [*ENDS_LEASE, *ENDS]),
    Case("stopped as lost and retried", replace(RUNNING, **LOST, retry=RETRY), ASKED,
         LeaseStopped(), requeued(Outcome.LOST), {"state": LeaseState.STOPPED, **SEEK},
         [*ENDS_LEASE, TELL, TELL]),
    Case("lost again when the retry is over",
         replace(RUNNING, **LOST, retry=RETRY, retry_until_ms=NOW), ASKED, LeaseStopped(),
         ended(JobState.LOST, "provider_lost"), {"state": LeaseState.STOPPED},
         [*ENDS_LEASE, *ENDS]),
    Case("lost again just before the retry is over",
         replace(RUNNING, **LOST, retry=RETRY, retry_until_ms=NOW + 1), ASKED, LeaseStopped(),
         requeued(Outcome.LOST, retry_until_ms=NOW + 1), {"state": LeaseState.STOPPED, **SEEK},
         [*ENDS_LEASE, TELL, TELL]),
    Case("closed as reported", *reported(RUNNING, ACTIVE, OK), LeaseClosed(),
         {**ended(JobState.SUCCEEDED), "exit_code": 0, "outputs": "blob"},
         {"state": LeaseState.CLOSED}, [*ENDS_LEASE, *ENDS, Do.WRITE_RECEIPT]),
    Case("the report counts more than the cancel",
         replace(RUNNING, ending=Outcome.CANCELLED), replace(ACTIVE, report=OK), LeaseClosed(),
         {**ended(JobState.SUCCEEDED), "exit_code": 0, "outputs": "blob"},
         {"state": LeaseState.CLOSED}, [*ENDS_LEASE, *ENDS, Do.WRITE_RECEIPT]),
    Case("closed as over budget before it ran",
         *reported(STARTING, ACTIVE, RunReport(Outcome.OVER_BUDGET, "budget")), LeaseClosed(),
         ended(JobState.OVER_BUDGET, "budget"), {"state": LeaseState.CLOSED},
         [*ENDS_LEASE, TELL, *ENDS, Do.WRITE_RECEIPT]),
    Case("failed by itself and retried",
         *reported(replace(RUNNING, retry=RETRY), ACTIVE, BAD), LeaseClosed(),
         requeued(Outcome.FAILED, exit_code=3), {"state": LeaseState.CLOSED, **SEEK},
         [*ENDS_LEASE, TELL, TELL, Do.WRITE_RECEIPT]),
    Case("closed after the job ended", FAILED, STOPPED, LeaseClosed(), {},
         {"state": LeaseState.CLOSED}, [*CLOSES_STOPPED, Do.WRITE_RECEIPT, Do.SETTLE_CHARGE]),
    Case("the end of a lease that a job waits for", REQUEUED, ASKED, LeaseStopped(), {},
         {"state": LeaseState.STOPPED, **SEEK}, ENDS_LEASE),
    Case("the Close of a lease whose mark a job waits for", REQUEUED, UNMARKED, LeaseClosed(), {},
         {"state": LeaseState.CLOSED, **SEEK}, [*CLOSES_STOPPED, Do.WRITE_RECEIPT]),
    Case("the end that a void bid waits for", replace(REQUEUED, void=True), ASKED, LeaseClosed(),
         {**ended(JobState.CANCELLED, "order_cancelled"), "requeue_after": None},
         {"state": LeaseState.CLOSED}, [*ENDS_LEASE, *ENDS, Do.WRITE_RECEIPT]),
    Case("the mark that a job waits for", REQUEUED, UNMARKED, SeatMarked(True),
         {"requeue_after": None}, {"again": True, **SOUGHT}, [BACK, TELL]),
    Case("the mark that a void bid waits for", replace(REQUEUED, void=True), UNMARKED,
         SeatMarked(True), {**ended(JobState.CANCELLED, "order_cancelled"), "requeue_after": None},
         {"again": True, **SOUGHT}, ENDS),
    Case("a mark of a lease that the job does not wait for", replace(REQUEUED, requeue_after="m"),
         STOPPED, SeatMarked(True), {}, {"again": True}),
    Case("a mark after the job ended", FAILED, CLOSED, SeatMarked(True), {}, {"again": True}),
    Case("a mark that a reorg took back from a job on the book",
         replace(REQUEUED, requeue_after=None), MARKED, SeatMarked(False), {}, {"again": False}),
    Case("cancelled while it waits for the mark", REQUEUED, UNMARKED, BuyerCancelled(),
         {**ended(JobState.CANCELLED), "ending": Outcome.CANCELLED, "requeue_after": None},
         SOUGHT, ENDS),
    Case("the bid voided while it waits for the mark", REQUEUED, UNMARKED, BidVoided(),
         {**ended(JobState.CANCELLED), "ending": Outcome.CANCELLED, "requeue_after": None,
          "void": True}, SOUGHT, ENDS),
    Case("no mark in time", REQUEUED, UNMARKED, RetryWindowPassed(),
         {**ended(JobState.FAILED, "retry_passed"), "requeue_after": None}, SOUGHT, ENDS),
    Case("no end in time", REQUEUED, ASKED, RetryWindowPassed(),
         {**ended(JobState.FAILED, "retry_passed"), "requeue_after": None}, {}, ENDS),
    Case("the time passes while the bid is on the book", replace(REQUEUED, requeue_after=None),
         MARKED, RetryWindowPassed()),
    Case("the opening of a lease whose mark a job waits for fails after a reorg", REQUEUED,
         replace(UNMARKED, state=LeaseState.OPENING), OpeningFailed("why", Fault.PAIR, "before"),
         {"requeue_after": None, "lease_id": "before"}, {**FAILED_OPENING, **SOUGHT},
         [Do.FREE_CAPACITY, BACK, TELL]),
    Case("the first attestation", STARTING, ACTIVE, UsageAttested(50),
         {"state": JobState.RUNNING, "started_ms": NOW}, {"ready_ms": 50}, [TELL]),
    Case("the first attestation of the next lease", replace(STARTING, started_ms=2), ACTIVE,
         UsageAttested(50), {"state": JobState.RUNNING}, {"ready_ms": 50}, [TELL]),
    Case("a further attestation", RUNNING, replace(ACTIVE, ready_ms=5), UsageAttested(50)),
    Case("a report", RUNNING, ACTIVE, RunReported(OK), {"ending": Outcome.SUCCEEDED},
         {"report": OK, "finished_ms": NOW}, [TELL]),
    Case("a report after the cancel", replace(RUNNING, ending=Outcome.CANCELLED), ACTIVE,
         RunReported(BAD), {}, {"report": BAD, "finished_ms": NOW}, [TELL]),
    Case("a Stop", RUNNING, ACTIVE, StopSigned(), {}, {"stop_signed": True}, [Do.SEND_STOP]),
    Case("silent", RUNNING, ACTIVE, ProviderSilent(), LOST, UNHEARD),
    Case("never ready", STARTING, ACTIVE, StartLimitPassed(),
         {"ending": Outcome.LOST, "reason": "start_limit_passed"},
         {"stop_requested": StopReason.START_LIMIT, "stop_requested_ms": NOW,
          "reason": "start_limit"}),
    Case("no Stop, and the job waits for the lease to run out",
         replace(RUNNING, **LOST, retry=RETRY), ASKED, StopOverdue(),
         requeued(Outcome.LOST), {}, [TELL, TELL]),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fact_changes_what_it_should_and_nothing_else(case: Case) -> None:
    job, lease, effects = advance(case.job, case.lease, case.fact, NOW)
    assert job == replace(case.job, **case.job_changes)
    if isinstance(case.fact, BidFilled) and job.lease_id == case.fact.lease.id:
        assert lease == case.fact.lease
    else:
        assert lease == (case.lease and replace(case.lease, **case.lease_changes))
    assert [TELL if isinstance(e, TellStatus) else e for e in effects] == list(case.effects)


def facts() -> list[Fact]:
    """Every fact in every variant."""
    return [
        fact
        for kind in Fact.__subclasses__()
        for fact in (VARIANTS.get(kind) or {"": kind()}).values()
    ]


@pytest.mark.parametrize("state", JOB_ENDED)
def test_an_ended_job_is_moved_by_nothing(state: JobState) -> None:
    job = replace(FAILED, state=state)
    for fact in facts():
        for lease_state in LeaseState:
            try:
                after, _, _ = advance(job, replace(OPENING, state=lease_state), fact, NOW)
            except Conflict:
                continue
            assert after == job, fact
    with pytest.raises(Conflict, match=f"has ended: {state}"):
        advance(job, CLOSED, BuyerCancelled(), NOW)


def test_a_fact_about_a_lease_needs_one() -> None:
    with pytest.raises(Conflict, match="has no lease"):
        advance(WAITING, None, LeaseOpened(), NOW)


def test_steps_lead_from_queued_to_every_state_and_end_where_they_should() -> None:
    reached, frontier = {JobState.QUEUED}, [JobState.QUEUED]
    while frontier:
        following = set(JOB_STEPS.get(frontier.pop(), ())) - reached
        reached |= following
        frontier += following
    assert reached == set(JobState)
    assert set(JobState) - set(JOB_STEPS) == set(JOB_ENDED) - {JobState.LOST}
    assert set(LeaseState) - set(LEASE_STEPS) == {LeaseState.CLOSED}


@pytest.mark.parametrize("mark_first", [False, True])
@pytest.mark.parametrize("end", [LeaseStopped(), LeaseClosed()], ids=["stopped", "closed"])
def test_a_retried_job_goes_back_to_the_book_at_the_mark_and_only_then(
    end: Fact, mark_first: bool
) -> None:
    job, lease = replace(RUNNING, **LOST, retry=RETRY), ASKED
    job, over, effects = advance(job, lease, end, NOW)
    assert (job.state, job.requeue_after) == (JobState.QUEUED, "l")
    assert not any(isinstance(effect, PutOnBook) for effect in effects)
    if not mark_first:  # other news of the lease in between
        for fact in (EndReverted(LeaseState.ACTIVE), end, CloseOverdue()):
            job, over, effects = advance(job, over, fact, NOW)
            assert not any(isinstance(effect, PutOnBook) for effect in effects)
    assert over is not None
    assert over.stop_requested is StopReason.RETRY
    job, over, effects = advance(job, over, SeatMarked(True), NOW)
    assert (job.state, job.requeue_after) == (JobState.QUEUED, None)
    assert PutOnBook(NOW + 60_000, True) in effects
    assert over is not None
    assert (over.stop_requested, over.again) == (None, True)


def test_an_end_of_a_lease_that_is_marked_already_puts_the_job_back_at_once() -> None:
    job, lease, effects = advance(REQUEUED, MARKED, LeaseClosed(), NOW)
    assert (job.requeue_after, lease and lease.stop_requested) == (None, None)
    assert BACK in effects


def test_capacity_is_freed_once_when_the_lease_leaves_active() -> None:
    for ends in ([LeaseStopped(), LeaseClosed()], [LeaseClosed()], [LeaseStopped()]):
        job, lease, done = RUNNING, ACTIVE, []
        for fact in (*ends, SeatMarked(True)):
            job, after, effects = advance(job, lease, fact, NOW)
            assert after is not None
            lease = after
            done.append(Do.FREE_CAPACITY in effects)
        assert done == [True] + [False] * len(ends)


@pytest.mark.parametrize("state", [LeaseState.OPENING, LeaseState.ACTIVE])
def test_a_mark_of_a_lease_that_is_not_over_is_refused(state: LeaseState) -> None:
    with pytest.raises(Conflict, match=str(state)):
        advance(RUNNING, replace(OPENING, state=state), SeatMarked(True), NOW)


def test_a_provider_that_was_given_up_stays_to_blame_when_the_job_goes_on() -> None:
    job, lease, _ = advance(replace(RUNNING, retry=RETRY), ACTIVE, ProviderSilent(), NOW)
    for fact in (LeaseStopped(), SeatMarked(True), LeaseClosed()):
        job, lease, _ = advance(job, lease, fact, NOW)
        assert lease is not None
        assert lease.is_broken


RUNS_AGAIN: dict[Outcome | None, RetryOn | None] = {
    None: RetryOn.INTERRUPTION,  # nothing was reported: the provider was lost
    Outcome.LOST: RetryOn.INTERRUPTION,
    Outcome.FAILED: RetryOn.ERROR,
    Outcome.SUCCEEDED: None,
    Outcome.CANCELLED: None,
    Outcome.OVER_BUDGET: None,
}


@pytest.mark.parametrize("outcome", RUNS_AGAIN)
def test_a_bid_opens_again_after_the_ends_that_its_job_is_retried_on(
    outcome: Outcome | None,
) -> None:
    on = RUNS_AGAIN[outcome]
    assert {event for event in RetryOn if runs_again((event,), outcome)} == ({on} if on else set())
    assert runs_again(tuple(RetryOn), outcome) is (on is not None)
    assert not runs_again((), outcome)


def chain_lease(status: LeaseStatus, again: bool) -> ChainLease:
    names = (b"n" * 16, "buyer", "provider", "witness", "meter", b"bid", b"ask", b"prices")
    opened = fold([Opened(*names, 1, 1000, 1, 0, 1_660, 660, 60, 0, 10)])
    assert opened is not None
    return replace(opened, status=status, again=again)


CHAIN_SAYS: dict[tuple[LeaseState, LeaseStatus | None], list[Fact]] = {
    (LeaseState.OPENING, None): [OpeningReverted()],
    (LeaseState.OPENING, LeaseStatus.ACTIVE): [LeaseOpened()],
    (LeaseState.FAILED_TO_OPEN, LeaseStatus.ACTIVE): [LeaseOpened()],
    (LeaseState.OPENING, LeaseStatus.STOPPED): [LeaseOpened(), LeaseStopped()],
    (LeaseState.OPENING, LeaseStatus.CLOSED): [LeaseOpened(), LeaseClosed()],
    (LeaseState.ACTIVE, None): [OpeningReverted()],
    (LeaseState.ACTIVE, LeaseStatus.ACTIVE): [],
    (LeaseState.ACTIVE, LeaseStatus.STOPPED): [LeaseStopped()],
    (LeaseState.ACTIVE, LeaseStatus.CLOSED): [LeaseClosed()],
    (LeaseState.STOPPED, LeaseStatus.ACTIVE): [EndReverted(LeaseState.ACTIVE)],
    (LeaseState.STOPPED, LeaseStatus.CLOSED): [LeaseClosed()],
    (LeaseState.CLOSED, LeaseStatus.STOPPED): [EndReverted(LeaseState.STOPPED)],
    (LeaseState.CLOSED, LeaseStatus.CLOSED): [],
    (LeaseState.CLOSED, None): [OpeningReverted()],
}


@pytest.mark.parametrize(("known", "chain"), CHAIN_SAYS, ids=str)
def test_what_the_chain_has_tells_what_happened(
    known: LeaseState, chain: LeaseStatus | None
) -> None:
    has = chain_lease(chain, again=False) if chain else None
    assert list(chain_facts(replace(OPENING, state=known), has)) == CHAIN_SAYS[known, chain]


MARKS: dict[tuple[LeaseState, LeaseStatus, bool], list[Fact]] = {
    (LeaseState.OPENING, LeaseStatus.CLOSED, True): [
        LeaseOpened(), LeaseClosed(), SeatMarked(True)
    ],
    (LeaseState.ACTIVE, LeaseStatus.STOPPED, True): [LeaseStopped(), SeatMarked(True)],
    (LeaseState.STOPPED, LeaseStatus.STOPPED, True): [SeatMarked(True)],
    (LeaseState.STOPPED, LeaseStatus.CLOSED, True): [LeaseClosed(), SeatMarked(True)],
    (LeaseState.CLOSED, LeaseStatus.CLOSED, True): [SeatMarked(True)],
    (LeaseState.CLOSED, LeaseStatus.CLOSED, False): [SeatMarked(False)],
    (LeaseState.CLOSED, LeaseStatus.STOPPED, False): [
        SeatMarked(False), EndReverted(LeaseState.STOPPED)
    ],
    (LeaseState.STOPPED, LeaseStatus.ACTIVE, False): [
        SeatMarked(False), EndReverted(LeaseState.ACTIVE)
    ],
}  # fmt: skip


@pytest.mark.parametrize(("known", "chain", "again"), MARKS, ids=str)
def test_a_mark_comes_after_the_end_and_goes_before_it(
    known: LeaseState, chain: LeaseStatus, again: bool
) -> None:
    lease = replace(OPENING, state=known, again=not again)
    facts = chain_facts(lease, chain_lease(chain, again))
    assert list(facts) == MARKS[known, chain, again]
    after: LeaseLife | None = lease
    for fact in facts:  # none of them is refused
        _, after, _ = advance(FAILED, after, fact, NOW)
    assert after is not None
    assert (after.state, after.again) == (LeaseState[chain.name], again)
    assert chain_facts(after, chain_lease(chain, again)) == ()


def test_the_page_is_what_the_code_prints() -> None:
    assert PAGE.read_text() == page(), "python scripts/lib/life_page.py > docs/life.md"
