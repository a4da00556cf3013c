"""Facts about jobs and leases taken in: rows as lives, lives as rows, and the effects done.

Which fact follows from what the chain says is here, too: see `chain_facts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from marketplace.domain.advance import advance
from marketplace.domain.job import JobSpec, full_budget
from marketplace.domain.jobfile import parse_job
from marketplace.domain.life import (
    BidFilled,
    Do,
    Effect,
    EndReverted,
    Fact,
    JobLife,
    JobState,
    LeaseClosed,
    LeaseLife,
    LeaseOpened,
    LeaseState,
    LeaseStopped,
    OpeningReverted,
    Outcome,
    PutOnBook,
    Retry,
    RetryOn,
    RunReport,
    StopReason,
    SuspendAsk,
    TellStatus,
)
from marketplace.domain.order import Wants
from marketplace.domain.reader import seconds_of
from marketplace.domain.tier import TierRegistry
from marketplace.services.common import emit, iso
from marketplace.services.jobstates import committed, cost_event
from marketplace.services.orderlog import log_ask_closed, log_bid, log_bid_closed, log_free
from marketplace.services.ports import Clock, Market, Store
from marketplace.services.records import JobRecord, LeaseRecord
from marketplace.services.reputation import judge
from settlement.leases import LeaseStatus
from settlement.orders import Bid

_SENT = (Do.SEND_OPENING, Do.SEND_CLOSE, Do.SEND_STOP)
_ON_CHAIN = {
    LeaseStatus.ACTIVE: LeaseState.ACTIVE,
    LeaseStatus.STOPPED: LeaseState.STOPPED,
    LeaseStatus.CLOSED: LeaseState.CLOSED,
}
_ORDER = (LeaseState.ACTIVE, LeaseState.STOPPED, LeaseState.CLOSED)


def chain_facts(known: LeaseState, chain: LeaseStatus | None) -> tuple[Fact, ...]:
    """What happened to a lease, if it was known as `known` and the chain has it as `chain`."""
    if chain is None:
        return (OpeningReverted(),)
    now, opened = _ON_CHAIN[chain], known not in _ORDER
    before = LeaseState.ACTIVE if opened else known
    facts: tuple[Fact, ...] = (LeaseOpened(),) if opened else ()
    if _ORDER.index(now) < _ORDER.index(before):
        return (*facts, EndReverted(now))
    if now is before:
        return facts
    return (*facts, LeaseStopped() if now is LeaseState.STOPPED else LeaseClosed())


def job_life(job: JobRecord, *, void: bool) -> JobLife:
    """A job's row as its life. `void`: whether its bid is cancelled."""
    retry = job.spec.get("retry", {})
    return JobLife(
        state=JobState(job.state),
        lease_id=job.lease_id,
        ending=Outcome(job.ending) if job.ending else None,
        reason=job.reason,
        detail=job.detail,
        requeue_after=job.requeue_after,
        excluded=tuple(job.excluded),
        exit_code=job.exit_code,
        outputs=job.outputs,
        reserve=job.reserve,
        rest_until_ms=job.rest_until_ms,
        retry_until_ms=job.retry_until_ms,
        matched_ms=job.matched_ms,
        started_ms=job.started_ms,
        finished_ms=job.finished_ms,
        retry=Retry(
            tuple(RetryOn(event) for event in retry.get("on_events", ())),
            seconds_of(retry["duration"]) if retry else 0,
        ),
        void=void,
    )


def lease_life(lease: LeaseRecord) -> LeaseLife:
    """A lease's row as its life."""
    report = lease.outcome
    return LeaseLife(
        id=lease.id,
        state=LeaseState(lease.state),
        lock=lease.lock,
        budget_limited=lease.budget_limited,
        reason=lease.reason,
        ready_ms=lease.ready_ms,
        stop_requested=StopReason(lease.stop_requested) if lease.stop_requested else None,
        stop_requested_ms=lease.stop_requested_ms,
        stop_signed=lease.stop_signature is not None,
        report=RunReport(**{**report, "outcome": Outcome(report["outcome"])}) if report else None,
        finished_ms=lease.finished_ms,
    )


def write_job(job: JobRecord, life: JobLife) -> None:
    """A life written back onto its row. `spent`, `key_charge` and what is in `retry` stay."""
    job.state = life.state.value
    job.lease_id = life.lease_id
    job.ending = life.ending.value if life.ending else None
    job.reason, job.detail = _text(life.reason), life.detail
    job.requeue_after = life.requeue_after
    if life.excluded != tuple(job.excluded):
        job.excluded = list(life.excluded)
    job.exit_code, job.outputs = life.exit_code, life.outputs
    job.reserve = life.reserve
    job.retry_until_ms = life.retry_until_ms
    job.matched_ms, job.started_ms = life.matched_ms, life.started_ms
    job.finished_ms = life.finished_ms


