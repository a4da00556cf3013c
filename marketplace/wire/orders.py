"""Cancels, and transactions that an account sends itself."""

from typing import Annotated

from pydantic import Field

from marketplace.wire.base import AccountSignature, Address, Answer, Body, Hex, Many
from marketplace.wire.signed import Signed, TypedData
from settlement.orders import Cancel


class Transaction(Answer):
    """A call for the caller's own account to send. `gas` is more than it takes."""

    call: str = Field(examples=["top_up"])
    to: Address
    data: Annotated[bytes, Hex()]
    gas: int


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


class Cancelled(Answer):
    """Ids of the orders that a Cancel took off the book. The chain follows."""

    cancel: Signed[Cancel]
    orders: Many[str]
