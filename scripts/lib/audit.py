"""Holds Slither's findings against contracts/SLITHER.md. Usage: audit.py FINDINGS.json"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

EXPLAINED = Path(__file__).resolve().parents[2] / "contracts" / "SLITHER.md"
ROW = re.compile(r"^\| `([\w-]+)` \| `([\w.]+)` \| \S.*\|$", re.MULTILINE)


def place(finding: dict[str, Any]) -> tuple[str, str]:
    """The detector and `Contract.member`: what stays when lines move."""
    element = finding["elements"][0]
    parent = element.get("type_specific_fields", {}).get("parent", {}).get("name", "")
    return finding["check"], f"{parent}.{element['name']}"


def main() -> int:
    report = json.loads(Path(sys.argv[1]).read_text())
    if not report["success"]:
        print(f"slither failed: {report['error']}", file=sys.stderr)
        return 1
    findings = {place(each): each for each in report["results"].get("detectors", [])}
    rows = set(ROW.findall(EXPLAINED.read_text()))
    for key in sorted(findings.keys() - rows):
        print(f"not explained: {' '.join(key)}\n{findings[key]['description']}", file=sys.stderr)
    for key in sorted(rows - findings.keys()):
        print(f"explained, but not found: {' '.join(key)}", file=sys.stderr)
    print(f"slither: {len(findings)} findings, {len(findings.keys() & rows)} explained")
    return int(findings.keys() != rows)


if __name__ == "__main__":
    raise SystemExit(main())
