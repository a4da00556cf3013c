"""Receipts and blobs."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal

from pydantic import Field

from marketplace.wire.base import (
    Address,
    Answer,
    DecimalText,
    LeaseNo,
    Many,
    Money,
    Sha256,
    Time,
    TxHash,
    hex_text,
)


class ReceiptLine(Answer):
    """One resource: how much, at which price, what it cost."""

    resource: str = Field(examples=["gpu"])
    quantity: DecimalText
    unit: str = Field(examples=["GPU-seconds"])
    price: DecimalText
    price_unit: str = Field(examples=["per GPU-hour"])
    cost: Money


class ReceiptTransaction(Answer):
    """One transaction that moved the lease's money, and what it did."""

    kind: str = Field(examples=["Settled"])
    tx_hash: TxHash
    block: int


def transaction_lines(transactions: Sequence[ReceiptTransaction]) -> list[str]:
    """One line per transaction; of three and more of a kind in a row the first and the last."""
    lines: list[str] = []
    for kind, group in groupby(transactions, key=lambda t: t.kind):
        run = list(group)
        shown = [f"{kind:<8} {t.tx_hash} in block {t.block}" for t in (run[0], run[-1])]
        if len(run) == 1:
            shown = shown[:1]
        elif len(run) > 2:
            shown.insert(1, f"{kind:<8} … {len(run) - 2} more, in JSON …")
        lines += shown
    return lines


class Receipt(Answer):
    """Usage → rate → cost → transactions of one closed lease.

    `gross` is the sum of the lines and of `fee` and `net`. `conserved`: locked = released +
    refunded, and released is what the usage costs. `readings` counts accepted attestations.
    """

    id: str
    job_id: str
    lease_id: str
    lease_no: LeaseNo
    buyer: Address
    provider: Address
    witness: Address
    tier: str
    simulated: bool
    readings: int
    used_ms: int
    gpu_seconds: DecimalText
    rate: DecimalText
    rate_unit: Literal["token per hour"]
    lines: Many[ReceiptLine]
    gross: Money
    fee: Money
    net: Money
    locked: Money
    released: Money
    refunded: Money
    conserved: bool
    transactions: Many[ReceiptTransaction]
    created_at: Time

    def __str__(self) -> str:
        return "\n  ".join(self._text())

    def _text(self) -> Iterator[str]:
        simulated = " · simulated GPU" if self.simulated else ""
        yield f"Receipt {self.id} · job {self.job_id} · {self.tier}{simulated}"
        yield (
            f"measured {self.used_ms} ms in {self.readings} readings, {self.gpu_seconds:f} GPU-s, "
            f"at {self.rate:f} {self.gross.currency}/h"
        )
        for line in self.lines:
            yield (
                f"{line.resource:<8} {line.quantity:f} {line.unit} at {line.price:f} "
                f"{line.price_unit} = {line.cost}"
            )
        yield f"released {self.released} (fee {self.fee}), refunded {self.refunded}"
        yield f"locked {self.locked}: {'conserved' if self.conserved else 'NOT CONSERVED'}"
        yield f"lease    {hex_text(self.lease_no)}"
        for name in ("buyer", "provider", "witness"):
            yield f"{name:<8} {getattr(self, name)}"
        yield from transaction_lines(self.transactions)


class JobReceipt(Receipt):
    """The receipt of a job's last lease. `earlier` are those of leases that were lost."""

    earlier: Many[Receipt]


class Blob(Answer):
    """A stored file, by its content."""

    sha256: Sha256
    size: int = Field(description="bytes")
