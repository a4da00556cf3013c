"""Turns rows of jobs and leases into lives and back, takes in facts, and does what follows."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from marketplace.db.store import Store
from marketplace.db.tables import BidRow, JobRow, LeaseRow
from marketplace.domain.advance import (
    BidFilled,
    EndReverted,
    Fact,
    LeaseClosed,
    LeaseOpened,
    LeaseStopped,
    OpeningReverted,
    ProviderStopped,
    SeatMarked,
    advance,
)
from marketplace.domain.drafts import AskState
from marketplace.domain.job import full_budget, parse_job
from marketplace.domain.life import (
    Do,
    Effect,
    JobLife,
    LeaseLife,
    LeaseState,
    Outcome,
    PutOnBook,
    Retry,
    RetryOn,
    RunReport,
    SuspendAsk,
    TellStatus,
)
from marketplace.domain.order import Wants
from marketplace.domain.reader import seconds_of
from marketplace.domain.reliability import reliability_milli
from marketplace.domain.tier import TierRegistry
from marketplace.services.common import emit
from marketplace.services.orderlog import (
    log_ask_closed,
    log_bid,
    log_bid_closed,
    log_free,
    log_node,
)
from marketplace.services.ports import Clock, Market
from marketplace.services.stops import recount
from marketplace.services.views import answer_of, cost_view
from marketplace.wire.jobs import JobStatus
from settlement.leases import ChainLease, LeaseStatus
from settlement.orders import Bid

LEASES_COUNTED = 200  # a provider is judged by its latest ones, so that a change shows
_SENT = (Do.SEND_OPENING, Do.SEND_CLOSE, Do.SEND_STOP)
_ON_CHAIN = {
    LeaseStatus.ACTIVE: LeaseState.ACTIVE,
    LeaseStatus.STOPPED: LeaseState.STOPPED,
    LeaseStatus.CLOSED: LeaseState.CLOSED,
}
_ORDER = tuple(_ON_CHAIN.values())
# What a row and its life hold under the same names.
_OF_JOB = (
    "state", "lease_id", "ending", "reason", "detail", "requeue_after", "exit_code", "outputs",
    "reserve", "rest_until_ms", "retry_until_ms", "matched_ms", "started_ms", "finished_ms",
)  # fmt: skip
_OF_LEASE = (
    "state", "reason", "ready_ms", "notice_seconds", "notice_ms", "stop_requested",
    "stop_requested_ms", "again", "finished_ms",
)  # fmt: skip


def chain_facts(lease: LeaseRow | LeaseLife, chain: ChainLease | None) -> tuple[Fact, ...]:
    """What happened to a lease, if the chain has it like this; None: it does not have it."""
    if chain is None:
        return (OpeningReverted(),)
    now = _ON_CHAIN[chain.status]
    opened = lease.state not in _ORDER
    before = LeaseState.ACTIVE if opened else lease.state
    facts: tuple[Fact, ...] = (LeaseOpened(),) if opened else ()
    marks = () if chain.again is lease.again else (SeatMarked(chain.again),)
    if _ORDER.index(now) < _ORDER.index(before):
        return (*facts, *marks, EndReverted(now))
    if now is not before:
        facts += (LeaseStopped() if now is LeaseState.STOPPED else LeaseClosed(),)
    return (*facts, *marks)


def job_life(job: JobRow, bid: BidRow) -> JobLife:
    same: dict[str, Any] = {name: getattr(job, name) for name in _OF_JOB}
    void = bid.cancelled_ms is not None
    return JobLife(**same, excluded=tuple(job.excluded), retry=retry_of(job.spec), void=void)


def retry_of(spec: Mapping[str, Any]) -> Retry:
    """When a job goes to another ask, as its job file says."""
    said = spec.get("retry")
    if not said:
        return Retry()
    events = tuple(RetryOn(event) for event in said["on_events"])
    return Retry(events, seconds_of(said["duration"]))


def lease_life(lease: LeaseRow) -> LeaseLife:
    same: dict[str, Any] = {name: getattr(lease, name) for name in _OF_LEASE}
    said = lease.outcome
    return LeaseLife(
        **same,
        id=lease.id,
        lock=lease.lock,
        budget_limited=lease.budget_limited,
        stop_signed=lease.stop_signature is not None,
        report=RunReport(**{**said, "outcome": Outcome(said["outcome"])}) if said else None,
    )


def tell(store: Store, job_id: str, job: JobRow | JobLife, now_ms: int) -> None:
    """A `status` event of a job as it stands, or as it stood between two steps of one change."""
    emit(store, job_id, "status", answer_of(JobStatus, job), now_ms)


def cost_event(store: Store, market: Market, job: JobRow, lease: LeaseRow, now_ms: int) -> None:
    """A `cost` event of the job's present lease."""
    emit(store, job.id, "cost", cost_view(store, market, job, lease), now_ms)


