"""Deliberate bugs, listed in `contracts/test/planted.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from scripts.mutate_lib.operators import Mutant, Place
from scripts.mutate_lib.syntax import CONTRACTS, MutateError, Sources

PLANTED = CONTRACTS / "test" / "planted.toml"


@dataclass(frozen=True, slots=True)
class Bug:
    """One edit of a file under src/, and the tests that must notice it."""

    name: str
    file: str
    kind: str
    old: str
    new: str
    tests: str
    by: str

    def mutant(self, sources: Sources) -> Mutant:
        """The edit in these sources. Raises MutateError unless the old text is there once."""
        source = sources.get(f"src/{self.file}", b"")
        old = self.old.encode()
        if source.count(old) != 1:
            raise MutateError(
                f"{self.name!r}: {self.file} has {self.old!r} {source.count(old)} times"
            )
        start = source.index(old)
        return Mutant(
            file=self.file,
            function="planted",
            line=source.count(b"\n", 0, start) + 1,
            operator=self.kind,
            start=start,
            end=start + len(old),
            text=self.new,
            place=Place(self.kind),
            digest=self.name,
        )

    @property
    def tests_path(self) -> str:
        return f"test/ComputeEscrow/{self.tests}.t.sol"


def read_bugs(file: Path = PLANTED) -> list[Bug]:
    """All bugs of a file."""
    return [Bug(**bug) for bug in tomllib.loads(file.read_text())["bug"]]
