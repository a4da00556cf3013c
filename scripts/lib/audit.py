"""Compares Slither's findings with contracts/SLITHER.md. Usage: audit.py FINDINGS.json"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

EXPLAINED = Path(__file__).resolve().parents[2] / "contracts" / "SLITHER.md"
ROW = re.compile(r"^\| `([\w-]+)` \| `([\w.]+)`(?: x (\d+))? \| \S.*\|$", re.MULTILINE)


def place(finding: dict[str, Any]) -> tuple[str, str]:
    """The detector and `Contract.member`: what stays the same when lines move."""
    element = finding["elements"][0]
    parent = element.get("type_specific_fields", {}).get("parent", {}).get("name", "")
    return finding["check"], f"{parent}.{element['name']}"


def main() -> int:
    report = json.loads(Path(sys.argv[1]).read_text())
    if not report["success"]:
        print(f"slither failed: {report['error']}", file=sys.stderr)
        return 1
    found = report["results"].get("detectors", [])
    findings = Counter(map(place, found))
    explained = ROW.findall(EXPLAINED.read_text())
    rows = Counter({(what, where): int(n or 1) for what, where, n in explained})
    for each in found:
        if findings[place(each)] > rows[place(each)]:
            print(f"not explained: {' '.join(place(each))}\n{each['description']}", file=sys.stderr)
    for key in rows - findings:
        print(f"explained more often than found: {' '.join(key)}", file=sys.stderr)
    print(f"slither: {findings.total()} findings, {(findings & rows).total()} explained")
    return int(findings != rows)


if __name__ == "__main__":
    raise SystemExit(main())
