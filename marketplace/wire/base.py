"""What every wire model stands on: requests, answers, pages; money, times, bytes, signed structs.

A model holds typed Python values and reads and writes the JSON of the HTTP API: atoms and rates are
`int` here and decimal text there, times are aware `datetime` here and RFC 3339 UTC text there, and
signed structs are settlement's classes here and their camelCase EIP-712 messages there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Generic, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from marketplace.domain.pricing import from_scaled, prices_from_json, prices_to_json
from marketplace.errors import InvalidInput, Problem
from settlement.attestation import MeteredUsage, Usage, Voucher
from settlement.eip712 import Domain, Struct
from settlement.errors import FieldError
from settlement.orders import Prices

T = TypeVar("T")
S = TypeVar("S", bound=Struct)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)
_INTEGER = re.compile(r"(0|[1-9][0-9]{0,77})\Z")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,59})(\.[0-9]{1,36})?\Z")
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*\Z")
_NUMBER_BITS_MAX = 48  # what `Struct.to_message` writes as a number; more is decimal text


def wrong(*problems: Problem) -> PydanticCustomError:
    """What a validator raises: sentences, and where below the value it is wrong (RFC 6901)."""
    text = "; ".join(f"{p.pointer}: {p.detail}" if p.pointer else p.detail for p in problems)
    return PydanticCustomError("wire", "{text}", {"text": text, "problems": problems})


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


# Values whose JSON has another form


@dataclass(frozen=True, slots=True)
class Form:
    """Marks a value that has another form in JSON: how it is read, written and described there.

    `schema` is given whether it describes what is read ("validation") or what is written.
    """

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    schema: Callable[[str], JsonSchemaValue]

    def __get_pydantic_core_schema__(self, source: Any, _: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                self.write, when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return self.schema(handler.mode)


def _text_form(
    read: Callable[[Any], Any], write: Callable[[Any], str], example: str, **more: Any
) -> Form:
    return Form(read, write, lambda _: {"type": "string", **more, "examples": [example]})


def _read_time(value: object) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if isinstance(value, str) and _TIME.match(value):
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    detail = "must be an RFC 3339 time with a time zone, such as 2027-01-15T08:00:00.000Z"
    raise wrong(Problem("", detail))


def time_text(moment: datetime) -> str:
    """An aware time as RFC 3339 UTC text with milliseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_of(ms: int) -> datetime:
    """Unix milliseconds as an aware time."""
    return _EPOCH + timedelta(milliseconds=ms)


def time_or_none(ms: int | None) -> datetime | None:
    """Unix milliseconds as an aware time, if there are any."""
    return None if ms is None else time_of(ms)


def _read_integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and _INTEGER.match(value):
        return int(value)
    raise wrong(Problem("", 'must be a whole number as decimal text, such as "1500"'))


def _read_decimal(value: object) -> Decimal:
    if isinstance(value, Decimal) and value.is_finite():
        return value
    if isinstance(value, str) and _DECIMAL.match(value):
        return Decimal(value)
    raise wrong(Problem("", 'must be a decimal number as text, such as "2.50"'))


Time = Annotated[
    datetime, _text_form(_read_time, time_text, "2027-01-15T08:00:00.000Z", format="date-time")
]
"""An aware datetime; in JSON RFC 3339 UTC with milliseconds and `Z`."""
IntText = Annotated[int, _text_form(_read_integer, str, "2500000", pattern="^(0|[1-9][0-9]*)$")]
"""An integer from zero; in JSON decimal text, because it may exceed what JSON numbers carry."""
DecimalText = Annotated[
    Decimal,
    _text_form(_read_decimal, "{:f}".format, "2.5", pattern=r"^(0|[1-9][0-9]*)(\.[0-9]+)?$"),
]
"""An exact decimal number from zero; in JSON text."""
# Members that several answers have.
GpuMilli = Annotated[int, Field(description="thousandths of a GPU")]
RatePerHour = Annotated[DecimalText, Field(description="tokens per hour, everything included")]
Reliability = Annotated[
    DecimalText, Field(description="share of its provider's leases kept, 0 to 1")
]
Shared = Annotated[bool, Field(description="whether shares of a GPU are sold")]
NoticeSeconds = Annotated[
    int | None,
    Field(description="the node may be taken back, so long after notice; null: it is not"),
]
Verified = Annotated[bool, Field(description="whether its hardware was checked; not possible yet")]


def hex_text(data: bytes) -> str:
    """Bytes as 0x hex."""
    return "0x" + data.hex()


def hex_form(size: int | None = None, most: int | None = None) -> Form:
    """`bytes` that are 0x hex in JSON: exactly `size` bytes, or at most `most`."""
    if size is not None:
        allowed = f"0x and {2 * size} hexadecimal digits"
    else:
        allowed = "0x and pairs of hexadecimal digits"
        allowed += "" if most is None else f", at most {2 * most} of them"

    def read(value: object) -> bytes:
        if isinstance(value, str) and _HEX.match(value):
            value = bytes.fromhex(value[2:])
        if isinstance(value, bytes):
            if size is not None:
                fits = len(value) == size
            else:
                fits = most is None or len(value) <= most
            if fits:
                return value
        raise wrong(Problem("", f"must be {allowed}"))

    pattern = f"^0x[0-9a-fA-F]{'*' if size is None else f'{{{2 * size}}}'}$"
    longest = {} if most is None else {"maxLength": 2 + 2 * most}
    return _text_form(read, hex_text, "0x" + "11" * (size or 2), pattern=pattern, **longest)


