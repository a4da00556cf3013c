"""Shapes that many routes share."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

Address = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$", examples=["0x" + "ab" * 20])]
Signature = Annotated[
    str,
    Field(
        pattern=r"^0x[0-9a-fA-F]{130}$",
        description="65 bytes r ‖ s ‖ v, v 27 or 28, low s",
        examples=["0x" + "11" * 64 + "1b"],
    ),
]
AccountSignature = Annotated[
    str,
    Field(
        pattern=r"^0x(?:[0-9a-fA-F]{2})*$",
        max_length=2 + 2 * 2_048,  # calldata that leaves the account's contract gas to answer
        description="65 bytes r ‖ s ‖ v of the account's key; where the account is a contract, "
        "what it accepts by ERC-1271",
        examples=["0x" + "11" * 64 + "1b"],
    ),
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=["e3" * 32])]
Id = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["job_0190c0de0000700080000000000000aa"])
]
Words = Query(max_length=160, pattern=r"^[A-Za-z0-9._,-]*$", description="by comma")
Message = Annotated[
    dict[str, Any], Field(description="EIP-712 message in its JSON form, camelCase members")
]


DEPTH_MAX = 32


def check_json(value: Any, depth: int = 0) -> None:
    """Raise ValueError for what JSON can carry and neither database nor signature can."""
    if depth > DEPTH_MAX:
        raise ValueError(f"is nested deeper than {DEPTH_MAX} levels")
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("holds half of a surrogate pair, which is no text")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that JSON does not have")
    if isinstance(value, dict):
        for name, member in value.items():
            check_json(name, depth + 1)
            check_json(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            check_json(member, depth + 1)


class Body(BaseModel):
    """A request body: unknown members are refused, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _is_sound(cls, value: Any) -> Any:
        check_json(value)
        return value


class Answer(BaseModel):
    """An answer; members may be added to it over time."""

    model_config = ConfigDict(extra="allow")


class Money(Answer):
    """An amount of the market's token."""

    amount: str = Field(examples=["1.234567"], description="decimal text, for people")
    currency: str = Field(examples=["CMP"])
    atoms: str = Field(examples=["1234567000000000000"], description="integer, for machines")


class FieldProblem(Answer):
    """One thing wrong with the input."""

    pointer: str = Field(examples=["/job/max_duration"], description="RFC 6901")
    detail: str


class ProblemDocument(Answer):
    """RFC 9457 problem document; GET /v1/problems lists every code."""

    type: str = Field(examples=["/v1/problems/invalid_signature"])
    title: str
    status: int
    detail: str
    instance: str
    code: str = Field(examples=["invalid_signature"])
    request_id: str
    retryable: bool
    errors: list[FieldProblem]


class ProblemKind(Answer):
    """One stable code."""

    type: str
    code: str
    status: int
    title: str
    meaning: str
    retryable: bool


class Usage(Answer):
    """Cumulative usage."""

    ms: int
    egress_mib: int
    units: int


class Prepared(Answer):
    """A document to check and sign."""

    typed_data: dict[str, Any] = Field(description="what eth_signTypedData_v4 takes")
    message: Message


class Page(Answer):
    """One page of a list."""

    has_more: bool
    next_cursor: str | None = Field(description="pass as ?cursor= for the next page")
