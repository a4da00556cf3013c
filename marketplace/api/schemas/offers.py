"""Shapes of keys, accounts, tiers, nodes, asks, the book and quotes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from marketplace.api.schemas.base import (
    AccountSignature,
    Address,
    Answer,
    Body,
    Message,
    Money,
    Page,
    Prepared,
)

MIB_MAX = 2**32 - 1
SECONDS_MAX = 253_402_300_799  # the end of the year 9999
Text = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]
Word = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class KeyDraft(Body):
    """What an API key should allow."""

    account: Address
    name: Word = Field(examples=["laptop"])
    scopes: list[str] = Field(min_length=1, max_length=3, examples=[["buyer"]])
    expires_at: int | None = Field(None, ge=1, le=SECONDS_MAX, description="Unix seconds")
    spend_cap: str | None = Field(None, examples=["20"], description="decimal amount of the token")


class SignedKeyRequest(Body):
    """A key request, signed by its account."""

    message: Message
    signature: AccountSignature


class ApiKey(Answer):
    """An API key, without the key."""

    id: str
    account: str
    name: str
    scopes: list[str]
    hint: str = Field(description="the key's last four characters")
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    spend_cap: Money | None
    spent: Money


class NewApiKey(ApiKey):
    """An API key with the key itself: this answer is the only one that has it."""

    key: str = Field(examples=["coul_…"])


class KeyPage(Page):
    """Keys, newest first."""

    data: list[ApiKey]


class Account(Answer):
    """Money of one account in the escrow."""

    address: str
    free: Money
    locked: Money
    reserved: Money = Field(description="what jobs will lock that the chain does not show yet")
    next_salt: int


class Tier(Answer):
    """A class of GPU, with reference prices of real markets."""

    name: str
    model: str
    memory_mib: int
    usd_per_gpu_hour: dict[str, str]
    listings: int
    markets: list[str]


class TierList(Answer):
    """Every tier of the market."""

    data: list[Tier]
    source: str


class GpuIn(Body):
    """One GPU of a node."""

    uuid: str = Field(min_length=1, max_length=96, pattern=r"^[A-Za-z0-9._:-]+$")
    model: Text
    memory_mib: int = Field(ge=1, le=MIB_MAX)
    simulated: bool = False


class NodeIn(Body):
    """A machine to list."""

    number: int = Field(ge=0, le=2**24 - 1, description="unique among the provider's nodes")
    name: Word
    region: Word = Field(examples=["eu-west"])
    tier: Word = Field(examples=["H100-80GB-SXM"])
    gpus: list[GpuIn] = Field(min_length=1, max_length=64)
    cpu_milli: int = Field(ge=0, le=2**32 - 1)
    memory_mib: int = Field(ge=0, le=MIB_MAX)
    storage_mib: int = Field(ge=0, le=MIB_MAX)
    runtime: str = Field(pattern=r"^(process|docker)$")
    shared: bool = Field(description="whether shares of a GPU are sold")
    interval_ms: int | None = Field(None, ge=100, le=600_000)


class Node(Answer):
    """A machine of a provider."""

    id: str
    provider: str
    number: int
    name: str
    region: str
    tier: str
    gpus: list[dict[str, Any]]
    gpu_milli: int
    cpu_milli: int
    memory_mib: int
    storage_mib: int
    runtime: str
    shared: bool
    simulated: bool
    verified: bool = Field(description="whether its hardware was checked; not possible yet")
    reliability: str = Field(description="share of its provider's leases kept, 0 to 1")
    interval_ms: int
    state: str = Field(description="active, draining or away")
    last_heartbeat_at: str | None
    created_at: str


class NodePage(Page):
    """Nodes, newest first."""

    data: list[Node]


class AskDraft(Body):
    """Terms to write an ask out from; prices are decimal text of the token."""

    node_id: str
    meter: str = Field(description="address of the hot key that signs usage")
    prices: dict[str, str | None] = Field(examples=[{"gpu_hour": "2.50"}])
    unit: str | None = None
    min_duration: str | None = None
    max_duration: str | None = Field(None, examples=["6h"])
    start_limit: str | None = None
    expires_in: str | None = None
    max_fee_bps: int | None = None
    opener: str | None = None


class PreparedAsk(Prepared):
    """An ask to check and sign."""

    hash: str
    ask: Message


class SignedAsk(Body):
    """An ask and its provider's signature."""

    ask: Message
    signature: AccountSignature


class Ask(Answer):
    """An ask as everyone sees it."""

    id: str
    ask: Message
    signature: str
    hash: str
    node_id: str
    provider: str
    meter: str
    tier: str
    region: str
    runtime: str
    simulated: bool
    verified: bool = Field(description="whether its hardware was checked; not possible yet")
    reliability: str = Field(description="share of its provider's leases kept, 0 to 1")
    shared: bool
    gpu_milli: int
    prices: dict[str, str]
    unit: str | None
    state: str = Field(description="open, cancelled, suspended or expired")
    reason: str | None
    expires_at: str
    created_at: str


class AskPage(Page):
    """Asks, newest first."""

    data: list[Ask]


class BookView(Answer):
    """What rests in the book."""

    tier: str | None
    asks: list[dict[str, Any]] = Field(description="best price first")
    bids: int = Field(description="resting bids")
    depth: dict[str, int] = Field(description="GPUs (thousandths) that are free, per tier")


class QuoteIn(Body):
    """A job to quote: the job file after packing."""

    job: dict[str, Any]


class Match(Answer):
    """One ask that fits, at its price."""

    ask_id: str
    provider: str
    tier: str
    region: str
    simulated: bool
    price: dict[str, str]
    rate: str = Field(description="1e-12 token per hour")
    rate_per_hour: str = Field(description="token per hour")
    max_cost: Money
    funded_seconds: int
    budget_limited: bool


class Quote(Answer):
    """What fits a job now, best first; else why nothing does."""

    matches: list[Match]
    no_match: dict[str, Any] | None
