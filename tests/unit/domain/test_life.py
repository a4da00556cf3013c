"""The rules of a job's life, one row each; who may do what when; the page that lists it all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from marketplace.domain.advance import (
    BidFilled,
    BidLeftBook,
    BuyerCancelled,
    EndReverted,
    Fact,
    Fault,
    LeaseClosed,
    LeaseOpened,
    LeaseRanOut,
    LeaseStopped,
    OpeningFailed,
    OpeningReverted,
    ProviderSilent,
    RunReported,
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
)
from marketplace.errors import Conflict
from marketplace.services.lives import chain_facts
from scripts.lib.life_page import VARIANTS, page
from settlement.leases import LeaseStatus

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
OK = RunReport(Outcome.SUCCEEDED, None, 0, "blob")
BAD = RunReport(Outcome.FAILED, "exit_code", 3)

TELL, BACK = "tell", PutOnBook(NOW + 60, True)  # TELL: a TellStatus, whatever it says
ENDS = [Do.SETTLE_CHARGE, TELL]
CLOSES = [Do.TELL_COST, Do.FREE_CAPACITY, Do.JUDGE_PROVIDER]
STOPS = [Do.TELL_COST, Do.JUDGE_PROVIDER]
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
        "ending": None, "retry_until_ms": NOW + 60_000, **more,
    }  # fmt: skip


def reported(job: JobLife, lease: LeaseLife, report: RunReport) -> tuple[JobLife, LeaseLife]:
    return replace(job, ending=report.outcome), replace(lease, report=report, finished_ms=4)


FAILED_OPENING = {"state": LeaseState.FAILED_TO_OPEN, "reason": "why"}
UNHEARD = {"stop_requested": StopReason.LOST, "stop_requested_ms": NOW}
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
    Case("stopped past the server", RUNNING, ACTIVE, LeaseStopped(),
         ended(JobState.CANCELLED, "lease_stopped"), {"state": LeaseState.STOPPED},
         [*STOPS, *ENDS]),
    Case("stopped as lost and retried", replace(RUNNING, **LOST, retry=RETRY), ASKED,
         LeaseStopped(), requeued(Outcome.LOST), {"state": LeaseState.STOPPED},
         [*STOPS, TELL, TELL, PutOnBook(NOW + 60_000, True), TELL]),
    Case("lost again when the retry is over",
         replace(RUNNING, **LOST, retry=RETRY, retry_until_ms=NOW), ASKED, LeaseStopped(),
         ended(JobState.LOST, "provider_lost"), {"state": LeaseState.STOPPED}, [*STOPS, *ENDS]),
    Case("lost again just before the retry is over",
         replace(RUNNING, **LOST, retry=RETRY, retry_until_ms=NOW + 1), ASKED, LeaseStopped(),
         requeued(Outcome.LOST, retry_until_ms=NOW + 1), {"state": LeaseState.STOPPED},
         [*STOPS, TELL, TELL, PutOnBook(NOW + 1, True), TELL]),
    Case("closed as reported", *reported(RUNNING, ACTIVE, OK), LeaseClosed(),
         {**ended(JobState.SUCCEEDED), "exit_code": 0, "outputs": "blob"},
         {"state": LeaseState.CLOSED}, [*CLOSES, *ENDS, Do.WRITE_RECEIPT]),
    Case("the report counts more than the cancel",
         replace(RUNNING, ending=Outcome.CANCELLED), replace(ACTIVE, report=OK), LeaseClosed(),
         {**ended(JobState.SUCCEEDED), "exit_code": 0, "outputs": "blob"},
         {"state": LeaseState.CLOSED}, [*CLOSES, *ENDS, Do.WRITE_RECEIPT]),
    Case("closed as over budget before it ran",
         *reported(STARTING, ACTIVE, RunReport(Outcome.OVER_BUDGET, "budget")), LeaseClosed(),
         ended(JobState.OVER_BUDGET, "budget"), {"state": LeaseState.CLOSED},
         [*CLOSES, TELL, *ENDS, Do.WRITE_RECEIPT]),
    Case("failed by itself and retried",
         *reported(replace(RUNNING, retry=RETRY), ACTIVE, BAD), LeaseClosed(),
         requeued(Outcome.FAILED, exit_code=3), {"state": LeaseState.CLOSED},
         [*CLOSES, TELL, TELL, PutOnBook(NOW + 60_000, True), TELL, Do.WRITE_RECEIPT]),
    Case("closed after the job ended", FAILED, STOPPED, LeaseClosed(), {},
         {"state": LeaseState.CLOSED}, [*CLOSES, Do.WRITE_RECEIPT, Do.SETTLE_CHARGE]),
    Case("the end that a job waits for", REQUEUED, ASKED, LeaseStopped(),
         {"requeue_after": None}, {"state": LeaseState.STOPPED}, [*STOPS, BACK, TELL]),
    Case("the end that a void bid waits for", replace(REQUEUED, void=True), ASKED, LeaseClosed(),
         {**ended(JobState.CANCELLED, "order_cancelled"), "requeue_after": None},
         {"state": LeaseState.CLOSED}, [*CLOSES, *ENDS, Do.WRITE_RECEIPT]),
    Case("time ends the lease that a job waits for", REQUEUED, ASKED, LeaseRanOut(),
         {"requeue_after": None}, {}, [BACK, TELL]),
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
         {"stop_requested": StopReason.START_LIMIT, "stop_requested_ms": NOW}),
    Case("no Stop, and the job waits for the lease to run out",
         replace(RUNNING, **LOST, retry=RETRY), ASKED, StopOverdue(),
         requeued(Outcome.LOST, requeue_after="l"), {}, [TELL, TELL]),
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
    assert list(chain_facts(known, chain)) == CHAIN_SAYS[known, chain]


def test_the_page_is_what_the_code_prints() -> None:
    assert PAGE.read_text() == page(), "python scripts/lib/life_page.py > docs/life.md"
