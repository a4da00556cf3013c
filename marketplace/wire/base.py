"""What every wire model stands on: requests, answers, money, times, bytes, pages.

A model holds typed Python values and reads and writes the JSON of the HTTP API: atoms and rates are
`int` here and decimal text there, times are aware `datetime` here and RFC 3339 UTC text there.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final, Generic, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    Strict,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from marketplace.domain.pricing import from_scaled
from marketplace.errors import Problem

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)
_INTEGER = re.compile(r"(0|[1-9][0-9]{0,77})\Z")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,59})(\.[0-9]{1,36})?\Z")
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*\Z")


def wrong(detail: str, pointer: str = "") -> PydanticCustomError:
    """What a validator raises: a sentence, and where below the value it is wrong (RFC 6901)."""
    return wrong_at([Problem(pointer, detail)])


def wrong_at(problems: Sequence[Problem]) -> PydanticCustomError:
    """Like `wrong`, for several mistakes in one value."""
    text = "; ".join(f"{p.pointer}: {p.detail}" if p.pointer else p.detail for p in problems)
    return PydanticCustomError("wire", "{text}", {"text": text, "problems": tuple(problems)})


# Models. `Lax` lets a strict model read an enum from its text.

Lax: Final = Strict(False)
Many = Annotated[tuple[T, ...], Lax]
"""A list in JSON, a tuple in Python."""


class Model(BaseModel):
    """Base of everything that travels under /v1: frozen, nothing coerced."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        serialize_by_alias=True,
        validate_by_alias=True,
        validate_by_name=True,
    )

    def to_json(self) -> dict[str, Any]:
        """The JSON form, as plain dicts, lists and texts."""
        return self.model_dump(mode="json")


class Body(Model):
    """A request's body: members it does not know are refused."""

    model_config = ConfigDict(extra="forbid")


class Answer(Model):
    """An answer. Members may be added over time, so a client ignores those it does not know."""

    model_config = ConfigDict(extra="ignore")


class Page(Answer, Generic[T]):
    """One page of a list. Pass `next_cursor` as `?cursor=` to get the next page."""

    data: Many[T]
    has_more: bool
    next_cursor: str | None

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """`JobPage` for a page of jobs."""
        return f"{getattr(params[0], '__name__', 'Any')}Page"


def is_none(value: object) -> bool:
    """For `Field(exclude_if=…)`: a member that JSON leaves out if there is nothing to say."""
    return value is None


def _read_time(value: object) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if isinstance(value, str) and _TIME.match(value):
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise wrong("must be an RFC 3339 time with a time zone, such as 2027-01-15T08:00:00.000Z")


def time_text(moment: datetime) -> str:
    """An aware time as RFC 3339 UTC text with milliseconds and `Z`."""
    utc = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return utc.replace("+00:00", "Z")


def time_of(ms: int) -> datetime:
    """Unix milliseconds as an aware time."""
    return _EPOCH + timedelta(milliseconds=ms)


def time_or_none(ms: int | None) -> datetime | None:
    """Unix milliseconds as an aware time, if there are any."""
    return None if ms is None else time_of(ms)


Time = Annotated[
    datetime,
    BeforeValidator(_read_time),
    PlainSerializer(time_text, return_type=str, when_used="json"),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "examples": ["2027-01-15T08:00:00.000Z"]}
    ),
]
"""An aware datetime; in JSON RFC 3339 UTC with milliseconds and `Z`."""


def _read_integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and _INTEGER.match(value):
        return int(value)
    raise wrong('must be a whole number as decimal text, such as "1500"')


def _read_decimal(value: object) -> Decimal:
    if isinstance(value, Decimal) and value.is_finite():
        return value
    if isinstance(value, str) and _DECIMAL.match(value):
        try:
            return Decimal(value)
        except InvalidOperation:
            pass
    raise wrong('must be a decimal number as text, such as "2.50"')


def decimal_text(value: Decimal) -> str:
    """A decimal number without exponent."""
    return f"{value:f}"


IntText = Annotated[
    int,
    BeforeValidator(_read_integer),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^(0|[1-9][0-9]*)$", "examples": ["2500000"]}),
]
"""An integer from zero; in JSON decimal text, because it may exceed what JSON numbers carry."""

DecimalText = Annotated[
    Decimal,
    BeforeValidator(_read_decimal),
    PlainSerializer(decimal_text, return_type=str, when_used="json"),
    WithJsonSchema(
        {"type": "string", "pattern": r"^(0|[1-9][0-9]*)(\.[0-9]+)?$", "examples": ["2.5"]}
    ),
]
"""An exact decimal number from zero; in JSON text."""


@dataclass(frozen=True, slots=True)
class Hex:
    """Marks `bytes` that are 0x hex in JSON: exactly `size` bytes, or at most `most`."""

    size: int | None = None
    most: int | None = None

    def _read(self, value: object) -> bytes:
        if isinstance(value, str) and _HEX.match(value):
            value = bytes.fromhex(value[2:])
        if isinstance(value, bytes) and self._fits(len(value)):
            return value
        if self.size is not None:
            raise wrong(f"must be 0x and {2 * self.size} hexadecimal digits")
        end = "" if self.most is None else f", at most {2 * self.most} of them"
        raise wrong(f"must be 0x and pairs of hexadecimal digits{end}")

    def _fits(self, size: int) -> bool:
        return size == self.size if self.size is not None else size <= (self.most or size)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=written(hex_text, str)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        digits = f"{{{2 * self.size}}}" if self.size is not None else "*"
        out: JsonSchemaValue = {"type": "string", "pattern": f"^0x[0-9a-fA-F]{digits}$"}
        if self.most is not None:
            out["maxLength"] = 2 + 2 * self.most
        return {**out, "examples": ["0x" + "11" * (self.size or 2)]}


def written(write: Callable[[Any], Any], kind: type) -> core_schema.SerSchema:
    """A serializer that acts on JSON and leaves Python values as they are."""
    return core_schema.plain_serializer_function_ser_schema(
        write,
        return_schema=core_schema.str_schema() if kind is str else core_schema.dict_schema(),
        when_used="json",
    )


def hex_text(data: bytes) -> str:
    """Bytes as 0x hex."""
    return "0x" + data.hex()


Address = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$", examples=["0x" + "ab" * 20])]
"""An account's or contract's address; answers write it in EIP-55 mixed case."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=["e3" * 32])]
TxHash = Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$", examples=["0x" + "5a" * 32])]
Hash32 = Annotated[bytes, Hex(size=32)]
LeaseNo = Annotated[bytes, Hex(size=16)]
"""The 16 bytes that name a lease on chain, together with buyer, provider and witness."""
KeySignature = Annotated[bytes, Hex(size=65)]
"""r ‖ s ‖ v of a key, v 27 or 28, low s."""
AccountSignature = Annotated[bytes, Hex(most=2_048)]
"""An account's signature: 65 bytes r ‖ s ‖ v of its key, or what its contract accepts (ERC-1271).
The bound leaves the account's contract gas to answer."""


class Money(Answer):
    """An amount of the market's token: `amount` for people, `atoms` for machines."""

    amount: DecimalText = Field(examples=["1.234567"])
    currency: str = Field(examples=["CMP"])
    atoms: IntText = Field(examples=["1234567000000000000"])

    @classmethod
    def of(cls, atoms: int, currency: str, decimals: int) -> Self:
        """An amount from its atoms; `amount` is exact."""
        amount = Decimal(from_scaled(atoms, decimals))
        return cls(amount=amount, currency=currency, atoms=atoms)

    def __str__(self) -> str:
        return f"{self.amount:f} {self.currency}"
