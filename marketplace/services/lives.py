"""Facts about jobs and leases taken in, and what follows from them done."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from marketplace.db.store import Store
from marketplace.db.tables import JobRow, LeaseRow
from marketplace.domain.advance import BidFilled, Fact, advance
from marketplace.domain.drafts import AskState
from marketplace.domain.job import full_budget, parse_job
from marketplace.domain.life import Do, Effect, PutOnBook, SuspendAsk, TellStatus
from marketplace.domain.order import Wants
from marketplace.domain.tier import TierRegistry
from marketplace.services.jobstates import cost_event, tell
from marketplace.services.liferows import job_life, lease_life, write_job, write_lease
from marketplace.services.orderlog import log_ask_closed, log_bid, log_bid_closed, log_free
from marketplace.services.ports import Clock, Market
from marketplace.services.reputation import judge
from settlement.orders import Bid

_SENT = (Do.SEND_OPENING, Do.SEND_CLOSE, Do.SEND_STOP)


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
        write_job(job, bid, life, now_ms)
        if lease is not None and lease_after is not None and lease_after.id == lease.id:
            write_lease(lease, lease_after)
        ask_id = fact.ask_id if isinstance(fact, BidFilled) else lease.ask_id if lease else None
        for effect in effects:
            self._do(store, job, lease, ask_id, effect, now_ms)
        return tuple(effect for effect in effects if effect in _SENT)

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

    def _put_on_book(self, store: Store, job: JobRow, effect: PutOnBook, now_ms: int) -> None:
        """With the budget that the bid's earlier leases leave over, however they still end."""
        row = store.bids.need(job.bid_id)
        spec = parse_job(job.spec, packed=True, tiers=self.tiers)
        job.spent = store.leases.committed_atoms(job.bid_id)
        left = max(0, Bid.from_message(row.message).budget - job.spent)
        job.reserve = min(left, full_budget(spec))
        seconds = max(1, (effect.until_ms - now_ms) // 1000)
        wants = replace(Wants.of(spec), rests=effect.rests, start_deadline_seconds=seconds)
        log_bid(store, row, job, wants, left, now_ms)


def _suspend(store: Store, ask_id: str, reason: str, now_ms: int) -> None:
    ask = store.asks.get(ask_id, lock=True)
    if ask is not None and ask.state == AskState.OPEN:
        ask.state, ask.reason = AskState.SUSPENDED, reason
        log_ask_closed(store, ask.id, now_ms)


def _settle_charge(store: Store, job: JobRow) -> None:
    """Count an ended job against its key's spend cap at what it cost, or may still cost."""
    actual = store.leases.committed_atoms(job.bid_id)
    key = store.keys.get(job.key_id, lock=True)
    if key is None or actual == job.key_charge:
        return
    key.spent = max(0, key.spent - job.key_charge + actual)
    job.key_charge = actual
