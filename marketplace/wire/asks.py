"""Asks: providers' signed offers."""

from typing import Annotated

from pydantic import Field

from marketplace.domain.asking import AskState
from marketplace.wire.base import (
    AccountSignature,
    Address,
    Answer,
    Body,
    DecimalText,
    Hash32,
    Lax,
    Time,
)
from marketplace.wire.prices import DecimalPrices
from marketplace.wire.signed import Signed, TypedData
from settlement.orders import Ask


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
    verified: bool = Field(description="whether its hardware was checked; not possible yet")
    reliability: DecimalText = Field(description="share of its provider's leases kept, 0 to 1")
    shared: bool = Field(description="whether shares of a GPU are sold")
    gpu_milli: int = Field(description="thousandths of a GPU")
    prices: DecimalPrices
    unit: str | None = Field(description="what `prices.unit` counts")
    state: Annotated[AskState, Lax]
    reason: str | None
    expires_at: Time
    created_at: Time
