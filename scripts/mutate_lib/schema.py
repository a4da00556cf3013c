"""All mutants in one program, each behind a switch.

`Mutant.on(k)` compares k with one word of the bytecode, which selects the active mutant.
Compiled without the optimizer, which would take the word for the constant that it looks like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.mutate_lib.operators import Mutant, Place
from scripts.mutate_lib.syntax import (
    ESCROW,
    EXTENSION,
    LIBRARY_TESTS,
    MutateError,
    Node,
    Sources,
    compile_sources,
    errors_of,
)

SWITCH_PATH = "mutate/Mutant.sol"
WORD = "c0" + "5a17e1" * 10 + "77"
SWITCH = f"""// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

library Mutant {{
    function on(uint256 k) internal pure returns (bool is_) {{
        assembly {{
            is_ := eq(0x{WORD}, k)
        }}
    }}
}}
"""
ARTIFACTS = (
    (ESCROW, "ComputeEscrow"),
    (EXTENSION, "EscrowExtension"),
    (LIBRARY_TESTS, "UnitsTest"),
    (LIBRARY_TESTS, "SignaturesLibraryTest"),
    (LIBRARY_TESTS, "SlotsTest"),
)


@dataclass(frozen=True, slots=True)
class Schema:
    """Bytecode with all mutants. `numbers` gives each mutant its k."""

    code: Mapping[tuple[str, str], str]
    numbers: Mapping[Mutant, int]
    refused: Mapping[Mutant, str]

    def artifact(self, name: tuple[str, str], number: int) -> str:
        """Creation code with this mutant switched on; zero switches all off."""
        return self.code[name].replace(WORD, f"{number:064x}")


def build(sources: Sources, mutants: Sequence[Mutant]) -> Schema:
    """Compile all mutants at once, except those that the compiler refuses."""
    selection: dict[str, dict[str, list[str]]] = {}
    for path, contract in ARTIFACTS:
        if path in sources:
            selection.setdefault(path, {})[contract] = ["evm.bytecode.object"]
    refused: dict[Mutant, str] = {}
    while True:
        left = [mutant for mutant in mutants if mutant not in refused]
        numbers = {mutant: number for number, mutant in enumerate(left, 1)}
        texts, regions = _render(sources, numbers)
        answer = compile_sources(texts, selection)
        wrong = _blamed(errors_of(answer), regions)
        if not wrong:
            break
        refused |= wrong
    code = {
        (path, contract): answer["contracts"][path][contract]["evm"]["bytecode"]["object"]
        for path, names in selection.items()
        for contract in names
    }
    return Schema(code, numbers, refused)


@dataclass(frozen=True, slots=True)
class Region:
    """A mutant's place in the program: its whole switch, and its own text inside it."""

    mutant: Mutant
    whole: tuple[int, int]
    own: tuple[int, int]


def _within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _blamed(errors: Iterable[Node], regions: Mapping[str, list[Region]]) -> dict[Mutant, str]:
    """Whose each error is: the mutant's in whose text it is, else the switches' that it spans.

    Else it is the one's around, else the one's that drops what a function's head asks for, or what
    was set for the place of the error. Raises MutateError where there is none.
    """
    blamed: dict[Mutant, str] = {}
    for error in errors:
        location: dict[str, Any] = error.get("sourceLocation") or {}
        at = (location.get("start", -1), location.get("end", -1))
        there = regions.get(location.get("file", ""), [])
        around = [region for region in there if _within(at, region.whole)]
        guilty = [region for region in around if _within(at, region.own)]
        guilty = guilty or [region for region in there if _within(region.whole, at)] or around
        guilty = guilty or _last_drop(there, at) or _drop_before(there, at)
        if not guilty:
            raise MutateError(error["formattedMessage"])
        inner = guilty if guilty != around else [min(around, key=lambda r: r.whole[1] - r.whole[0])]
        blamed |= {region.mutant: error["message"] for region in inner}
    return blamed


def _last_drop(there: Sequence[Region], head: tuple[int, int]) -> list[Region]:
    """The last dropped statement of the function that begins there: it may have set what the head
    returns; a wrong guess is followed by the next error."""
    behind = [region for region in there if region.whole[0] >= head[1]]
    if not behind:
        return []
    function = min(behind, key=lambda region: region.whole[0]).mutant.function
    drops = [r for r in behind if (r.mutant.function, r.mutant.operator) == (function, "drop")]
    return [max(drops, key=lambda region: region.whole[0])] if drops else []


def _drop_before(there: Sequence[Region], use: tuple[int, int]) -> list[Region]:
    """The dropped statement next before the use of a variable, which it may have set."""
    drops = [r for r in there if r.mutant.operator == "drop" and r.whole[1] <= use[0]]
    return [max(drops, key=lambda region: region.whole[1])] if drops else []


def _render(
    sources: Sources, numbers: Mapping[Mutant, int]
) -> tuple[Sources, dict[str, list[Region]]]:
    texts: Sources = {**sources, SWITCH_PATH: SWITCH.encode()}
    regions: dict[str, list[Region]] = {}
    for path in sources:
        own = [mutant for mutant in numbers if f"src/{mutant.file}" == path]
        if own:
            texts[path], regions[path] = render_file(sources[path], own, numbers)
    return texts, regions


def _wrapping(mutant: Mutant, number: int, original: str) -> tuple[str, str, str, str]:
    """What stands before the mutant's text, that, what follows it, what follows the old text."""
    on, word = f"Mutant.on({number})", f"eq(0x{WORD}, {number})"
    match mutant.place:
        case Place.EXPRESSION:
            return f"({on} ? (", mutant.text, ") : (", "))"
        case Place.STATEMENT:
            return f"{{ if ({on}) {{ ", mutant.text, " } else { ", " } }"
        case Place.YUL_STATEMENT:
            return f"if iszero({word}) {{ ", "", "", " }"
        case Place.YUL_EXPRESSION:  # both are worked out: neither has effects
            return f"xor(mul({word}, xor({original}, ", mutant.text, ")), ", ")"


def render_file(
    source: bytes, mutants: Sequence[Mutant], numbers: Mapping[Mutant, int]
) -> tuple[bytes, list[Region]]:
    """The file with a switch around each text that a mutant replaces, nested like the texts."""
    ordered = sorted(mutants, key=lambda m: (m.start, -m.end, m.place is not Place.STATEMENT))
    out = bytearray()
    regions: list[Region] = []

    def render(start: int, end: int, inside: Sequence[Mutant]) -> None:
        position, i = start, 0
        while i < len(inside):
            outer = inside[i]
            below = [mutant for mutant in inside[i + 1 :] if mutant.start < outer.end]
            out.extend(source[position : outer.start])
            original = source[outer.start : outer.end].decode()
            before, own, between, behind = _wrapping(outer, numbers[outer], original)
            whole = len(out)
            out.extend(before.encode())
            mine = (len(out), len(out) + len(own.encode()))
            out.extend((own + between).encode())
            render(outer.start, outer.end, below)
            out.extend(behind.encode())
            regions.append(Region(outer, (whole, len(out)), mine))
            position = outer.end
            i += 1 + len(below)
        out.extend(source[position:end])

    pragma = source.index(b";", source.index(b"pragma solidity")) + 1
    out.extend(source[:pragma] + f' import {{Mutant}} from "{SWITCH_PATH}";'.encode())
    render(pragma, len(source), ordered)
    return bytes(out), regions
