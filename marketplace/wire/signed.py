"""Signed structs on the wire: the Python value is the settlement class, the JSON its message.

`Signed[Ask]` reads and writes the camelCase EIP-712 message of `Ask`. It refuses unknown, missing
and malformed members, and takes its JSON schema from `Ask.schema`.
"""

from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from marketplace.wire.base import Address, Answer, Many, written, wrong
from settlement.attestation import MeteredUsage, Usage, Voucher
from settlement.eip712 import Domain, Struct
from settlement.errors import FieldError

S = TypeVar("S", bound=Struct)
_NUMBER_BITS_MAX = 48  # what `Struct.to_message` writes as a number; more is decimal text


def read_struct(kind: type[S], value: object) -> S:
    """A struct from its message, or as it is. Raises PydanticCustomError with the pointer."""
    if isinstance(value, kind):
        return value
    try:
        return kind.from_message(value)
    except FieldError as error:
        raise wrong(error.detail, error.pointer) from None


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


class StructMessage:
    """Marks a `Struct` that travels as its message."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: read_struct(source, value),
            serialization=written(lambda struct: struct.to_message(), dict),
            metadata={"struct": source},
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return struct_schema(schema["metadata"]["struct"])


class VoucherMessage:
    """Marks a voucher: which of the two it is shows in its members."""

    def _read(self, value: object) -> Voucher:
        if isinstance(value, Usage | MeteredUsage):
            return value
        metered = isinstance(value, dict) and "egressMib" in value
        return read_struct(MeteredUsage, value) if metered else read_struct(Usage, value)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=written(lambda struct: struct.to_message(), dict)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [struct_schema(Usage), struct_schema(MeteredUsage)]}


Signed = Annotated[S, StructMessage()]
AnyVoucher = Annotated[Voucher, VoucherMessage()]


# Documents for wallets


class TypedMember(Answer):
    """One member of a typed struct."""

    name: str
    type: str = Field(examples=["uint64"])


class TypedDomain(Answer):
    """The contract and chain that a signature is bound to."""

    name: str
    version: str
    chain_id: int = Field(validation_alias="chainId", serialization_alias="chainId")
    verifying_contract: Address = Field(
        validation_alias="verifyingContract", serialization_alias="verifyingContract"
    )


class TypedData(Answer):
    """An EIP-712 document, as `eth_signTypedData_v4` and `cast wallet sign --data` take it."""

    types: dict[str, Many[TypedMember]]
    primary_type: str = Field(
        validation_alias="primaryType", serialization_alias="primaryType", examples=["Ask"]
    )
    domain: TypedDomain
    message: dict[str, Any] = Field(description="the struct that `primaryType` names")

    @classmethod
    def of(cls, struct: Struct, domain: Domain) -> Self:
        """The document that signs a struct."""
        return cls.model_validate(struct.typed_data(domain))
