"""What a benchmark says: figures, each beside a rival's or a limit, with a gate and an aim."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Against:
    """A figure to compare with. `source`: where it is from, if this run did not measure it."""

    name: str
    value: float
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `gate`: the worst that passes; `aim`: what we would like."""

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"] = "lower"
    against: Against | None = None
    gate: float | None = None
    aim: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better than what it is compared with."""
        if self.against is None or not self.value or not self.against.value:
            return None
        pair = (self.against.value, self.value)
        better, worse = pair if self.better == "lower" else pair[::-1]
        return round(better / worse, 3)

    @property
    def ok(self) -> bool:
        """Whether it passes its gate."""
        if self.gate is None:
            return True
        return self.value <= self.gate if self.better == "lower" else self.value >= self.gate

    def to_json(self) -> dict[str, Any]:
        """As the JSON of a benchmark has it."""
        against = asdict(self.against) if self.against else None
        if against is not None and against["source"] is None:
            del against["source"]
        return {
            "name": self.name, "value": self.value, "unit": self.unit, "better": self.better,
            "against": against, "ratio": self.ratio, "gate": self.gate, "aim": self.aim,
            "ok": self.ok,
        }  # fmt: skip
