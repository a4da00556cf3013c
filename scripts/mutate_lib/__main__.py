"""Runs the mutation tests: `python -m scripts.mutate_lib [options]`.

stdout has only the JSON object or the list; everything for people is on stderr.
Exit code 1: a gate is missed; 2: it could not run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import queue
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict

from scripts.mutate_lib.lanes import GAS_TESTS, INVARIANT_TESTS, Lane, Stage, make_lanes
from scripts.mutate_lib.operators import Mutant, Mutator
from scripts.mutate_lib.schema import Schema, build
from scripts.mutate_lib.syntax import (
    CONTRACTS,
    ESCROW,
    EXTENSION,
    LIBRARY_TESTS,
    Function,
    MutateError,
    Sources,
    compile_sources,
    errors_of,
    reached,
    read_functions,
    read_sources,
)
from scripts.mutate_lib.verdicts import (
    EQUIVALENT,
    KILLED,
    STRICT,
    SURVIVED,
    Tally,
    Verdict,
    Verdicts,
    missed_gates,
    tally,
)

SAMPLE_SEED = 7
MOST_RELEVANT = 3
CODE = {
    ESCROW: {"ComputeEscrow": ["evm.bytecode.object"]},
    EXTENSION: {"EscrowExtension": ["evm.bytecode.object"]},
}


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


class Run:
    """One run: the sources with all their mutants, and those that are chosen."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.sources: Sources = read_sources(starts=(ESCROW, EXTENSION, LIBRARY_TESTS))
        self.functions = read_functions(self.sources)
        self._mutants = {
            number: Mutator(function, self.sources[function.file]).mutants()
            for number, function in self.functions.items()
        }
        self.verdicts = Verdicts()
        self._tests = _digest_of_tests()
        self._original = ""

    @property
    def all(self) -> list[Mutant]:
        return [mutant for mutants in self._mutants.values() for mutant in mutants]

    def chosen(self) -> dict[Mutant, Function]:
        """The mutants of the named functions and their private helpers, or all; or a sample."""
        numbers = set(self.functions)
        if self._options.function:
            numbers = self._reached(self._options.function)
        chosen = {
            mutant: self.functions[number] for number in numbers for mutant in self._mutants[number]
        }
        if self._options.sample:
            count = min(self._options.sample, len(chosen))
            keys = sorted(chosen, key=lambda mutant: mutant.key)
            kept = random.Random(SAMPLE_SEED).sample(keys, count)  # noqa: S311 (no secret)
            return {mutant: chosen[mutant] for mutant in kept}
        return chosen

    def strict(self) -> list[Mutant]:
        """Mutants of the functions in which none may survive."""
        return [
            mutant for number in self._reached(list(STRICT)) for mutant in self._mutants[number]
        ]

    def _reached(self, names: Sequence[str]) -> set[int]:
        starts = [
            number
            for number, function in self.functions.items()
            if function.name in names or function.title in names
        ]
        missing = set(names) - {
            word for n in starts for word in (self.functions[n].name, self.functions[n].title)
        }
        if missing:
            raise MutateError(f"no such function: {', '.join(sorted(missing))}")
        return {
            number
            for start in starts
            for number in reached(self.functions, start, private_only=True)
        }

    def known(self, mutant: Mutant) -> Verdict | None:
        """A verdict of an earlier run."""
        return None if self._options.fresh else self.verdicts.of(mutant, self._tests)

    def stages(self, function: Function) -> list[Stage]:
        """The tests of calls that reach a function, then the other tests, then the invariants."""
        number = next(n for n, other in self.functions.items() if other is function)
        files: dict[str, None] = {}
        if function.file.startswith("src/libraries/"):
            files[LIBRARY_TESTS] = None
        entries = [
            other.name
            for start, other in self.functions.items()
            if other.external and number in reached(self.functions, start, private_only=False)
        ]
        for name in sorted(entries, key=lambda name: (name not in STRICT, name)):
            if len(files) < MOST_RELEVANT and (file := _tests_of(name)):
                files[file] = None
        first = [Stage(paths=tuple(files), fuzz_runs=16)] if files else []
        rest = Stage(without=(INVARIANT_TESTS, GAS_TESTS, *files), fuzz_runs=32)
        return [*first, rest, Stage(paths=(INVARIANT_TESTS,))]

    def judge(self, lane: Lane, schema: Schema, mutant: Mutant, function: Function) -> Verdict:
        """Run the tests on a mutant, up to the first that fails."""
        lane.put(schema, schema.numbers[mutant])
        for stage in self.stages(function):
            if stage.paths == (INVARIANT_TESTS,) and self.verdicts.reason(mutant):
                break  # only mutants that might be real get the slowest tests
            if failing := lane.failing(stage):
                return Verdict(KILLED, failing[0])
        return Verdict(SURVIVED, tests=self._tests)

    def is_equivalent(self, mutant: Mutant) -> bool:
        """Whether the optimized bytecode is the same as without the mutant."""
        self._original = self._original or self._code(self.sources)
        path = f"src/{mutant.file}"
        changed = {**self.sources, path: mutant.applied(self.sources[path])}
        return self._code(changed) == self._original

    def _code(self, sources: Sources) -> str:
        answer = compile_sources(
            {path: text for path, text in sources.items() if not path.startswith("test/")},
            CODE,
            optimized=True,
        )
        if errors := errors_of(answer):
            raise MutateError(errors[0]["formattedMessage"])
        return "".join(
            answer["contracts"][path][contract]["evm"]["bytecode"]["object"]
            for path, contracts in CODE.items()
            for contract in contracts
        )


