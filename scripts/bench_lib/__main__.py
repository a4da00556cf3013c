"""`python -m scripts.bench_lib NAME [--json]`: JSON alone on stdout, or a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from scripts.bench_lib import gas, idle, restart
from scripts.bench_lib.rows import Row

BENCHES: dict[str, Callable[[], list[Row]]] = {
    "gas": gas.rows,
    "idle": idle.rows,
    "restart": restart.rows,
}


def main() -> int:
    """Run one benchmark; 1 where a gate is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("name", choices=sorted(BENCHES))
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    chosen = parser.parse_args()
    rows = BENCHES[chosen.name]()
    ok = all(row.ok for row in rows)
    if chosen.json:
        document = {"bench": chosen.name, "rows": [row.to_json() for row in rows], "ok": ok}
        print(json.dumps(document))
    else:
        _show(chosen.name, rows)
    return 0 if ok else 1


def _show(name: str, rows: list[Row]) -> None:
    table = Table(title=name)
    for heading in ("row", "value", "unit", "against", "ratio", "gate", "aim", ""):
        table.add_column(heading, justify="right" if heading in ("value", "ratio") else "left")
    for row in rows:
        against = f"{row.against.name} {row.against.value:,.0f}" if row.against else ""
        figures = (f"{x:,.0f}" if x is not None else "" for x in (row.gate, row.aim))
        ratio = f"{row.ratio:.2f}" if row.ratio else ""
        verdict = "" if row.gate is None else "ok" if row.ok else "MISSED"
        table.add_row(row.name, f"{row.value:,.0f}", row.unit, against, ratio, *figures, verdict)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