@dataclass(frozen=True, slots=True)
class Lives:
    """Takes in facts. `write_receipt` writes the receipt of a closed lease, if there is none."""

    market: Market
    clock: Clock
    tiers: TierRegistry
    write_receipt: Callable[[Store, LeaseRow], None]

    def take(
        self, store: Store, job: JobRow, lease: LeaseRow | None, fact: Fact
    ) -> tuple[Effect, ...]:
        """Change the rows as the fact demands and do what follows.

        Both rows are locked, the lease before the job. `lease` is the one that the fact is about;
        if the fact is about the bid or the job, the job's latest, if any. Returns what is left to
        do for who brought the fact: to send the opening, Stop or Close that it made. Raises
        Conflict if the fact cannot be.
        """
        now_ms = self.clock()
        bid = store.bids.need(job.bid_id, lock=True)
        before = lease_life(lease) if lease else None
        life, lease_after, effects = advance(job_life(job, bid), before, fact, now_ms)
        for name in _OF_JOB:
            setattr(job, name, getattr(life, name))
        job.excluded = list(life.excluded)
        if life.void and bid.cancelled_ms is None:
            bid.cancelled_ms = now_ms
        if lease is not None and lease_after is not None and lease_after.id == lease.id:
            for name in _OF_LEASE:  # signatures are written by whoever brings them
                setattr(lease, name, getattr(lease_after, name))
            lease.outcome = asdict(lease_after.report) if lease_after.report else None
            if before is not None:
                recount(store, self.market, job, lease, before, now_ms)
        ask_id = lease.ask_id if lease is not None else None
        if isinstance(fact, BidFilled):  # the row of its lease is not stored yet
            ask_id = fact.ask_id
        for effect in effects:
            self._do(store, job, lease, ask_id, effect, now_ms)
        return tuple(effect for effect in effects if effect in _SENT)

    def blame(self, store: Store, lease: LeaseRow) -> None:
        """Its provider stopped a lease, past this server."""
        self.take(store, store.jobs.need(lease.job_id, lock=True), lease, ProviderStopped())

    def would_change(self, store: Store, job: JobRow, lease: LeaseRow, fact: Fact) -> bool:
        """Whether a fact, if it came now, would change the job or the lease."""
        before = job_life(job, store.bids.need(job.bid_id)), lease_life(lease)
        return advance(*before, fact, self.clock())[:2] != before

    def _do(
        self,
        store: Store,
        job: JobRow,
        lease: LeaseRow | None,
        ask_id: str | None,
        effect: Effect,
        now_ms: int,
    ) -> None:
        match effect:
            case TellStatus():
                tell(store, job.id, effect.job, now_ms)
            case PutOnBook():
                self._put_on_book(store, job, effect, now_ms)
            case SuspendAsk() if ask_id is not None:
                ask = store.asks.get(ask_id, lock=True)
                if ask is not None and ask.state is AskState.OPEN:
                    ask.state, ask.reason = AskState.SUSPENDED, effect.reason
                    log_ask_closed(store, ask.id, now_ms)
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
            case Do.SEND_OPENING | Do.SEND_CLOSE | Do.SEND_STOP:
                pass  # `take` returns these: whoever brought the fact sends
            case _:  # such an effect must not vanish unnoticed
                raise AssertionError(f"{effect} of {job.id} has no lease or ask to act on")

    def _put_on_book(self, store: Store, job: JobRow, effect: PutOnBook, now_ms: int) -> None:
        """Its budget is what the bid's earlier leases leave over, however they still end."""
        row = store.bids.need(job.bid_id)
        spec = parse_job(job.spec, packed=True, tiers=self.tiers)
        job.spent = store.leases.committed_atoms(job.bid_id)
        left = max(0, Bid.from_message(row.message).budget - job.spent)
        job.reserve = min(left, full_budget(spec))
        seconds = max(1, (effect.until_ms - now_ms) // 1000)
        wants = replace(Wants.of(spec), rests=effect.rests, start_deadline_seconds=seconds)
        log_bid(store, row, job, wants, left, now_ms)


def _settle_charge(store: Store, job: JobRow) -> None:
    """Count an ended job against its key's spend cap at what it cost, or may still cost."""
    actual = store.leases.committed_atoms(job.bid_id)
    key = store.keys.get(job.key_id, lock=True)
    if key is not None and actual != job.key_charge:
        key.spent = max(0, key.spent - job.key_charge + actual)
        job.key_charge = actual


def judge(store: Store, provider: str, now_ms: int) -> None:
    """Count a provider's latest leases again; its nodes change if the share kept does."""
    ended = store.leases.last_ended(provider, LEASES_COUNTED)
    milli = reliability_milli(len(ended), sum(lease_life(lease).is_broken for lease in ended))
    for node in store.nodes.lock_of(provider):
        if node.reliability_milli != milli:
            node.reliability_milli = milli
            log_node(store, node, now_ms)