def _digest_of_tests() -> str:
    digest = hashlib.sha256()
    for file in sorted((CONTRACTS / "test").rglob("*.sol")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _tests_of(function: str) -> str:
    """The test file of an external function: that of its name, else the one with most calls."""
    folder = CONTRACTS / "test" / "ComputeEscrow"
    if (folder / f"{function}.t.sol").exists():
        return f"test/ComputeEscrow/{function}.t.sol"
    counts = {
        file.name: file.read_text().count(f"escrow.{function}(")
        for file in sorted(folder.glob("*.t.sol"))
        if f"test/ComputeEscrow/{file.name}" != GAS_TESTS
    }
    name = max(counts, key=lambda name: counts[name])
    return f"test/ComputeEscrow/{name}" if counts[name] else ""


def run_mutants(
    run: Run, chosen: dict[Mutant, Function], todo: dict[Mutant, Function], jobs: int
) -> None:
    """Judge mutants in parallel, one per lane, and keep each verdict at once."""
    schema = build(run.sources, list(chosen))
    todo = {mutant: function for mutant, function in todo.items() if mutant in schema.numbers}
    lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
    made = make_lanes(jobs)
    made[0].put(schema, 0)
    failing = made[0].failing(Stage(without=(INVARIANT_TESTS, GAS_TESTS)), fail_fast=False)
    if failing:
        raise MutateError(f"tests fail without any mutant: {', '.join(failing)}")
    for lane in made:
        lanes.put(lane)

    def judge(mutant: Mutant) -> tuple[Mutant, Verdict, float]:
        lane = lanes.get()
        began = time.monotonic()
        try:
            return mutant, run.judge(lane, schema, mutant, todo[mutant]), time.monotonic() - began
        finally:
            lanes.put(lane)

    with ThreadPoolExecutor(jobs) as pool:
        results = as_completed([pool.submit(judge, mutant) for mutant in todo])
        try:
            for done, result in enumerate(results, 1):
                mutant, verdict, seconds = result.result()
                run.verdicts.put(mutant, verdict)
                what = f"{done}/{len(todo)} {seconds:.1f}s {verdict.outcome} {verdict.by}"
                say(what, mutant.name, repr(mutant.text))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error their verdicts would be lost


def settle_survivors(run: Run, mutants: Sequence[Mutant]) -> None:
    """Separate mutants that compile to the same code from real survivors."""
    for mutant in mutants:
        if run.is_equivalent(mutant):
            run.verdicts.put(mutant, Verdict(EQUIVALENT))


def report(run: Run, verdicts: dict[Mutant, Verdict], *, as_json: bool) -> int:
    """Print counts, survivors and missed gates. The exit code."""
    tallies = tally(verdicts)
    total = Tally()
    for verdict in verdicts.values():
        total.add(verdict.outcome)
    for name, counts in [*sorted(tallies.items()), ("all", total)]:
        say(
            f"{name:40} {counts.killed:4}/{counts.valid:<4} {counts.percent:5.1f} %"
            f"  equivalent {counts.equivalent}, explained {counts.explained},"
            f" survived {counts.survived}"
        )
    for reason in run.verdicts.unused_reasons(run.all):
        say("a reason for no mutant:", reason)
    alive = [mutant for mutant, verdict in verdicts.items() if verdict.outcome == SURVIVED]
    for mutant in alive:
        say("survived", mutant.name, repr(mutant.text))
    strict = [mutant for mutant in run.strict() if mutant in verdicts]
    missed = missed_gates(verdicts, strict)
    for reason in missed:
        say("gate missed:", reason)
    if as_json:
        result = {
            "functions": {name: asdict(counts) for name, counts in tallies.items()},
            "all": asdict(total) | {"percent": total.percent},
            "survivors": [mutant.name for mutant in alive],
            "missed": missed,
        }
        print(json.dumps(result, indent=2))
    return 1 if missed else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("--function", action="append", help="with its private helpers; repeatable")
    parser.add_argument("--sample", type=int, help="this many of them, always the same")
    parser.add_argument("--list", action="store_true", help="names and texts, nothing is run")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="forget earlier verdicts")
    parser.add_argument("--report", action="store_true", help="of earlier verdicts, nothing is run")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """List, run or report."""
    options = parse(arguments)
    try:
        run = Run(options)
        chosen = run.chosen()
        if options.list:
            for mutant in chosen:
                print(mutant.name, json.dumps(mutant.text))
            return 0
        todo = {m: function for m, function in chosen.items() if run.known(m) is None}
        if todo and not options.report:
            run_mutants(run, chosen, todo, options.jobs)
            options.fresh = False
            after = {mutant: run.known(mutant) for mutant in todo}
            settle_survivors(run, [m for m, v in after.items() if v and v.outcome == SURVIVED])
        found = {mutant: run.known(mutant) for mutant in chosen}
    except MutateError as error:
        say(error)
        return 2
    return report(run, {m: v for m, v in found.items() if v}, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
