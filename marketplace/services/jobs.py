"""Jobs: submitted with a signed bid, watched, cancelled."""

from dataclasses import dataclass

from marketplace.db.store import Database, Store
from marketplace.db.tables import BidRow, JobRow, LeaseRow, Part
from marketplace.domain.advance import BuyerCancelled
from marketplace.domain.drafts import bid_problems, top_up_lock
from marketplace.domain.job import JobSpec, full_budget
from marketplace.domain.life import JobState, LeaseState, RetryOn
from marketplace.domain.order import Wants
from marketplace.errors import (
    AlreadyExists,
    BudgetExceeded,
    Conflict,
    InvalidInput,
    InvalidOrder,
    NotFound,
    Problem,
    Unavailable,
)
from marketplace.limits import LIVE_JOBS_MAX as LIVE_MAX
from marketplace.limits import ORDER_SECONDS_MAX
from marketplace.services.accounts import note_salt
from marketplace.services.blobs import need_blob
from marketplace.services.common import Principal, check_account, money, new_id, too_little, unmet
from marketplace.services.leases import opened_from
from marketplace.services.lives import Lives, tell
from marketplace.services.orderlog import log_bid
from marketplace.services.ports import Clock, EscrowReads, Market
from marketplace.services.quotes import Quotes
from marketplace.services.stops import Stops
from marketplace.wire.base import hex_text
from marketplace.wire.jobs import JobOrder, TopUpPlan
from marketplace.wire.orders import TOP_UP_GAS, Transaction
from settlement.chain.calls import EscrowCalls
from settlement.consent import BIDS
from settlement.eip712 import ZERO_ADDRESS
from settlement.orders import Bid


@dataclass(frozen=True, slots=True)
class Submission:
    """A job and its signed bid, checked as far as no transaction is needed. `balance`: free atoms
    in the escrow. `reserve`: atoms that the job's lease will lock."""

    spec: JobSpec
    bid: Bid
    signature: bytes
    balance: int
    reserve: int


