"""Encodes and decodes calldata, results, events and errors by the shipped ABIs.

Source: the Solidity contract ABI specification.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from settlement.eip712 import checksum
from settlement.errors import CallReverted, ChainUnavailable, DeploymentError, FieldError
from settlement.hashing import keccak

# What decoding raises on bytes that a hostile node or contract made up.
_MALFORMED = (DecodingError, ValueError, LookupError, TypeError, ArithmeticError)
_BUILTIN_ERRORS: tuple[dict[str, Any], ...] = (
    {"type": "error", "name": "Error", "inputs": [{"type": "string"}]},
    {"type": "error", "name": "Panic", "inputs": [{"type": "uint256"}]},
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A shipped contract. `immutables` are (start, length) places in the deployed code."""

    name: str
    abi: tuple[dict[str, Any], ...]
    abi_hash: str
    bytecode: bytes
    deployed: bytes
    immutables: tuple[tuple[int, int], ...]

    def matches(self, code: bytes) -> bool:
        """Whether code on chain is this contract; immutables may differ."""
        return self._blank(code) == self._blank(self.deployed)

    def immutable_words(self, code: bytes) -> set[int]:
        """The values of the immutables in code on chain."""
        return {int.from_bytes(code[at : at + size], "big") for at, size in self.immutables}

    def _blank(self, code: bytes) -> bytes:
        out = bytearray(code)
        for start, length in self.immutables:
            out[start : start + length] = bytes(length)
        return bytes(out)


@cache
def artifact(name: str) -> Artifact:
    """The shipped artifact of a contract. Raises DeploymentError if there is none."""
    source = files("settlement") / "artifacts" / f"{name}.json"
    if not source.is_file():
        fix = "run `python -m scripts.lib.artifacts` in a checkout"
        raise DeploymentError(f"no artifact of {name}: {fix}")
    document = json.loads(source.read_text(encoding="utf-8"))
    return Artifact(
        name,
        tuple(document["abi"]),
        document["abiHash"],
        bytes.fromhex(document["bytecode"][2:]),
        bytes.fromhex(document["deployedBytecode"][2:]),
        tuple((place["start"], place["length"]) for place in document["immutables"]),
    )


def canonical(parameter: Mapping[str, Any]) -> str:
    """A parameter's type as it appears in a signature: a tuple becomes its members' types."""
    kind = str(parameter["type"])
    if not kind.startswith("tuple"):
        return kind
    members = ",".join(canonical(c) for c in parameter["components"])
    return f"({members}){kind.removeprefix('tuple')}"


class Abi:
    """Encoder and decoder for one contract."""

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self._functions: dict[str, tuple[bytes, list[str], list[Mapping[str, Any]]]] = {}
        self._events: dict[bytes, tuple[str, list[Mapping[str, Any]]]] = {}
        self._errors: dict[bytes, tuple[str, list[str]]] = {}
        self._constructor: list[str] = []
        for entry in (*_BUILTIN_ERRORS, *entries):
            types = [canonical(p) for p in entry.get("inputs", [])]
            topic = keccak(f"{entry.get('name', '')}({','.join(types)})".encode())
            match entry["type"]:
                case "function":
                    self._functions[entry["name"]] = (topic[:4], types, entry["outputs"])
                case "event":
                    self._events[topic] = (entry["name"], entry["inputs"])
                case "error":
                    self._errors[topic[:4]] = (entry["name"], types)
                case "constructor":
                    self._constructor = types

    @property
    def selectors(self) -> frozenset[bytes]:
        """The first four bytes of every function's calldata."""
        return frozenset(selector for selector, _, _ in self._functions.values())

    def topic(self, name: str) -> bytes:
        """The first topic of an event's logs."""
        return next(topic for topic, (event, _) in self._events.items() if event == name)

    def call(self, name: str, *arguments: Any) -> bytes:
        """Calldata of one function."""
        selector, types, _ = self._functions[name]
        return selector + encode(types, arguments)

    def arguments(self, name: str, calldata: bytes) -> tuple[Any, ...]:
        """The arguments in a function's calldata. Raises FieldError if it is another's."""
        selector, types, _ = self._functions[name]
        if calldata[:4] != selector:
            raise FieldError("/data", f"is not a call of {name}")
        try:
            return tuple(decode(types, calldata[4:]))
        except _MALFORMED as error:
            raise FieldError("/data", f"is a malformed call of {name}: {error}") from error

    def result(self, name: str, data: bytes) -> Any:
        """A function's result: one value, or a tuple of several. Raises ChainUnavailable."""
        outputs = self._functions[name][2]
        try:
            values = decode([canonical(p) for p in outputs], data)
        except _MALFORMED as error:
            raise ChainUnavailable(f"the node's answer to {name} cannot be read") from error
        return values[0] if len(values) == 1 else values

    def constructor(self, *arguments: Any) -> bytes:
        """Encoded constructor arguments, to append to the bytecode."""
        return encode(self._constructor, arguments)

    def event(self, topics: Sequence[bytes], data: bytes) -> tuple[str, dict[str, Any]] | None:
        """A log's event name and arguments, a struct's members among them; None if unknown.

        Raises ChainUnavailable.
        """
        if not topics or topics[0] not in self._events:
            return None
        name, inputs = self._events[topics[0]]
        indexed = iter(topics[1:])
        values = {}
        try:
            plain = iter(decode([canonical(p) for p in inputs if not p["indexed"]], data))
            for p in inputs:
                value = decode([p["type"]], next(indexed))[0] if p["indexed"] else next(plain)
                struct = p["components"] if p["type"] == "tuple" else ()
                members = zip(struct, value, strict=True) if struct else ((p, value),)
                for member, one in members:
                    values[member["name"]] = checksum(one) if member["type"] == "address" else one
        except (*_MALFORMED, StopIteration) as error:
            raise ChainUnavailable(f"a log of {name} cannot be read") from error
        return name, values

    def reverted(self, data: bytes) -> CallReverted:
        """The error in revert data; `unknown` with the raw data if no error of the ABI fits."""
        if data[:4] not in self._errors:
            return CallReverted("unknown", ("0x" + data.hex(),) if data else ())
        name, types = self._errors[data[:4]]
        try:
            return CallReverted(name, tuple(decode(types, data[4:])))
        except _MALFORMED:
            return CallReverted(name, ("0x" + data[4:].hex(),))


@cache
def abi(name: str) -> Abi:
    """The ABI of a shipped contract."""
    return Abi(artifact(name).abi)
