"""API keys and accounts."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from marketplace.domain.key_request import KeyRequest
from marketplace.limits import TIME_SECONDS_MAX
from marketplace.wire.base import AccountSignature, Address, Answer, Body, Lax, Many, Money, Time
from marketplace.wire.signed import Signed, TypedData

WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Scope(StrEnum):
    """What an API key may be used for."""

    BUYER = "buyer"
    PROVIDER = "provider"
    OPERATOR = "operator"


ScopeText = Annotated[Scope, Lax]


class KeyDraft(Body):
    """What a new API key should allow."""

    account: Address
    name: str = Field(min_length=1, max_length=32, pattern=WORD, examples=["laptop"])
    scopes: Many[ScopeText] = Field(min_length=1, max_length=3, examples=[["buyer"]])
    expires_at: int | None = Field(
        default=None, ge=1, le=TIME_SECONDS_MAX, description="Unix seconds; null: never"
    )
    spend_cap: str | None = Field(
        default=None, max_length=100, examples=["20"], description="decimal amount of the token"
    )


class PreparedKey(Answer):
    """A key request to check and sign."""

    typed_data: TypedData
    message: Signed[KeyRequest]


class SignedKeyRequest(Body):
    """A key request and its account's signature."""

    message: Signed[KeyRequest]
    signature: AccountSignature


class ApiKey(Answer):
    """An API key, without the key itself."""

    id: str
    account: Address
    name: str
    scopes: Many[ScopeText]
    hint: str = Field(description="the key's last four characters")
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    spend_cap: Money | None
    spent: Money = Field(description="what its jobs have cost, or may still cost")


class NewApiKey(ApiKey):
    """An API key with the key itself. No later answer has it."""

    key: str = Field(examples=["coul_…"], repr=False)


class Account(Answer):
    """One account's money in the escrow. `next_salt` is the salt of its next order."""

    address: Address
    free: Money
    locked: Money
    reserved: Money = Field(description="what its jobs will lock and the chain does not show yet")
    next_salt: int
