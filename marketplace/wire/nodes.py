"""Nodes: the machines that providers list."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from marketplace.domain.asking import NodeState
from marketplace.limits import (
    GPU_UUID_CHARS_MAX,
    INTERVAL_MS_MAX,
    INTERVAL_MS_MIN,
    NODE_GPUS_MAX,
    NODE_NAME_CHARS_MAX,
    NODE_NUMBER_MAX,
    REGION_CHARS_MAX,
    TIER_CHARS_MAX,
)
from marketplace.wire.base import Address, Answer, Body, DecimalText, Lax, Many, Model, Time
from marketplace.wire.keys import WORD
from settlement.units import UINT32_MAX

Text = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]


class Runtime(StrEnum):
    """How a node runs jobs."""

    PROCESS = "process"
    DOCKER = "docker"


class Gpu(Answer):
    """One GPU of a node. A simulated one stands in where a machine has none."""

    uuid: str = Field(min_length=1, max_length=GPU_UUID_CHARS_MAX, pattern=r"^[A-Za-z0-9._:-]+$")
    model: Text = Field(examples=["H100"])
    memory_mib: int = Field(ge=1, le=UINT32_MAX)
    simulated: bool


class NewGpu(Body):
    """One GPU of a node to list."""

    uuid: str = Field(min_length=1, max_length=GPU_UUID_CHARS_MAX, pattern=r"^[A-Za-z0-9._:-]+$")
    model: Text = Field(examples=["H100"])
    memory_mib: int = Field(ge=1, le=UINT32_MAX)
    simulated: bool = False


class Machine(Model):
    """What a provider says of a machine. `number` is unique among its nodes."""

    number: int = Field(ge=0, le=NODE_NUMBER_MAX)
    name: str = Field(
        min_length=1, max_length=NODE_NAME_CHARS_MAX, pattern=WORD, examples=["rack-1"]
    )
    region: str = Field(
        min_length=1, max_length=REGION_CHARS_MAX, pattern=WORD, examples=["eu-west"]
    )
    tier: str = Field(
        min_length=1, max_length=TIER_CHARS_MAX, pattern=WORD, examples=["H100-80GB-SXM"]
    )
    cpu_milli: int = Field(ge=0, le=UINT32_MAX, description="thousandths of a core")
    memory_mib: int = Field(ge=0, le=UINT32_MAX)
    storage_mib: int = Field(ge=0, le=UINT32_MAX)
    runtime: Annotated[Runtime, Lax]
    shared: bool = Field(description="whether shares of a GPU are sold")


class NewNode(Machine, Body):
    """A machine to list. `interval_ms` null: the market's."""

    gpus: Many[NewGpu] = Field(min_length=1, max_length=NODE_GPUS_MAX)
    interval_ms: int | None = Field(default=None, ge=INTERVAL_MS_MIN, le=INTERVAL_MS_MAX)


class Node(Machine, Answer):
    """A machine of a provider."""

    id: str
    provider: Address
    gpus: Many[Gpu]
    gpu_milli: int = Field(description="thousandths of a GPU")
    simulated: bool = Field(description="whether any of its GPUs is simulated")
    verified: bool = Field(description="whether its hardware was checked; not possible yet")
    reliability: DecimalText = Field(description="share of its provider's leases kept, 0 to 1")
    interval_ms: int = Field(description="how often its agent attests usage")
    state: Annotated[NodeState, Lax]
    last_heartbeat_at: Time
    created_at: Time
