"""Jobs: submitted with a signed bid, watched, cancelled."""

from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import BidRow, JobRow, LeaseRow
from marketplace.domain.advance import BuyerCancelled
from marketplace.domain.drafts import bid_problems
from marketplace.domain.job import JobSpec, full_budget
from marketplace.domain.life import JobState, RetryOn
from marketplace.domain.order import Wants
from marketplace.errors import (
    AlreadyExists,
    BudgetExceeded,
    Conflict,
    InsufficientBalance,
    InvalidInput,
    InvalidOrder,
    NotFound,
    Problem,
    Unavailable,
)
from marketplace.limits import LIVE_JOBS_MAX as LIVE_MAX
from marketplace.limits import ORDER_SECONDS_MAX
from marketplace.services.accounts import note_salt
from marketplace.services.common import Principal, account_refusal, money, new_id, to_hex
from marketplace.services.jobstates import tell
from marketplace.services.lives import Lives
from marketplace.services.orderlog import log_bid
from marketplace.services.ports import Clock, EscrowReads, Market
from marketplace.services.quotes import Quotes
from marketplace.wire.jobs import JobOrder
from settlement.eip712 import ZERO_ADDRESS
from settlement.orders import Bid


@dataclass(frozen=True, slots=True)
class Submission:
    """A job and its signed bid, checked as far as no transaction is needed.

    `balance`: free atoms in the escrow. `reserve`: atoms that the job's lease will lock.
    """

    spec: JobSpec
    bid: Bid
    signature: bytes
    balance: int
    reserve: int


@dataclass(frozen=True, slots=True)
class Jobs:
    """What buyers do."""

    market: Market
    clock: Clock
    reads: EscrowReads
    quotes: Quotes
    lives: Lives

    def check(self, caller: Principal, order: JobOrder) -> Submission:
        """Check a submission and ask the chain, before any transaction is begun.

        Raises InvalidJob, InvalidOrder, InvalidSignature, AlreadyExists, ChainError.
        """
        spec, bid, signature = self.quotes.spec(order.job), order.bid, order.signature
        problems = [*bid_problems(bid, spec, self.quotes.tiers), *self._problems(caller, bid)]
        if problems:
            raise InvalidOrder(problems)
        refusal = account_refusal(bid, signature, bid.buyer, self.market, self.reads)
        if refusal is not None:
            raise refusal
        state = self.reads.order_state(bid.buyer, bid.salt)
        if state.used or state.cancelled:
            detail = "has opened a lease before" if state.used else "is cancelled"
            problem = Problem("/bid/salt", detail)
            raise AlreadyExists("the bid's salt is used", problems=[problem])
        balance = self.reads.balance_of(bid.buyer)
        return Submission(spec, bid, signature, balance, self._reserve(spec, bid))

    def _problems(self, caller: Principal, bid: Bid) -> list[Problem]:
        now_s = self.clock() // 1000
        found = []

        def expect(holds: bool, member: str, detail: str) -> None:
            if not holds:
                found.append(Problem(f"/bid/{member}", detail))

        expect(bid.buyer == caller.account, "buyer", "must be the account of the API key")
        expect(bid.witness != ZERO_ADDRESS, "witness", "must be a key that countersigns usage")
        # One that anyone may open could be opened again after its job: its budget is not spent.
        expect(bid.opener == self.market.opener, "opener", f"must be {self.market.opener}")
        expect(bid.expiry > now_s, "expiry", "has passed")
        expect(bid.expiry <= now_s + ORDER_SECONDS_MAX, "expiry", "lies more than 400 days ahead")
        expect(bid.max_fee_bps >= self.market.fee_bps, "maxFeeBps", "is below the market's fee")
        return found

    def submit(self, store: Store, caller: Principal, order: Submission) -> JobRow:
        """Store a job, its bid and its row of the order log. Of a refused one nothing is stored.

        Raises AlreadyExists, Conflict, InvalidInput, InsufficientBalance, BudgetExceeded.
        """
        now_ms = self.clock()
        note_salt(store, order.bid.buyer, order.bid.salt, "/bid/salt", now_ms)
        self._check_inputs(store, caller, order.spec)
        if store.jobs.live_count(caller.account) >= LIVE_MAX:
            raise Conflict(f"an account has at most {LIVE_MAX} live jobs; let some end first")
        reserve = order.reserve
        free = order.balance - store.jobs.reserved_atoms(caller.account)
        if free < reserve:
            facts = {
                "required": money(self.market, reserve),
                "balance": money(self.market, max(0, free)),
                "shortfall": money(self.market, reserve - free),
            }
            raise InsufficientBalance("the free escrow balance is below the lock", facts=facts)
        charge = self._charge_key(store, caller, order, reserve)
        job_id, bid_id = new_id("job"), new_id("bid")
        spec = order.spec
        bid = BidRow(
            id=bid_id,
            account=caller.account,
            job_id=job_id,
            hash=to_hex(order.bid.struct_hash()),
            salt=str(order.bid.salt),
            message=order.bid.to_message(),
            signature=to_hex(order.signature),
            expiry_s=order.bid.expiry,
            created_ms=now_ms,
        )
        try:
            store.bids.add(bid)
        except AlreadyExists as error:
            problem = Problem("/bid/salt", "is used by another bid of yours")
            raise AlreadyExists("the bid's salt is used", problems=[problem]) from error
        job = _new_job(job_id, bid_id, caller, spec, (reserve, charge), now_ms)
        store.jobs.add(job)
        log_bid(store, bid, job, Wants.of(spec), order.bid.budget, now_ms)
        tell(store, job.id, job, now_ms)
        return job

    def _check_inputs(self, store: Store, caller: Principal, spec: JobSpec) -> None:
        if spec.inputs is None:
            return
        blob = store.blobs.of(caller.account, spec.inputs.sha256)
        if blob is None:
            detail = "is no blob of yours: upload it first with POST /v1/blobs"
            raise InvalidInput([Problem("/job/inputs/sha256", detail)])
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
        self,
        store: Store,
        caller: Principal,
        states: tuple[str, ...],
        limit: int,
        before: str | None,
    ) -> list[JobRow]:
        """The caller's jobs, newest first."""
        rows = store.jobs.page(caller.account, states, limit, before)
        store.leases.hold(row.lease_id for row in rows)
        store.bids.hold(row.bid_id for row in rows)
        return rows

    def cancel(self, store: Store, caller: Principal, job_id: str) -> JobRow:
        """Begin to end a job: off the book at once, or by asking its agent to stop.

        Raises NotFound, Unavailable; Conflict if it has ended.
        """
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


def _new_job(
    job_id: str,
    bid_id: str,
    caller: Principal,
    spec: JobSpec,
    reserve_and_charge: tuple[int, int],
    now_ms: int,
) -> JobRow:
    reserve, charge = reserve_and_charge
    return JobRow(
        id=job_id,
        account=caller.account,
        key_id=caller.key_id,
        bid_id=bid_id,
        name=spec.name,
        state=JobState.QUEUED,
        spec=spec.to_json(),
        job_hash=to_hex(spec.hash()),
        reserve=reserve,
        key_charge=charge,
        created_ms=now_ms,
        rest_until_ms=now_ms + spec.start_deadline_seconds * 1000,
    )
