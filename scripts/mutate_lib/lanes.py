"""Copies of the contracts in which forge runs the tests on one mutant at a time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.mutate_lib.schema import Schema
from scripts.mutate_lib.syntax import CONTRACTS, ROOT, SOLC, WORK, MutateError, environment

FORGE = ROOT / ".setup" / "bin" / "forge"
GAS_TESTS = "test/ComputeEscrow/gas.t.sol"  # bounds for optimized code
SIZE_TESTS = "size_limit"  # likewise
INVARIANT_TESTS = "test/invariant/*"
BUILD_SECONDS = 1800
TEST_SECONDS = 600
SEED = "0x1"
# A reason may have its own line; the actions that broke an invariant always have.
_FAILED = re.compile(r"^\[FAIL.*?\]\s+(\w+)\(", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of forge: only `paths`, or all but `without`; only `tests` if any are named."""

    paths: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    fuzz_runs: int = 32
    invariant_runs: int = 8

    def arguments(self) -> list[str]:
        """The options that choose these tests."""
        named = ["--match-test", f"^({'|'.join(self.tests)})\\("] if self.tests else []
        if self.paths:
            return ["--match-path", _glob(self.paths), *named]
        return ["--no-match-path", _glob(self.without), *named]


def _glob(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else "{" + ",".join(paths) + "}"


@dataclass(frozen=True, slots=True)
class Lane:
    """One copy of the contracts with its own artifacts."""

    folder: Path

    def put(self, schema: Schema, number: int) -> None:
        """Switch one mutant on; zero switches all off."""
        for name in schema.code:
            path, contract = name
            file = self.folder / "out" / Path(path).name / f"{contract}.json"
            artifact = json.loads(file.read_text())
            artifact["bytecode"] = {"object": "0x" + schema.artifact(name, number)}
            artifact["bytecode"] |= {"sourceMap": "", "linkReferences": {}}
            file.write_text(json.dumps(artifact))

    def failing(self, stage: Stage, *, fail_fast: bool = True) -> list[str]:
        """The tests that fail; "out of time" if forge does not end.

        Raises MutateError if forge ran no test.
        """
        for kept in ("fuzz", "invariant"):
            shutil.rmtree(self.folder / "cache" / kept, ignore_errors=True)
        arguments = [*stage.arguments(), "--no-match-test", SIZE_TESTS]
        arguments += ["--fuzz-seed", SEED, "--threads", "1"]
        arguments += ["--fail-fast"] if fail_fast else []
        try:
            result = self._run(
                [FORGE, "test", *arguments],
                TEST_SECONDS,
                FOUNDRY_FUZZ_RUNS=str(stage.fuzz_runs),
                FOUNDRY_INVARIANT_RUNS=str(stage.invariant_runs),
                FOUNDRY_INVARIANT_SHRINK_RUN_LIMIT="0",  # that it fails is enough
            )
        except subprocess.TimeoutExpired:
            return ["out of time"]
        failed = _FAILED.findall(result.stdout)
        if result.returncode != 0 and not failed:
            raise MutateError(f"forge did not test: {(result.stdout + result.stderr)[-2000:]}")
        return list(dict.fromkeys(failed))

    def build(self) -> None:
        """Compile what has changed. Raises MutateError."""
        result = self._run([FORGE, "test", "--list"], BUILD_SECONDS)
        if result.returncode != 0:
            raise MutateError(f"tests do not compile: {(result.stdout + result.stderr)[-2000:]}")

    def _run(
        self, command: Sequence[str | Path], seconds: int, **more: str
    ) -> subprocess.CompletedProcess[str]:
        settings = {"FOUNDRY_SOLC": str(SOLC), "FOUNDRY_CODE_SIZE_LIMIT": "1000000"}
        settings["FOUNDRY_PROFILE"] = "mutants"  # where no test asks for more runs than the others
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment(**settings, **more),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )


def make_lanes(count: int, folder: Path = WORK) -> list[Lane]:
    """Lanes with the current contracts and tests. The first is built, the others copied."""
    first = Lane(folder / "lane0")
    first.folder.mkdir(parents=True, exist_ok=True)
    for name in ("src", "test", "out", "cache"):  # with its compiled files and their times
        shutil.rmtree(first.folder / name, ignore_errors=True)
        if (CONTRACTS / name).exists():
            shutil.copytree(CONTRACTS / name, first.folder / name)
    shutil.copy(CONTRACTS / "foundry.toml", first.folder)
    link = first.folder / "node_modules"
    link.unlink(missing_ok=True)
    link.symlink_to((CONTRACTS / "node_modules").resolve())
    first.build()
    lanes = [first]
    for number in range(1, count):
        lane = Lane(folder / f"lane{number}")
        shutil.rmtree(lane.folder, ignore_errors=True)
        shutil.copytree(first.folder, lane.folder, symlinks=True)
        lanes.append(lane)
    return lanes
