"""What is signed and placed: asks, bids with their quotes and plans, cancels."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field

from marketplace.domain.drafts import AskState
from marketplace.wire.base import (
    AccountSignature,
    Address,
    Answer,
    Body,
    DecimalPrices,
    DecimalText,
    GpuMilli,
    Hash32,
    HexBytes,
    Lax,
    Many,
    Money,
    NoticeSeconds,
    RatePerHour,
    Reliability,
    Shared,
    Signed,
    Time,
    TxHash,
    TypedData,
    Verified,
)
from marketplace.wire.jobfile import JobDocument, JobFile
from marketplace.wire.problems import NoMatch
from settlement.orders import Ask, Bid, Cancel, TopUp, Withdraw

# Asks


class AskDraft(Body):
    """Terms for the server to write an ask from. Durations are texts such as `6h`."""

    node_id: str = Field(max_length=64)
    meter: str = Field(max_length=64, description="address of the hot key that signs usage")
    prices: DecimalPrices
    unit: str | None = Field(default=None, max_length=64, description="what `prices.unit` counts")
    min_duration: str | None = Field(default=None, max_length=20, description="null: 0s")
    max_duration: str | None = Field(default=None, max_length=20, examples=["6h"])
    start_limit: str | None = Field(
        default=None, max_length=20, description="how long a job may take to start; null: 10m"
    )
    expires_in: str | None = Field(default=None, max_length=20, examples=["30d"])
    max_fee_bps: int | None = Field(default=None, description="null: the market's fee")
    opener: str | None = Field(default=None, max_length=64, description="null: the market's")
    no_gpu: bool | None = Field(default=None, description="sell the node without its GPUs")
    interruptible: bool | None = Field(
        default=None, description="whether the node may be taken back after `notice`"
    )
    notice: str | None = Field(default=None, max_length=20, examples=["5m"])


class PreparedAsk(Answer):
    """An ask to check and sign. `hash` is its EIP-712 struct hash."""

    typed_data: TypedData
    ask: Signed[Ask]
    hash: Hash32


class SignedAsk(Body):
    """An ask and its provider's signature."""

    ask: Signed[Ask]
    signature: AccountSignature


class AskInfo(Answer):
    """A signed ask, and what the market knows about it."""

    id: str
    ask: Signed[Ask]
    signature: AccountSignature
    hash: Hash32
    node_id: str
    provider: Address
    meter: Address
    tier: str
    region: str
    runtime: str
    simulated: bool
    verified: Verified
    reliability: Reliability
    shared: Shared
    notice_seconds: NoticeSeconds
    gpu_milli: GpuMilli
    prices: DecimalPrices
    unit: str | None = Field(description="what `prices.unit` counts")
    state: Annotated[AskState, Lax]
    reason: str | None
    expires_at: Time
    created_at: Time


# Quotes, plans and bids


class QuoteRequest(Body):
    """A job to quote."""

    job: JobFile


class MatchingAsk(Answer):
    """One ask that fits a job now, and what it would cost there at most.

    `paid_seconds` is the time that `max_cost` pays for. It begins when the job is ready, at the
    latest `start_limit_seconds` after the lease opens.
    """

    ask_id: str
    provider: Address
    meter: Address = Field(description="the provider's key that signs usage")
    tier: str
    region: str
    simulated: bool
    price: DecimalPrices
    rate_per_hour: RatePerHour
    max_cost: Money
    paid_seconds: int
    start_limit_seconds: int
    notice_seconds: NoticeSeconds
    budget_limited: bool = Field(description="whether the budget ends before the duration does")


class QuoteAnswer(Answer):
    """Every ask that fits a job now, best first; else why none does."""

    matches: Many[MatchingAsk]
    no_match: NoMatch | None


class BidDraft(Body):
    """A job and the key that will witness it."""

    job: JobFile
    witness: Address
    account: Address | None = Field(
        default=None, description="if given, must be the API key's account"
    )


class Party(StrEnum):
    """Who can act on a lease. Whoever speaks for a purse is its buyer."""

    BUYER = "buyer"
    WITNESS = "witness"
    PROVIDER = "provider"
    METER = "meter"