Address = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$", examples=["0x" + "ab" * 20])]
"""An account's or contract's address; answers write it in EIP-55 mixed case."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=["e3" * 32])]
TxHash = Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$", examples=["0x" + "5a" * 32])]
HexBytes = Annotated[bytes, hex_form()]
Hash32 = Annotated[bytes, hex_form(size=32)]
LeaseNo = Annotated[bytes, hex_form(size=16)]
"""The 16 bytes that name a lease on chain, together with buyer, provider and witness."""
KeySignature = Annotated[bytes, hex_form(size=65)]
"""r ‖ s ‖ v of a key, v 27 or 28, low s."""
AccountSignature = Annotated[bytes, hex_form(most=2_048)]
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


_PRICE_UNITS = {
    "gpu_hour": "per hour and GPU",
    "cpu_hour": "per hour and core",
    "memory_gib_hour": "per hour and GiB of memory",
    "storage_gib_hour": "per hour and GiB of storage",
    "egress_gib": "per GiB of egress",
    "unit": "per counted unit",
}


def _read_prices(value: object) -> Prices:
    if isinstance(value, Prices):
        return value
    try:
        return prices_from_json(value)
    except InvalidInput as error:
        raise wrong(*error.problems) from None


def _prices_schema(mode: str) -> JsonSchemaValue:
    is_read = mode == "validation"
    kind = ["string", "null"] if is_read else "string"
    text = {"type": kind, "pattern": r"^(0|[1-9][0-9]*)(\.[0-9]{1,9})?$"}
    return {
        "type": "object",
        "title": "DecimalPrices",
        "description": "Decimal texts of the token.",
        "properties": {name: {**text, "description": unit} for name, unit in _PRICE_UNITS.items()},
        "required": ["gpu_hour"] if is_read else list(_PRICE_UNITS),
        "additionalProperties": False,
        "examples": [prices_to_json(Prices(2_500_000_000))],
    }


DecimalPrices = Annotated[Prices, Form(_read_prices, prices_to_json, _prices_schema)]


# Signed structs. They refuse unknown, missing and malformed members


def read_struct(kind: type[S], value: object) -> S:
    """A struct from its message, or as it is. Raises PydanticCustomError with the pointer."""
    if isinstance(value, kind):
        return value
    try:
        return kind.from_message(value)
    except FieldError as error:
        raise wrong(Problem(error.pointer, error.detail)) from None


def struct_schema(kind: type[Struct]) -> JsonSchemaValue:
    """The JSON schema of a struct's message."""
    properties = {name: _member_schema(type_, kind.members) for type_, name in kind.schema}
    return {
        "type": "object",
        "title": kind.primary,
        "description": (kind.__doc__ or "").split("\n\n")[0].replace("\n    ", " "),
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _member_schema(type_: str, members: dict[str, type[Struct]]) -> JsonSchemaValue:
    if type_.endswith("[]"):
        return {"type": "array", "items": _member_schema(type_[:-2], members)}
    if type_ in members:
        return struct_schema(members[type_])
    if type_.startswith("uint"):
        bits = int(type_[4:])
        if bits <= _NUMBER_BITS_MAX:
            return {"type": "integer", "minimum": 0, "maximum": 2**bits - 1}
        decimal = {"type": "string", "pattern": "^(0|[1-9][0-9]*)$", "description": type_}
        return {**decimal, "examples": ["1"]}
    if type_ == "bool":
        return {"type": "boolean"}
    digits = 40 if type_ == "address" else 2 * int(type_[5:])
    pattern = f"^0x[0-9a-fA-F]{{{digits}}}$"
    return {"type": "string", "pattern": pattern, "examples": ["0x" + "ab" * (digits // 2)]}


class _Message:
    """Marks a `Struct` that travels as its message."""

    def __get_pydantic_core_schema__(
        self, kind: type[Struct], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        form = Form(
            lambda value: read_struct(kind, value), kind.to_message, lambda _: struct_schema(kind)
        )
        return handler.generate_schema(Annotated[kind, form])


Signed = Annotated[S, _Message()]


def _read_voucher(value: object) -> Voucher:
    if isinstance(value, Usage | MeteredUsage):
        return value
    metered = isinstance(value, dict) and "egressMib" in value
    return read_struct(MeteredUsage, value) if metered else read_struct(Usage, value)


AnyVoucher = Annotated[
    Voucher,
    Form(
        _read_voucher,
        Struct.to_message,
        lambda _: {"anyOf": [struct_schema(Usage), struct_schema(MeteredUsage)]},
    ),
]
"""A voucher; which of the two it is shows in its members."""


class TypedMember(Answer):
    """One member of a typed struct."""

    name: str
    type: str = Field(examples=["uint64"])


class TypedDomain(Answer):
    """The contract and chain that a signature is bound to."""

    name: str
    version: str
    chain_id: int = Field(alias="chainId")
    verifying_contract: Address = Field(alias="verifyingContract")


class TypedData(Answer):
    """An EIP-712 document, as `eth_signTypedData_v4` and `cast wallet sign --data` take it."""

    types: dict[str, Many[TypedMember]]
    primary_type: str = Field(alias="primaryType", examples=["Ask"])
    domain: TypedDomain
    message: dict[str, Any] = Field(description="the struct that `primaryType` names")

    @classmethod
    def of(cls, struct: Struct, domain: Domain) -> Self:
        """The document that signs a struct."""
        return cls.model_validate(struct.typed_data(domain))
