"""The shapes of an ask, a bid, a job and a lease: each class that restates the thing's own fields.

Usage: python scripts/lib/shapes_page.py > docs/shapes.md   (from the repository's root)
A class that is named after one of them and is neither a shape here nor in OTHERS fails the test:
whoever adds one says which it is, and why. A thing has at most MOST shapes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST = 8
SHAPES = {
    "Ask": {
        "Ask (contracts)": "the ABI struct that the escrow checks",
        "Ask": "the signed struct; also its typed-data JSON",
        "AskRow": "the table",
        "RestingAsk": "the ask in the book, with what the market knows of its node",
        "AskView": "its fields laid flat for the search",
        "AskDraft": "what a provider asks `prepare` for, in words and decimal prices",
        "AskInfo": "the ask as the API lists it",
        "BookAsk": "one row of the public book, with what is free",
    },
    "Bid": {
        "Bid (contracts)": "the ABI struct that the escrow checks",
        "Bid": "the signed struct; also its typed-data JSON",
        "BidRow": "the table",
        "RestingBid": "the bid in the book, with what its job demands besides",
        "BidView": "its fields laid flat for the search",
        "BidInfo": "the bid as the API shows it",
    },
    "Job": {
        "JobSpec": "the job file, checked; everything decides by it, and its JSON is signed",
        "JobRow": "the table",
        "JobLife": "the part of a job that decides what may happen to it",
        "Job": "the job as its buyer sees it",
        "JobBrief": "the job as the parties of its lease see it",
        "AsyncJobHandle": "the SDK's handle on a job",
    },
    "Lease": {
        "Lease (contracts)": "the ABI struct of the escrow's view",
        "LeaseSlot (contracts)": "the packed storage word",
        "LeaseView": "the ABI struct, read from the chain",
        "ChainLease": "the lease folded from its events",
        "LeaseRow": "the table",
        "LeaseLife": "the part of a lease that decides what may happen to it",
        "Lease": "the lease as its parties see it",
        "LeaseEntry": "the agent's journal of a lease, which outlives the server",
    },
}
OTHERS = {
    "AddAsk", "CancelAsk", "AddBid", "CancelBid",  # commands to the book
    "SuspendAsk", "BidFilled", "BidLeftBook", "BidVoided",  # facts and effects of a life
    "LeaseClosed", "LeaseOpened", "LeaseStopped",
    "AskState", "JobState", "LeaseState", "LeaseStatus",  # enums
    "AskRows", "BidRows", "JobRows", "LeaseRows", "JobEvents",  # named queries
    "SignedAsk", "CheckedAsk", "PreparedAsk", "PreparedBid", "PreparedJob", "JobOrder",  # wrap one
    "LeaseRef", "HeldLease", "ChainEventLeaseRow", "_LeaseStruct",  # name one
    "MatchingAsk", "BidDraft", "BidQueue", "JobChange", "LeaseTerms",  # parts and neighbours
    "JobStatus", "JobMetric", "JobOutcome", "JobReceipt", "JobEventRow",  # what is told of one
    "JobChannel", "JobFolders", "JobLogs", "JobMeter", "JobRun",
    "JobWatch", "LeaseWatch",  # what works on one
    "InvalidJob",  # an error
}  # fmt: skip


def classes() -> Iterator[tuple[str, str, str]]:
    """(class, thing it is named after, file) in both packages; generated code is left out."""
    for package in ("marketplace", "settlement"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "_sync" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    words = re.findall(r"[A-Z][a-z0-9]*", node.name)
                    for thing in SHAPES.keys() & set(words):
                        yield node.name, thing, path.relative_to(ROOT).as_posix()


def undeclared() -> list[str]:
    """Classes named after a thing that nobody has declared."""
    return sorted(
        f"{place}: {name}"
        for name, thing, place in classes()
        if name not in SHAPES[thing] and name not in OTHERS
    )


def page() -> str:
    """docs/shapes.md as it should be."""
    places = {name: place for name, _, place in classes()}
    lines = [
        "# Shapes",
        "",
        f"Every class that restates what an ask, a bid, a job or a lease is: at most {MOST} each.",
        "`scripts/docs` prints this page from the code.",
    ]
    for thing, shapes in SHAPES.items():
        lines += [
            "",
            f"## {thing}: {len(shapes)}",
            "",
            "| class | where | why |",
            "| --- | --- | --- |",
        ]
        for name, why in shapes.items():
            where = places.get(name, "contracts/src")
            lines.append(f"| `{name.removesuffix(' (contracts)')}` | `{where}` | {why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
