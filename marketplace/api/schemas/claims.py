"""Claims, rulings, top-ups and cancels."""

from __future__ import annotations

from pydantic import Field

from marketplace.api.schemas.base import Address, Answer, Body, Message, Money, Page, Signature


class Claim(Answer):
    """Time that a provider claimed without a countersignature. `until`: the last moment to contest
    it, or once contested to rule on it. What became of it is null until it is closed.
    """

    lease_id: str
    job_id: str
    buyer: Address
    provider: Address
    arbiter: Address
    state: str = Field(examples=["claimed"], description="claimed, contested, closed")
    ms: int = Field(description="cumulative time claimed")
    settled_ms: int
    amount: Money
    bond: Money = Field(description="what each side puts up")
    contested: bool
    until: str
    awarded: Money | None
    bonds_to_provider: Money | None
    refunded: Money | None = Field(description="of claim and bonds to the buyer")


class ClaimPage(Page):
    """Claims, newest first."""

    data: list[Claim]


class Transaction(Answer):
    """A call for the caller's own account to send. `gas`: more than it takes."""

    call: str = Field(examples=["claim"])
    to: Address
    data: str = Field(pattern="^0x[0-9a-f]*$", examples=["0x0a2f"])
    gas: int


class Transactions(Answer):
    """What to send, one after the other."""

    lease_id: str
    transactions: list[Transaction]


class TopUp(Transactions):
    """What to send to run a job longer, and what it locks at most."""

    lock: Money


class ClaimIn(Body):
    """Cumulative time to claim; without it, all that was attested and may be claimed."""

    ms: int | None = Field(None, ge=1, lt=2**40, examples=[90_000])


class TopUpIn(Body):
    """How much longer a job may run."""

    duration: str = Field(max_length=20, examples=["30m"])


class RulingDraft(Body):
    """What of a contested claim the provider gets, in tokens; of both bonds the same part."""

    award: str = Field(max_length=80, examples=["0.05"])


class RulingIn(Body):
    """A Ruling and its arbiter's signature."""

    ruling: Message
    signature: Signature


class CancelDraft(Body):
    """Which order to make void: an ask, a bid or a job; null: every order so far."""

    order_id: str | None = Field(None, max_length=64, examples=["ask_0190c0de0000700080000000aa"])


class CancelIn(Body):
    """A Cancel and its account's signature."""

    cancel: Message
    signature: Signature


class Cancelled(Answer):
    """What was taken off the book; the chain follows."""

    cancel: Message
    orders: list[str]
