"""Receipts and blobs."""

from __future__ import annotations

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


class JobReceipt(Receipt):
    """The receipt of a job's last lease. `earlier` are those of leases that were lost."""

    earlier: Many[Receipt]


class Blob(Answer):
    """A stored file, by its content."""

    sha256: Sha256
    size: int = Field(description="bytes")