@dataclass(frozen=True, slots=True)
class Jobs:
    market: Market
    clock: Clock
    reads: EscrowReads
    quotes: Quotes
    lives: Lives
    calls: EscrowCalls
    database: Database
    stops: Stops

    def check(self, caller: Principal, order: JobOrder) -> Submission:
        """Check a submission and ask the chain, before any transaction is begun. Raises InvalidJob,
        InvalidOrder, InvalidSignature, PurseExpired, AlreadyExists, ChainError."""
        spec = self.quotes.spec(order.job)
        bid = order.bid
        signature = order.signature
        problems = [*bid_problems(bid, spec, self.quotes.tiers), *self._problems(caller, bid)]
        if problems:
            raise InvalidOrder(problems)
        parties = (bid.buyer, self.market, self.reads)
        check_account(bid, signature, *parties, BIDS, self.clock())
        state = self.reads.salt_state(bid.buyer, bid.salt)
        if state.used or state.cancelled:
            with self.database.write() as store:  # the next order gets another salt
                store.accounts.pass_salt(bid.buyer, bid.salt, self.clock())
            detail = "has opened a lease before" if state.used else "is cancelled"
            problem = Problem("/bid/salt", detail)
            raise AlreadyExists("the bid's salt is used", problems=[problem])
        balance = self.reads.balance_of(bid.buyer)
        return Submission(spec, bid, signature, balance, self._reserve(spec, bid))

    def _problems(self, caller: Principal, bid: Bid) -> list[Problem]:
        now_s = self.clock() // 1000
        market = self.market
        return unmet(
            "/bid",
            (bid.buyer == caller.account, "buyer", "must be the account of the API key"),
            (bid.witness != ZERO_ADDRESS, "witness", "must be a key that countersigns usage"),
            # If anyone may open a bid, it may be opened again after its job: budget is left.
            (bid.opener == market.opener, "opener", f"must be {market.opener}"),
            (bid.expiry > now_s, "expiry", "has passed"),
            (bid.expiry <= now_s + ORDER_SECONDS_MAX, "expiry", "lies more than 400 days ahead"),
            (bid.max_fee_bps >= market.fee_bps, "maxFeeBps", "is below the market's fee"),
        )

    def submit(self, store: Store, caller: Principal, order: Submission) -> JobRow:
        """Store a job, its bid and its row of the order log; nothing, if the job is refused.
        Raises AlreadyExists, Conflict, InvalidInput, InsufficientBalance, BudgetExceeded,
        TooManyStops."""
        now_ms = self.clock()
        spec = order.spec
        reserve = order.reserve
        self.stops.check(store, order.bid.buyer)
        note_salt(store, order.bid.buyer, order.bid.salt, "/bid/salt", now_ms)
        self._check_inputs(store, caller, spec)
        if store.jobs.live_count(caller.account) >= LIVE_MAX:
            raise Conflict(f"an account has at most {LIVE_MAX} live jobs; let some end first")
        free = order.balance - store.jobs.reserved_atoms(caller.account)
        if free < reserve:
            raise too_little(self.market, reserve, free, "the lock")
        charge = self._charge_key(store, caller, order, reserve)
        bid = BidRow(
            id=new_id("bid"),
            account=caller.account,
            job_id=new_id("job"),
            hash=hex_text(order.bid.struct_hash()),
            salt=str(order.bid.salt),
            message=order.bid.to_message(),
            signature=hex_text(order.signature),
            expiry_s=order.bid.expiry,
            created_ms=now_ms,
        )
        problem = Problem("/bid/salt", "is used by another bid of yours")
        store.bids.add(bid, AlreadyExists("the bid's salt is used", problems=[problem]))
        job = JobRow(
            id=bid.job_id,
            account=caller.account,
            key_id=caller.key_id,
            bid_id=bid.id,
            name=spec.name,
            state=JobState.QUEUED,
            spec=spec.to_json(),
            job_hash=hex_text(spec.hash()),
            reserve=reserve,
            key_charge=charge,
            created_ms=now_ms,
            rest_until_ms=now_ms + spec.start_deadline_seconds * 1000,
        )
        store.jobs.add(job)
        log_bid(store, bid, job, Wants.of(spec), order.bid.budget, now_ms)
        tell(store, job.id, job, now_ms)
        return job

    def _check_inputs(self, store: Store, caller: Principal, spec: JobSpec) -> None:
        if spec.inputs is None:
            return
        blob = need_blob(store, caller.account, spec.inputs.sha256, "/job/inputs/sha256")
        if blob.size != spec.inputs.size:
            raise InvalidInput([Problem("/job/inputs/size", f"the blob has {blob.size} bytes")])

    def _reserve(self, spec: JobSpec, bid: Bid) -> int:
        """What the job will lock: at its best match, else at its own limits while it waits."""
        found, _ = self.quotes.matches(spec, bid)
        if found:
            return found[0].terms.lock
        return min(bid.budget, full_budget(spec)) if spec.rests else 0

    def _charge_key(self, store: Store, caller: Principal, order: Submission, reserve: int) -> int:
        """Count a job against its key's spend cap: all it may cost, fail-over included."""
        moves_on = set(order.spec.retry_on) & {RetryOn.INTERRUPTION, RetryOn.ERROR}
        amount = order.bid.budget if moves_on else reserve
        key = store.keys.get(caller.key_id, lock=True) if caller.key_id else None
        if key is None:
            return 0
        if key.spend_cap is not None and key.spent + amount > key.spend_cap:
            facts = {
                "spend_cap": money(self.market, key.spend_cap),
                "spent": money(self.market, key.spent),
                "required": money(self.market, amount),
            }
            raise BudgetExceeded("the API key's spend cap would be passed", facts=facts)
        key.spent += amount
        return amount

    def get(self, store: Store, caller: Principal, job_id: str, *, lock: bool = False) -> JobRow:
        """A job of the caller (any, for an operator). Raises NotFound."""
        job = store.jobs.get(job_id, lock=lock)
        if job is None or (job.account != caller.account and not caller.is_operator):
            raise NotFound("no such job")
        return job

    def page(
        self, store: Store, caller: Principal, states: tuple[str, ...], part: Part
    ) -> list[JobRow]:
        """The caller's jobs, newest first."""
        rows = store.jobs.page(caller.account, states, part)
        store.leases.hold(row.lease_id for row in rows)
        store.bids.hold(row.bid_id for row in rows)
        return rows

    def cancel(self, store: Store, caller: Principal, job_id: str) -> JobRow:
        """Begin to end a job: off the book at once, or by asking its agent to stop. Raises
        NotFound, Unavailable; Conflict if it has ended."""
        self.get(store, caller, job_id)
        job, lease = self.locked(store, job_id)
        self.lives.take(store, job, lease, BuyerCancelled())
        return job

    def locked(self, store: Store, job_id: str) -> tuple[JobRow, LeaseRow | None]:
        """A job and its latest lease, locked in the order that all keep. Raises Unavailable."""
        lease_id = store.jobs.need(job_id).lease_id
        lease = store.leases.get(lease_id, lock=True)
        job = store.jobs.need(job_id, lock=True)
        if job.lease_id != lease_id:
            raise Unavailable("the job has just moved to another lease; try again")
        return job, lease

    def top_up(self, store: Store, caller: Principal, job_id: str, seconds: int) -> TopUpPlan:
        """What the buyer sends to run a job longer, because it moves money of the buyer's account:
        the transaction, and the lock. Raises NotFound, Conflict, InvalidInput."""
        job = store.jobs.get(job_id)
        if job is None or job.account != caller.account:
            raise NotFound("no such job")
        lease = store.leases.get(job.lease_id)
        if lease is None or lease.state is not LeaseState.ACTIVE:
            raise Conflict("the job has no active lease to top up")
        opened = opened_from(store, lease)
        lock = top_up_lock(
            seconds,
            opened.ask,
            rate=lease.rate,
            paid_seconds=lease.paid_seconds,
            left=max(0, opened.bid.budget - job.spent - lease.lock),
            decimals=self.market.decimals,
            currency=self.market.currency,
        )
        call = Transaction(
            call="top_up",
            to=self.market.domain.verifying_contract,
            data=self.calls.top_up(opened, seconds),
            gas=TOP_UP_GAS,
        )
        return TopUpPlan(lease_id=lease.id, transaction=call, lock=money(self.market, lock))
