"""What the market tells of itself: config, health, tiers, the book."""

from typing import Annotated, Literal

from pydantic import Field

from marketplace.wire.base import Address, Answer, DecimalText, Many, Time
from marketplace.wire.prices import DecimalPrices


class Health(Answer):
    """Whether the server works, and how far it has come with the chain and the order log."""

    status: Literal["ok"]
    chain_block: int | None = Field(description="the newest block the server has read")
    order_log: int = Field(description="the newest entry of the order log")


class Contracts(Answer):
    """Addresses of the market's contracts."""

    token: Address = Field(validation_alias="ComputeToken", serialization_alias="ComputeToken")
    escrow: Address = Field(validation_alias="ComputeEscrow", serialization_alias="ComputeEscrow")


class Windows(Answer):
    """For how many seconds after its end a lease may still be settled."""

    settle_seconds: int


class MarketConfig(Answer):
    """What a client must know before it signs anything for this market.

    `opener` is the only account that opens leases here. The relayer settles every
    `settle_every_seconds`; agents attest every `interval_ms`, unless their node says otherwise.
    """

    chain_id: int
    rpc_url: str
    contracts: Contracts
    currency: str = Field(examples=["CMP"])
    decimals: int = Field(examples=[18], description="of the token")
    fee_bps: int = Field(description="the operator's part of each payment, in 1/10,000")
    windows: Windows
    opener: Address
    interval_ms: int
    settle_every_seconds: int
    confirmations: int
    server_time: Time


class ReferencePrices(Answer):
    """What real markets ask for, in US dollars per GPU and hour."""

    median: DecimalText
    low: DecimalText
    high: DecimalText


class TierInfo(Answer):
    """A class of GPU. Its prices are for reference only, from `listings` listings of `markets`."""

    name: str = Field(examples=["H100-80GB-SXM"])
    model: str = Field(examples=["H100"])
    memory_mib: int
    usd_per_gpu_hour: ReferencePrices
    listings: int
    markets: Many[str]


class TierList(Answer):
    """Every tier of the market."""

    data: Many[TierInfo]
    source: str = Field(description="where the reference prices come from")


class BookAsk(Answer):
    """An ask in the book, and how much of it is free now."""

    ask_id: str
    provider: Address
    tier: str
    region: str
    runtime: str
    simulated: bool
    verified: bool = Field(description="whether its hardware was checked; not possible yet")
    reliability: DecimalText = Field(description="share of its provider's leases kept, 0 to 1")
    shared: bool = Field(description="whether shares of a GPU are sold")
    price: DecimalPrices
    gpu_milli: int = Field(description="thousandths of a GPU")
    free_gpu_milli: int
    max_seconds: int = Field(description="the longest job it takes")
    expires_at: Time


class BookView(Answer):
    """What rests in the book. `asks` come with the lowest price first."""

    tier: str | None
    asks: Many[BookAsk]
    bids: int = Field(description="how many bids rest")
    depth: Annotated[dict[str, int], Field(description="free thousandths of a GPU, by tier")]