class Plan(QuoteAnswer):
    """What buying a job would do, and who may do what with its leases. `price`, `rate_per_hour` and
    `max_cost` are the best match's.
    """

    price: DecimalPrices | None
    rate_per_hour: DecimalText | None
    max_cost: Money
    balance: Money = Field(description="free in the escrow, less what other jobs will lock")
    shortfall: Money = Field(description="what the balance lacks")
    opener: Address = Field(description="the only account that opens leases from the bid")
    witness: Address = Field(description="nothing is paid without its signature")
    may_stop: Many[Annotated[Party, Lax]] = Field(description="what ran until then stays payable")
    may_open_again: Many[Annotated[Party, Lax]] = Field(
        description="who may let the bid open one more lease after the last"
    )
    max_paid: Money = Field(
        description="the bid's budget: the most that all its leases cost together, whatever "
        "happens. It goes to providers whose asks the bid accepts"
    )
    max_fee_bps: int = Field(description="the most of it that the market keeps, in 1/10,000")

    @classmethod
    def of(cls, quote: QuoteAnswer, bid: Bid, free: int, currency: str, decimals: int) -> Self:
        """The plan that follows from a quote for a bid. `free` atoms are left, below zero if other
        jobs will lock more than there is.
        """
        best = quote.matches[0] if quote.matches else None
        cost = best.max_cost.atoms if best else 0
        return cls(
            matches=quote.matches,
            no_match=quote.no_match,
            price=best.price if best else None,
            rate_per_hour=best.rate_per_hour if best else None,
            max_cost=Money.of(cost, currency, decimals),
            balance=Money.of(max(0, free), currency, decimals),
            shortfall=Money.of(max(0, cost - free), currency, decimals),
            opener=bid.opener,
            witness=bid.witness,
            may_stop=tuple(Party),
            may_open_again=(Party.BUYER, Party.WITNESS),
            max_paid=Money.of(bid.budget, currency, decimals),
            max_fee_bps=bid.max_fee_bps,
        )


class PreparedBid(Answer):
    """A bid to check and sign, and the plan. `job` is the spec whose hash the bid names."""

    typed_data: TypedData
    bid: Signed[Bid]
    hash: Hash32
    job_hash: Hash32
    job: JobDocument
    plan: Plan


class BidInfo(Answer):
    """A signed bid and the job it is for."""

    id: str
    account: Address
    job_id: str
    bid: Signed[Bid]
    signature: AccountSignature
    hash: Hash32
    created_at: Time


# Cancels, and transactions that an account sends itself


TOP_UP_GAS = 300_000  # more than a top-up takes


class Transaction(Answer):
    """A call for the caller's own account to send. `gas` is more than it takes."""

    call: str = Field(examples=["top_up"])
    to: Address
    data: HexBytes
    gas: int


CALL_ID = "call_{}"  # with the call's number, which is of its account


class CallState(StrEnum):
    """How far a signed call has come: `sent` may still be mined, `confirmed` is in a block, `final`
    is deep enough; `failed`: it did nothing."""

    PENDING = "pending"
    SENT = "sent"
    CONFIRMED = "confirmed"
    FINAL = "final"
    FAILED = "failed"


class SignedWithdrawal(Body):
    """A withdrawal for the relayer to send, and its account's signature."""

    call: Signed[Withdraw]
    signature: AccountSignature


class SignedTopUp(Body):
    """A top-up for the relayer to send, and the signature of its buyer, or of a purse's owner."""

    call: Signed[TopUp]
    signature: AccountSignature


class RelayedCall(Answer):
    """A signed call that the relayer sends. `id` is `call_` and the call's number."""

    id: str = Field(examples=["call_7"])
    call: str = Field(examples=["withdraw"])
    state: Annotated[CallState, Lax]
    tx_hash: TxHash | None = Field(description="of the newest transaction that carries it")
    error: str | None = Field(description="why it failed")
    created_at: Time


class CancelDraft(Body):
    """Which order to make void: an ask, a bid or a job; null: every order so far."""

    order_id: str | None = Field(
        default=None, max_length=64, examples=["ask_0190c0de0000700080000000aa"]
    )


class PreparedCancel(Answer):
    """A Cancel to check and sign."""

    typed_data: TypedData
    cancel: Signed[Cancel]


class SignedCancel(Body):
    """A Cancel and its account's signature."""

    cancel: Signed[Cancel]
    signature: AccountSignature


class CancelledOrders(Answer):
    """Ids of the orders that a Cancel took off the book. The chain follows."""

    cancel: Signed[Cancel]
    orders: Many[str]
