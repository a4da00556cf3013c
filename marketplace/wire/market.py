"""What the market tells of itself; accounts and their API keys; providers' nodes."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from marketplace import limits
from marketplace.domain.drafts import KeyRequest, NodeState
from marketplace.wire.base import (
    AccountSignature,
    Address,
    Answer,
    Body,
    DecimalPrices,
    DecimalText,
    GpuMilli,
    Lax,
    Many,
    Model,
    Money,
    NoticeSeconds,
    Reliability,
    Shared,
    Signed,
    Time,
    TypedData,
    Verified,
)
from settlement.units import UINT32_MAX


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
    rpc_url: str = Field(description="of a node for everybody; empty if the market names none")
    contracts: Contracts
    currency: str = Field(examples=["CMP"])
    decimals: int = Field(examples=[18], description="of the token")
    fee_bps: int = Field(description="the operator's part of each payment, in 1/10,000")
    windows: Windows
    opener: Address
    interval_ms: int
    settle_every_seconds: int
    relay_fee: Money | None = Field(
        default=None, description="for sending a call that you signed; null: it sends none"
    )
    confirmations: int
    server_time: Time


class ReferencePrices(Answer):
    """What real markets ask for, in US dollars per GPU and hour."""

    median: DecimalText
    low: DecimalText
    high: DecimalText


class TierInfo(Answer):
    """A class of GPU. Its prices are for reference only, from `listings` listings of `markets`.

    The tier CPU is of processor, memory and disk without a GPU: it has no model and no prices.
    """

    name: str = Field(examples=["H100-80GB-SXM"])
    model: str = Field(examples=["H100"])
    memory_mib: int
    usd_per_gpu_hour: ReferencePrices | None
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
    verified: Verified
    reliability: Reliability
    shared: Shared
    notice_seconds: NoticeSeconds
    price: DecimalPrices
    gpu_milli: GpuMilli
    free_gpu_milli: int
    free_cpu_milli: int
    free_memory_mib: int
    free_storage_mib: int
    max_seconds: int = Field(description="the longest job it takes")
    expires_at: Time


class BookView(Answer):
    """What rests in the book. `asks` come with the lowest price first."""

    tier: str | None
    asks: Many[BookAsk]
    bids: int = Field(description="how many bids rest")
    depth: Annotated[dict[str, int], Field(description="free thousandths of a GPU, by tier")]


# Accounts and API keys


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
        default=None, ge=1, le=limits.TIME_SECONDS_MAX, description="Unix seconds; null: never"
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


# Nodes: the machines that providers list


Text = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]


GpuUuid = Annotated[
    str, Field(min_length=1, max_length=limits.GPU_UUID_CHARS_MAX, pattern=r"^[A-Za-z0-9._:-]+$")
]


class Runtime(StrEnum):
    """How a node runs jobs."""

    PROCESS = "process"
    DOCKER = "docker"


class Gpu(Answer):
    """One GPU of a node. A simulated one stands in where a machine has none."""

    uuid: GpuUuid
    model: Text = Field(examples=["H100"])
    memory_mib: int = Field(ge=1, le=UINT32_MAX)
    simulated: bool


class NewGpu(Body):
    """One GPU of a node to list."""

    uuid: GpuUuid
    model: Text = Field(examples=["H100"])
    memory_mib: int = Field(ge=1, le=UINT32_MAX)
    simulated: bool = False


class Machine(Model):
    """What a provider says of a machine. `number` is unique among its nodes."""

    number: int = Field(ge=0, le=limits.NODE_NUMBER_MAX)
    name: str = Field(
        min_length=1, max_length=limits.NODE_NAME_CHARS_MAX, pattern=WORD, examples=["rack-1"]
    )
    region: str = Field(
        min_length=1, max_length=limits.REGION_CHARS_MAX, pattern=WORD, examples=["eu-west"]
    )
    tier: str = Field(
        min_length=1, max_length=limits.TIER_CHARS_MAX, pattern=WORD, examples=["H100-80GB-SXM"]
    )
    cpu_milli: int = Field(ge=0, le=UINT32_MAX, description="thousandths of a core")
    memory_mib: int = Field(ge=0, le=UINT32_MAX)
    storage_mib: int = Field(ge=0, le=UINT32_MAX)
    runtime: Annotated[Runtime, Lax]
    shared: Shared
    meter: Address | None = Field(
        default=None, description="key that its agent signs usage with; its asks must name it"
    )


class NewNode(Machine, Body):
    """A machine to list, without GPUs in the tier CPU. `interval_ms` null: the market's."""

    gpus: Many[NewGpu] = Field(max_length=limits.NODE_GPUS_MAX)
    interval_ms: int | None = Field(
        default=None, ge=limits.INTERVAL_MS_MIN, le=limits.INTERVAL_MS_MAX
    )


class Node(Machine, Answer):
    """A machine of a provider."""

    id: str
    provider: Address
    gpus: Many[Gpu]
    gpu_milli: GpuMilli
    simulated: bool = Field(description="whether any of its GPUs is simulated")
    verified: Verified
    reliability: Reliability
    interval_ms: int = Field(description="how often its agent attests usage")
    state: Annotated[NodeState, Lax]
    last_heartbeat_at: Time
    created_at: Time
