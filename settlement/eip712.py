"""EIP-712 typed structs as frozen dataclasses: the fields give bounds, digest and JSON.

Source: EIP-712 (Ethereum typed structured data hashing and signing). A field is one of the types
below, a bool, another struct, or a tuple of structs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin, get_type_hints

from settlement.errors import FieldError
from settlement.hashing import keccak

Address = Annotated[str, "address"]
Bytes16 = Annotated[bytes, "bytes16"]
Bytes32 = Annotated[bytes, "bytes32"]
Uint8 = Annotated[int, "uint8"]
Uint16 = Annotated[int, "uint16"]
Uint24 = Annotated[int, "uint24"]
Uint32 = Annotated[int, "uint32"]
Uint40 = Annotated[int, "uint40"]
Uint64 = Annotated[int, "uint64"]
Uint96 = Annotated[int, "uint96"]
Uint128 = Annotated[int, "uint128"]
Uint256 = Annotated[int, "uint256"]

Schema = tuple[tuple[str, str], ...]
"""(Solidity type, JSON name) of every member."""
ZERO_ADDRESS = "0x" + "0" * 40
_HEX = re.compile(r"0x[0-9a-fA-F]*\Z")
_DECIMAL = re.compile(r"(0|[1-9][0-9]*)\Z")
_UINT_DIGITS_MAX = 78  # decimal digits of 2^256
_DOMAIN_SCHEMA: Schema = (
    ("string", "name"),
    ("string", "version"),
    ("uint256", "chainId"),
    ("address", "verifyingContract"),
)


@lru_cache(maxsize=1 << 16)
def checksum(address: str) -> str:
    """Write an address in its EIP-55 mixed case."""
    digits = address.removeprefix("0x").lower()
    bits = keccak(digits.encode()).hex()
    pairs = zip(digits, bits, strict=False)
    return "0x" + "".join(c.upper() if int(h, 16) >= 8 else c for c, h in pairs)


@dataclass(frozen=True, slots=True)
class Domain:
    """The contract and chain that a signature is bound to."""

    chain_id: int
    verifying_contract: str
    name: str = "Coulomb"
    version: str = "1"

    def separator(self) -> bytes:
        """Hash of the EIP712Domain struct."""
        words = (
            keccak(_type_text("EIP712Domain", _DOMAIN_SCHEMA).encode()),
            keccak(self.name.encode()),
            keccak(self.version.encode()),
            self.chain_id.to_bytes(32, "big"),
            _encoded("address", checked_address("/verifyingContract", self.verifying_contract)),
        )
        return keccak(b"".join(words))


class Struct:
    """Base of every signed type: a subclass is a dataclass whose fields are in signing order.

    Creating one checks its values (raises FieldError) and writes addresses in EIP-55 case.
    `primary` is the type's name, `members` the structs that its fields refer to.
    """

    __slots__ = ()
    primary: ClassVar[str]
    schema: ClassVar[Schema]
    members: ClassVar[dict[str, "type[Struct]"]]
    _attributes: ClassVar[tuple[str, ...]]
    _type_hash: ClassVar[bytes]

    def __init_subclass__(cls) -> None:
        hints = get_type_hints(cls, include_extras=True)
        own = {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}
        cls.primary = cls.__name__
        cls.schema = tuple((_solidity_type(hint), _camel(name)) for name, hint in own.items())
        referenced = (_referenced_struct(hint) for hint in own.values())
        cls.members = {struct.primary: struct for struct in referenced if struct is not None}
        cls._attributes = tuple(own)
        cls._type_hash = keccak(encode_type(cls).encode())

    def __post_init__(self) -> None:
        for attribute, (kind, name, value) in zip(self._attributes, self._values(), strict=True):
            checked = _checked(f"/{name}", kind, value, self.members)
            object.__setattr__(self, attribute, checked)

    def _values(self) -> Iterator[tuple[str, str, Any]]:
        for (kind, name), attribute in zip(self.schema, self._attributes, strict=True):
            yield kind, name, getattr(self, attribute)

    def struct_hash(self) -> bytes:
        """keccak256(typeHash ‖ encodeData), 32 bytes."""
        words = (_encoded(kind, value) for kind, _, value in self._values())
        return keccak(self._type_hash + b"".join(words))

    def digest(self, domain: Domain) -> bytes:
        """The 32 bytes that are signed."""
        return keccak(b"\x19\x01" + domain.separator() + self.struct_hash())

    def to_message(self) -> dict[str, Any]:
        """JSON form: integers of more than 48 bits as decimal strings, bytes as 0x hex."""
        return {name: _to_json(kind, value) for kind, name, value in self._values()}

    @classmethod
    def from_message(cls, message: Any, pointer: str = "") -> Self:
        """Parse the JSON form; unknown, missing or malformed members raise FieldError."""
        if not isinstance(message, dict):
            raise FieldError(pointer, f"must be an object with the members of {cls.primary}")
        names = [name for _, name in cls.schema]
        for name in message:
            if name not in names:
                raise FieldError(f"{pointer}/{name}", f"is not a member of {cls.primary}")
        values = []
        for kind, name in cls.schema:
            if name not in message:
                raise FieldError(f"{pointer}/{name}", "missing")
            values.append(_from_json(f"{pointer}/{name}", kind, message[name], cls.members))
        try:
            return cls(*values)
        except FieldError as error:
            raise FieldError(pointer + error.pointer, error.detail) from None

    def typed_data(self, domain: Domain) -> dict[str, Any]:
        """The whole document that `eth_signTypedData_v4` and `cast wallet sign --data` take."""
        structs = (type(self), *self.members.values())
        schemas = {"EIP712Domain": _DOMAIN_SCHEMA} | {s.primary: s.schema for s in structs}
        return {
            "types": {
                primary: [{"name": name, "type": kind} for kind, name in schema]
                for primary, schema in schemas.items()
            },
            "primaryType": self.primary,
            "domain": {
                "name": domain.name,
                "version": domain.version,
                "chainId": domain.chain_id,
                "verifyingContract": checksum(domain.verifying_contract),
            },
            "message": self.to_message(),
        }


def _solidity_type(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return str(get_args(hint)[1])
    if (struct := _referenced_struct(hint)) is None:
        return "bool"
    return struct.primary + ("[]" if get_origin(hint) is tuple else "")


def _referenced_struct(hint: Any) -> type[Struct] | None:
    kind = get_args(hint)[0] if get_origin(hint) is tuple else hint
    return kind if isinstance(kind, type) and issubclass(kind, Struct) else None


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _type_text(name: str, schema: Schema) -> str:
    return f"{name}({','.join(f'{kind} {member}' for kind, member in schema)})"


def encode_type(struct: type[Struct]) -> str:
    """`Name(type member,…)`, followed by the referenced structs in alphabetical order."""
    parts = [struct, *sorted(struct.members.values(), key=lambda s: s.primary)]
    return "".join(_type_text(part.primary, part.schema) for part in parts)


def text32(text: str) -> bytes:
    """ASCII text as bytes32, zero-padded on the right. Raises FieldError above 32 bytes."""
    if not text.isascii() or not text.isprintable() or len(text) > 32:
        raise FieldError("", f"{text!r} is not printable ASCII of at most 32 characters")
    return text.encode().ljust(32, b"\0")


def from_text32(word: bytes) -> str:
    """The text of a bytes32 made by `text32`. Raises FieldError if it is not printable ASCII."""
    raw = word.rstrip(b"\0")
    if not raw.isascii() or not raw.decode("ascii", "replace").isprintable():
        raise FieldError("", "is not printable ASCII text padded with zeros")
    return raw.decode()


def _checked(pointer: str, kind: str, value: Any, members: dict[str, type[Struct]]) -> Any:
    if kind.startswith("uint"):
        bits = int(kind[4:])
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << bits:
            raise FieldError(pointer, f"must be an integer between 0 and 2^{bits}-1")
    elif kind == "address":
        return checked_address(pointer, value)
    elif kind == "bool":
        if not isinstance(value, bool):
            raise FieldError(pointer, "must be true or false")
    elif kind.startswith("bytes"):
        if not isinstance(value, bytes) or len(value) != int(kind[5:]):
            raise FieldError(pointer, f"must be exactly {kind[5:]} bytes")
    elif kind.endswith("[]"):
        if not isinstance(value, tuple) or not all(
            isinstance(item, members[kind[:-2]]) for item in value
        ):
            raise FieldError(pointer, f"must be a list of {kind[:-2]}")
    elif not isinstance(value, members[kind]):
        raise FieldError(pointer, f"must be a {kind}")
    return value


def checked_address(pointer: str, value: Any) -> str:
    """An address in its EIP-55 case. Raises FieldError, also for a wrong checksum."""
    if not isinstance(value, str) or len(value) != 42 or not _HEX.match(value):
        raise FieldError(pointer, "must be an address: 0x and 40 hexadecimal digits")
    digits = value[2:]
    normal = checksum(value)
    if digits not in (digits.lower(), digits.upper()) and value != normal:
        raise FieldError(pointer, f"has a wrong EIP-55 checksum; did you mean {normal}?")
    return normal


def _encoded(kind: str, value: Any) -> bytes:
    if kind.startswith("uint") or kind == "bool":
        return int(value).to_bytes(32, "big")
    if kind == "address":
        return bytes(12) + bytes.fromhex(value[2:])
    if kind.startswith("bytes"):
        return bytes(value).ljust(32, b"\0")
    if kind.endswith("[]"):
        return keccak(b"".join(item.struct_hash() for item in value))
    return bytes(value.struct_hash())


def _to_json(kind: str, value: Any) -> Any:
    if kind.startswith("uint"):
        return str(value) if int(kind[4:]) > 48 else value
    if kind in ("address", "bool"):
        return value
    if kind.startswith("bytes"):
        return "0x" + value.hex()
    if kind.endswith("[]"):
        return [item.to_message() for item in value]
    return value.to_message()


def _from_json(pointer: str, kind: str, value: Any, members: dict[str, type[Struct]]) -> Any:
    if kind.startswith("uint"):
        if isinstance(value, str) and len(value) <= _UINT_DIGITS_MAX and _DECIMAL.match(value):
            return int(value)
        return value
    if kind.startswith("bytes"):
        if not isinstance(value, str) or not _HEX.match(value) or len(value) % 2:
            raise FieldError(pointer, f"must be 0x and {2 * int(kind[5:])} hexadecimal digits")
        return bytes.fromhex(value[2:])
    if kind.endswith("[]"):
        if not isinstance(value, list):
            raise FieldError(pointer, f"must be a list of {kind[:-2]}")
        item = members[kind[:-2]]
        return tuple(item.from_message(v, f"{pointer}/{i}") for i, v in enumerate(value))
    if kind in members:
        return members[kind].from_message(value, pointer)
    return value
