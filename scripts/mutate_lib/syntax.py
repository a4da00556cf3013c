"""Sources and their syntax trees from the pinned compiler."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ROOT / "contracts"
WORK = ROOT / "build" / "mutate"
SOLC = ROOT / "scripts" / "mutate_lib" / "solc"

ESCROW = "src/ComputeEscrow.sol"
EXTENSION = "src/EscrowExtension.sol"
LIBRARY_TESTS = "test/libraries.t.sol"
REMAPPINGS = {
    "@openzeppelin/contracts/": "node_modules/@openzeppelin/contracts/",
    "forge-std/": "node_modules/@layerzerolabs/toolbox-foundry/lib/forge-std/",
}
_IMPORT = re.compile(r'(?:from|import)\s+"([^"]+)"')

Node = dict[str, Any]
Sources = dict[str, bytes]


class MutateError(Exception):
    """A run cannot go on: the sources do not compile, or a test fails without any mutant."""


def environment(**more: str) -> dict[str, str]:
    """The environment of forge and of the compiler, whose answers are kept between runs."""
    return os.environ | {"MUTATE_SOLC_CACHE": str(WORK / "solc")} | more


def read_sources(root: Path = CONTRACTS, starts: tuple[str, ...] = (ESCROW, EXTENSION)) -> Sources:
    """The files at `starts` and all that they import, by their paths under `root`."""
    sources: Sources = {}
    todo = list(starts)
    while todo:
        path = todo.pop()
        if path in sources:
            continue
        sources[path] = (root / path).read_bytes()
        for name in _IMPORT.findall(sources[path].decode()):
            todo.append(_resolved(name, path))
    return dict(sorted(sources.items()))


def _resolved(name: str, importer: str) -> str:
    if name.startswith("."):
        return os.path.normpath(PurePosixPath(importer).parent / name)
    for prefix, target in REMAPPINGS.items():
        if name.startswith(prefix):
            return target + name.removeprefix(prefix)
    return name


def compile_sources(
    sources: Mapping[str, bytes], selection: Mapping[str, Any], *, optimized: bool = False
) -> Node:
    """The compiler's output with its errors. Without metadata, equal code is equal bytecode."""
    optimizer = {"enabled": True, "runs": 2000} if optimized else {"enabled": False}
    request = {
        "language": "Solidity",
        "sources": {path: {"content": text.decode()} for path, text in sources.items()},
        "settings": {
            "remappings": [f"{prefix}={target}" for prefix, target in REMAPPINGS.items()],
            "evmVersion": "prague",
            "optimizer": optimizer,
            "metadata": {"bytecodeHash": "none", "appendCBOR": False},
            "outputSelection": selection,
        },
    }
    result = subprocess.run(
        [SOLC, "--standard-json"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    if result.returncode != 0:
        raise MutateError(f"the compiler failed: {result.stderr[-2000:]}")
    answer: Node = json.loads(result.stdout)
    return answer


def errors_of(answer: Node) -> list[Node]:
    """The errors of the compiler."""
    return [error for error in answer.get("errors", []) if error["severity"] == "error"]


def span(node: Node) -> tuple[int, int]:
    """A node's first byte and the first byte after it."""
    start, length, _ = (int(part) for part in node["src"].split(":"))
    return start, start + length


def type_of(node: Node | None) -> str:
    """A node's type in Solidity, without the data location."""
    written = ((node or {}).get("typeDescriptions") or {}).get("typeString") or ""
    return str(written)


def children(node: Node) -> Iterator[tuple[str, Node]]:
    """A node's direct children with the names of their places."""
    for key, value in node.items():
        if key in ("typeDescriptions", "commonType", "documentation", "externalReferences"):
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and "nodeType" in item:
                yield key, item


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it."""
    yield node
    for _, child in children(node):
        yield from walk(child)


@dataclass(slots=True)
class Function:
    """A function or modifier with a body."""

    file: str
    name: str
    private: bool
    external: bool
    node: Node
    calls: set[int] = field(default_factory=set)

    @property
    def title(self) -> str:
        return f"{PurePosixPath(self.file).stem}.{self.name}"


def read_functions(sources: Sources) -> dict[int, Function]:
    """Every function of the sources under src/, by the number of its declaration."""
    answer = compile_sources(sources, {"*": {"": ["ast"]}})
    if errors := errors_of(answer):
        raise MutateError(errors[0]["formattedMessage"])
    functions: dict[int, Function] = {}
    overrides: dict[int, set[int]] = {}
    for path in sources:
        if not path.startswith("src/"):
            continue
        for node in walk(answer["sources"][path]["ast"]):
            if node["nodeType"] not in ("FunctionDefinition", "ModifierDefinition"):
                continue
            for base in (node.get("baseFunctions") or []) + (node.get("baseModifiers") or []):
                overrides.setdefault(base, set()).add(node["id"])
            if node.get("body"):
                functions[node["id"]] = _function(path, node)
    for function in functions.values():
        for declaration in set(function.calls):
            function.calls |= overrides.get(declaration, set())
        function.calls &= functions.keys()
    return functions


def _function(path: str, node: Node) -> Function:
    called = {below.get("referencedDeclaration") for below in walk(node)}
    return Function(
        file=path,
        name=node["name"] or node["kind"],
        private=node["visibility"] == "private",
        external=node["visibility"] in ("external", "public"),
        node=node,
        calls={number for number in called if isinstance(number, int)},
    )


def reached(functions: Mapping[int, Function], start: int, *, private_only: bool) -> set[int]:
    """The function and those that it calls, directly or through others."""
    found: set[int] = set()
    todo = [start]
    while todo:
        number = todo.pop()
        if number in found:
            continue
        found.add(number)
        todo += [
            called
            for called in functions[number].calls
            if functions[called].private or not private_only
        ]
    return found
