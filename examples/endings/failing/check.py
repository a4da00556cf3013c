"""Compares a file with the checksum that came with it, finds them different, and ends with 3."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import coulomb_job

ROUNDS = 4_000_000
PARTS = 20
MISMATCH = 3


def main() -> int:
    coulomb_job.ready()
    here = Path(__file__).parent
    stated = (here / "weights.sha256").read_text(encoding="utf-8").strip()
    digest = (here / "weights.txt").read_bytes()
    for part in range(PARTS):
        coulomb_job.progress(f"stretching the checksum: {part} of {PARTS}")
        for _ in range(ROUNDS // PARTS):  # a hash of hashes, as slow checksums are
            digest = hashlib.sha256(digest).digest()
    if digest.hex() != stated:
        print(f"weights.txt: {digest.hex()} found, {stated} stated", file=sys.stderr)
        return MISMATCH
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
