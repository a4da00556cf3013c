"""The mutation tool: what it changes, what it keeps of a run, which results fail it."""

from dataclasses import replace
from pathlib import Path

import pytest

from scripts.mutate_lib.operators import Mutant, Mutator, Place
from scripts.mutate_lib.schema import WORD, Schema, render_file
from scripts.mutate_lib.syntax import compile_sources, errors_of, reached, read_functions
from scripts.mutate_lib.verdicts import KILLED, SURVIVED, Verdict, Verdicts, missed_gates

SMALL = b"""// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

contract Small {
    uint256 private _sum;
    uint256 private constant MOST = 100;
    event Added(uint256 before, uint256 amount);

    function add(uint256 amount) external returns (uint256) {
        uint256 before = _sum;
        if (amount > MOST) revert();
        _put(before, amount);
        emit Added(before, amount);
        return before;
    }

    function _put(uint256 before, uint256 amount) private {
        _sum = before + amount;
        assembly {
            mstore(0x00, add(amount, 1))
        }
    }
}
"""
SOURCES = {"src/Small.sol": SMALL}


@pytest.fixture(scope="module")
def mutants() -> list[Mutant]:
    functions = read_functions(SOURCES)
    return [m for function in functions.values() for m in Mutator(function, SMALL).mutants()]


def test_private_helpers_belong_to_their_callers() -> None:
    functions = read_functions(SOURCES)
    number = next(n for n, function in functions.items() if function.name == "add")
    names = {functions[n].name for n in reached(functions, number, private_only=True)}
    assert names == {"add", "_put"}


def test_each_kind_of_change_is_made(mutants: list[Mutant]) -> None:
    made = {(m.operator, SMALL[m.start : m.end].decode(), m.text) for m in mutants}
    assert made >= {
        ("relation", "amount > MOST", "amount >= MOST"),
        ("relation", "amount > MOST", "false"),
        ("constant", "MOST", "(MOST + 1)"),
        ("drop", "_put(before, amount);", ""),
        ("drop", "_sum = before + amount;", ""),
        ("drop", "emit Added(before, amount);", ""),
        ("swap-arguments", "_put(before, amount);", "_put(amount, before);"),
        ("swap-arguments", "emit Added(before, amount);", "emit Added(amount, before);"),
        ("arithmetic", "before + amount", "before - amount"),
        ("return-zero", "before", "uint256(0)"),
        ("initial-zero", "_sum", "uint256(0)"),
        ("opcode", "add(amount, 1)", "sub(amount, 1)"),
        ("literal", "1", "2"),
        ("drop", "mstore(0x00, add(amount, 1))", ""),
    }


def test_names_are_unique_and_keys_stay_where_lines_move(mutants: list[Mutant]) -> None:
    assert len({mutant.name for mutant in mutants}) == len(mutants)
    moved = SMALL.replace(b"contract Small", b"\n\ncontract Small")
    functions = read_functions({"src/Small.sol": moved})
    again = [m for function in functions.values() for m in Mutator(function, moved).mutants()]
    assert [mutant.key for mutant in again] == [mutant.key for mutant in mutants]
    assert [mutant.line for mutant in again] == [mutant.line + 2 for mutant in mutants]


def test_every_mutant_compiles_alone(mutants: list[Mutant]) -> None:
    sources = {f"src/{i}.sol": m.applied(SMALL) for i, m in enumerate(mutants)}
    assert errors_of(compile_sources(sources, {"*": {"*": ["abi"]}})) == []


def test_all_mutants_compile_together_behind_switches(mutants: list[Mutant]) -> None:
    numbers = {mutant: number for number, mutant in enumerate(mutants, 1)}
    text, regions = render_file(SMALL, mutants, numbers)
    assert {region.mutant for region in regions} == set(mutants)
    for region in regions:
        assert text[slice(*region.own)].decode().startswith(region.mutant.text)


def test_a_mutant_is_on_where_its_number_is_the_word(mutants: list[Mutant]) -> None:
    name = ("src/Small.sol", "Small")
    made = Schema({name: f"60{WORD}00"}, {}, {})
    assert made.artifact(name, 5) == "60" + "5".rjust(64, "0") + "00"


def verdict_of(outcome: str, tests: str = "") -> Verdict:
    return Verdict(outcome, tests=tests)


def some_mutants(count: int) -> list[Mutant]:
    one = Mutant("A.sol", "f", 1, "drop", 0, 1, "", Place.STATEMENT, "0")
    return [replace(one, digest=str(i)) for i in range(count)]


def test_verdicts_are_kept_and_survivors_of_other_tests_are_not(tmp_path: Path) -> None:
    killed, survived = some_mutants(2)
    verdicts = Verdicts(tmp_path / "state.json")
    verdicts.put(killed, verdict_of(KILLED, "old"))
    verdicts.put(survived, verdict_of(SURVIVED, "old"))
    again = Verdicts(tmp_path / "state.json")
    assert again.of(killed, "new") == verdict_of(KILLED, "old")
    assert again.of(survived, "old") == verdict_of(SURVIVED, "old")
    assert again.of(survived, "new") is None


@pytest.mark.parametrize(("survivors", "missed"), [(5, False), (6, True)])
def test_gate_is_95_percent_of_the_valid(survivors: int, missed: bool) -> None:
    found = {
        mutant: verdict_of(SURVIVED if i < survivors else KILLED)
        for i, mutant in enumerate(some_mutants(100))
    }
    assert bool(missed_gates(found, [])) is missed


def test_one_survivor_where_none_may_be_misses_a_gate() -> None:
    found = {mutant: verdict_of(KILLED) for mutant in some_mutants(100)}
    strict = list(found)[:1]
    assert missed_gates(found, strict) == []
    found[strict[0]] = verdict_of(SURVIVED)
    assert len(missed_gates(found, strict)) == 1
