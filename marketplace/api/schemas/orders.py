"""Top-ups and cancels."""

from __future__ import annotations

from pydantic import Field

from marketplace.api.schemas.base import Address, Answer, Body, Message, Money, Signature


class Transaction(Answer):
    """A call for the caller's own account to send. `gas`: more than it takes."""

    call: str = Field(examples=["top_up"])
    to: Address
    data: str = Field(pattern="^0x[0-9a-f]*$", examples=["0x0a2f"])
    gas: int


class TopUp(Answer):
    """What to send to run a job longer, and what it locks at most."""

    lease_id: str
    transaction: Transaction
    lock: Money


class TopUpIn(Body):
    """How much longer a job may run."""

    duration: str = Field(max_length=20, examples=["30m"])


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