def write_lease(lease: LeaseRecord, life: LeaseLife) -> None:
    """A life written back onto its row. Signatures are written by whoever brings them."""
    lease.state, lease.reason = life.state.value, life.reason
    lease.ready_ms = life.ready_ms
    lease.stop_requested = life.stop_requested.value if life.stop_requested else None
    lease.stop_requested_ms = life.stop_requested_ms
    lease.finished_ms = life.finished_ms
    said = life.report
    if said is not None:
        lease.outcome = {
            "outcome": said.outcome.value,
            "exit_code": said.exit_code,
            "reason": said.reason,
            "outputs": said.outputs,
        }


def _text(word: str | None) -> str | None:
    """A word without its enum: what a driver stores is then what it reads back."""
    return None if word is None else str(word)


@dataclass(frozen=True, slots=True)
class Lives:
    """Takes in facts. `write_receipt` writes the receipt of a closed lease, if there is none."""

    market: Market
    clock: Clock
    tiers: TierRegistry
    write_receipt: Callable[[Store, LeaseRecord], None]

    def take(
        self, store: Store, job: JobRecord, lease: LeaseRecord | None, fact: Fact
    ) -> tuple[Effect, ...]:
        """Change the rows as the fact demands and do what follows.

        `lease` is the one that the fact is about; of BidFilled, the job's latest. Returns what is
        left to do for who brought the fact: to send the opening, Stop or Close that it made.
        Raises IllegalTransition.
        """
        now_ms = self.clock()
        bid = store.bids.get(job.bid_id)
        known = job_life(job, void=bid is not None and bid.cancelled_ms is not None)
        before = lease_life(lease) if lease else None
        life, lease_after, effects = advance(known, before, fact, now_ms)
        write_job(job, life)
        store.jobs.put(job)
        if lease is not None and lease_after is not None and lease_after.id == lease.id:
            write_lease(lease, lease_after)
            store.leases.put(lease)
        ask_id = lease.ask_id if lease else None
        if isinstance(fact, BidFilled):
            ask_id = fact.ask_id
        for effect in effects:
            self._do(store, job, lease, ask_id, effect, now_ms)
        return tuple(effect for effect in effects if effect in _SENT)

    def _do(
        self,
        store: Store,
        job: JobRecord,
        lease: LeaseRecord | None,
        ask_id: str | None,
        effect: Effect,
        now_ms: int,
    ) -> None:
        match effect:
            case TellStatus():
                emit(store, job.id, "status", _status(effect.job, now_ms), now_ms)
            case PutOnBook():
                self._put_on_book(store, job, effect, now_ms)
            case SuspendAsk() if ask_id is not None:
                _suspend(store, ask_id, effect.reason, now_ms)
            case Do.TAKE_OFF_BOOK:
                log_bid_closed(store, job.bid_id, now_ms)
            case Do.FREE_CAPACITY if ask_id is not None:
                log_free(store, job.bid_id, ask_id, now_ms)
            case Do.SETTLE_CHARGE:
                _settle_charge(store, job)
            case Do.JUDGE_PROVIDER if lease is not None:
                judge(store, lease.provider, now_ms)
            case Do.TELL_COST if lease is not None:
                cost_event(store, self.market, job, lease, now_ms)
            case Do.WRITE_RECEIPT if lease is not None:
                self.write_receipt(store, lease)

    def _put_on_book(self, store: Store, job: JobRecord, effect: PutOnBook, now_ms: int) -> None:
        """With the budget that the bid's earlier leases leave over, however they still end."""
        row = store.bids.get(job.bid_id)
        if row is None:
            raise KeyError(job.bid_id)
        spec = self._spec(job)
        job.spent = committed(store, job.bid_id)
        left = max(0, Bid.from_message(row.message).budget - job.spent)
        job.reserve = min(left, full_budget(spec))
        store.jobs.put(job)
        seconds = max(1, (effect.until_ms - now_ms) // 1000)
        wants = replace(Wants.of(spec), rests=effect.rests, start_deadline_seconds=seconds)
        log_bid(store, row, job, wants, left, now_ms)

    def _spec(self, job: JobRecord) -> JobSpec:
        return parse_job(job.spec, packed=True, tiers=self.tiers)


def _status(life: JobLife, now_ms: int) -> dict[str, Any]:
    return {
        "state": life.state.value,
        "reason": _text(life.reason),
        "detail": life.detail,
        "exit_code": life.exit_code,
        "ending": _text(life.ending),
        "lease_id": life.lease_id,
        "at": iso(now_ms),
    }


def _suspend(store: Store, ask_id: str, reason: str, now_ms: int) -> None:
    ask = store.asks.get(ask_id, lock=True)
    if ask is not None and ask.state == "open":
        store.asks.put(replace(ask, state="suspended", reason=reason))
        log_ask_closed(store, ask.id, now_ms)


def _settle_charge(store: Store, job: JobRecord) -> None:
    """Count an ended job against its key's spend cap at what it cost, or may still cost."""
    actual = committed(store, job.bid_id)
    key = store.keys.get(job.key_id, lock=True) if job.key_id else None
    if key is None or actual == job.key_charge:
        return
    store.keys.put(replace(key, spent=max(0, key.spent - job.key_charge + actual)))
    job.key_charge = actual
    store.jobs.put(job)
