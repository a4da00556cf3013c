"""What a buyer reads of a receipt."""

from __future__ import annotations

import pytest

from marketplace.sdk.purchases import ReceiptTransaction, transaction_lines


def made(kinds: str) -> list[ReceiptTransaction]:
    names = {"O": "Opened", "S": "Settled", "C": "Closed"}
    return [ReceiptTransaction(names[k], f"0x{i}", i) for i, k in enumerate(kinds)]


@pytest.mark.parametrize(
    ("kinds", "lines"),
    [
        ("", []),
        ("OC", ["Opened   0x0 in block 0", "Closed   0x1 in block 1"]),
        ("SS", ["Settled  0x0 in block 0", "Settled  0x1 in block 1"]),
        (
            "OSSSSC",
            [
                "Opened   0x0 in block 0",
                "Settled  0x1 in block 1",
                "Settled  … 2 more, in JSON …",
                "Settled  0x4 in block 4",
                "Closed   0x5 in block 5",
            ],
        ),
    ],
)
def test_many_transactions_of_a_kind_are_shown_in_short(kinds: str, lines: list[str]) -> None:
    assert transaction_lines(made(kinds)) == lines
