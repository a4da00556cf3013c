"""The verdicts on mutants: kept between runs, counted by function, checked against the gates."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.mutate_lib.operators import Mutant
from scripts.mutate_lib.syntax import CONTRACTS, WORK

STATE = WORK / "state.json"
REASONS = CONTRACTS / "test" / "mutants.json"

KILLED, SURVIVED, EQUIVALENT, EXPLAINED = "killed", "survived", "equivalent", "explained"
OVERALL_PERCENT = 95.0
# Functions that move tokens at a deadline: no mutant of them or their helpers may survive.
STRICT = ("settle", "refund")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`equivalent`: it has the same bytecode. `explained`: it survives for a reason in `REASONS`.

    `by` is a test that fails, or the reason. `tests` is the digest of the tests that it survived.
    """

    outcome: str
    by: str = ""
    tests: str = ""


class Verdicts:
    """Verdicts by mutant. Each is written at once, so a run may be interrupted at any time."""

    def __init__(self, file: Path = STATE) -> None:
        self._file = file
        self._kept: dict[str, Verdict] = {}
        if file.exists():
            kept = json.loads(file.read_text())
            self._kept = {key: Verdict(**value) for key, value in kept.items()}
        self._reasons: dict[str, str] = json.loads(REASONS.read_text()) if REASONS.exists() else {}

    def of(self, mutant: Mutant, tests: str) -> Verdict | None:
        """What is known. A survivor of other tests than these, whose digest is `tests`, is not,
        unless somebody has said why it survives."""
        verdict = self._kept.get(mutant.key)
        if verdict is None or verdict.outcome != SURVIVED:
            return verdict
        if reason := self.reason(mutant):
            return Verdict(EXPLAINED, reason)
        return verdict if verdict.tests == tests else None

    def reason(self, mutant: Mutant) -> str:
        """Why no test can see the change; empty if no reason is recorded."""
        matching = (why for what, why in self._reasons.items() if fnmatch.fnmatch(mutant.key, what))
        return next(matching, "")

    def unused_reasons(self, mutants: Iterable[Mutant]) -> list[str]:
        """Reasons whose mutant is gone."""
        keys = [mutant.key for mutant in mutants]
        return [what for what in self._reasons if not fnmatch.filter(keys, what)]

    def put(self, mutant: Mutant, verdict: Verdict) -> None:
        """Keep a verdict."""
        self._kept[mutant.key] = verdict
        self._file.parent.mkdir(parents=True, exist_ok=True)
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps({key: asdict(value) for key, value in self._kept.items()}))
        new.replace(self._file)


@dataclass(slots=True)
class Tally:
    """Counts of one function or of all. Equivalent and explained ones are not of the valid."""

    killed: int = 0
    survived: int = 0
    equivalent: int = 0
    explained: int = 0

    @property
    def valid(self) -> int:
        return self.killed + self.survived

    @property
    def percent(self) -> float:
        return 100.0 if self.valid == 0 else 100.0 * self.killed / self.valid

    def add(self, outcome: str) -> None:
        setattr(self, outcome, getattr(self, outcome) + 1)


def tally(verdicts: Mapping[Mutant, Verdict]) -> dict[str, Tally]:
    """Counts by file and function."""
    tallies: dict[str, Tally] = {}
    for mutant, verdict in verdicts.items():
        name = f"{Path(mutant.file).stem}.{mutant.function}"
        tallies.setdefault(name, Tally()).add(verdict.outcome)
    return tallies


def missed_gates(verdicts: Mapping[Mutant, Verdict], strict: Sequence[Mutant]) -> list[str]:
    """The gates that these verdicts miss, as sentences."""
    total = Tally()
    for verdict in verdicts.values():
        total.add(verdict.outcome)
    missed = []
    if total.percent < OVERALL_PERCENT:
        missed.append(f"{total.percent:.1f} % killed, {OVERALL_PERCENT:g} % wanted")
    alive = [mutant for mutant in strict if verdicts[mutant].outcome == SURVIVED]
    if alive:
        missed.append(f"{len(alive)} survive in {', '.join(STRICT)} or their private helpers")
    return missed
