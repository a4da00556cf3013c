"""Quotes, plans and bids: what a job would get, and what its buyer signs for it."""

from typing import Self

from pydantic import Field

from marketplace.wire.base import (
    AccountSignature,
    Address,
    Answer,
    Body,
    DecimalText,
    Hash32,
    Many,
    Money,
    Time,
)
from marketplace.wire.explanation import NoMatch
from marketplace.wire.jobfile import JobDocument, JobFile
from marketplace.wire.prices import DecimalPrices
from marketplace.wire.signed import Signed, TypedData
from settlement.orders import Bid


class QuoteRequest(Body):
    """A job to quote."""

    job: JobFile


class MatchingAsk(Answer):
    """One ask that fits a job now, and what it would cost there at most.

    `funded_seconds` is the time that `max_cost` pays for, the allowed time to start included.
    """

    ask_id: str
    provider: Address
    tier: str
    region: str
    simulated: bool
    price: DecimalPrices
    rate_per_hour: DecimalText = Field(description="tokens per hour, everything included")
    max_cost: Money
    funded_seconds: int
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


class Plan(QuoteAnswer):
    """What buying a job would do. `price`, `rate_per_hour` and `max_cost` are the best match's."""

    price: DecimalPrices | None
    rate_per_hour: DecimalText | None
    max_cost: Money
    balance: Money = Field(description="free in the escrow, less what other jobs will lock")
    shortfall: Money = Field(description="what the balance lacks")

    @classmethod
    def of(cls, quote: QuoteAnswer, free: int, currency: str, decimals: int) -> Self:
        """The plan that follows from a quote. `free` atoms are left, below zero if other jobs will
        lock more than there is.
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
