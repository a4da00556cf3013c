"""Receipts: measured usage → rate → cost, resource by resource → payments and transactions.

The chain settles one number; a receipt shows what it is made of. Parts are shares of the floored
total by largest remainder, so the lines add up to the chain's figure exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from marketplace.domain.pricing import Money, from_nano, from_scaled, rate_per_hour
from settlement.orders import Prices
from settlement.units import (
    Sizes,
    cost,
    counted_cost,
    fee_of,
    gpu_ms,
    rate_of,
)
from settlement.usage import UsageVector


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """One transaction that moved this lease's money: what it did, its hash and block."""

    kind: str
    tx_hash: str
    block: int

    def to_json(self) -> dict[str, Any]:
        """As is."""
        return {"kind": self.kind, "tx_hash": self.tx_hash, "block": self.block}


@dataclass(frozen=True, slots=True)
class ReceiptInput:
    """What a receipt is made from, all of it stored or on chain.

    `released` is gross atoms paid over the lease's life, `refunded` what went back, `locked` what
    opening locked. `readings` counts accepted attestations.
    """

    lease_id: str
    job_id: str
    tier: str
    simulated: bool
    prices: Prices
    sizes: Sizes
    unit: str
    used: UsageVector
    readings: int
    locked: int
    released: int
    refunded: int
    fee_bps: int
    transactions: tuple[ChainEvent, ...]
    decimals: int = 18


@dataclass(frozen=True, slots=True)
class Line:
    """One resource: how much, at which price, what it cost in atoms."""

    resource: str
    quantity: str
    unit: str
    price: str
    price_unit: str
    cost: Money

    def to_json(self) -> dict[str, Any]:
        """Texts for people, money with atoms."""
        return {
            "resource": self.resource,
            "quantity": self.quantity,
            "unit": self.unit,
            "price": self.price,
            "price_unit": self.price_unit,
            "cost": self.cost.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Receipt:
    """The whole line from readings to transactions. `gross` = Σ lines = `fee` + `net`."""

    source: ReceiptInput
    rate: int
    lines: tuple[Line, ...]
    gross: int
    fee: int

    @property
    def net(self) -> int:
        """What the provider keeps."""
        return self.gross - self.fee

    @property
    def conserved(self) -> bool:
        """Whether locked = released + refunded, and released is what the usage costs."""
        source = self.source
        return source.locked == source.released + source.refunded and source.released == self.gross

    def to_json(self) -> dict[str, Any]:
        """The form the API answers."""
        source = self.source

        def money(atoms: int) -> dict[str, str]:
            return Money(atoms, decimals=source.decimals).to_json()

        return {
            "lease_id": source.lease_id,
            "job_id": source.job_id,
            "tier": source.tier,
            "simulated": source.simulated,
            "readings": source.readings,
            "used_ms": source.used.ms,
            "gpu_seconds": gpu_seconds(source.used.ms, source.sizes.gpu_milli),
            "rate": rate_per_hour(self.rate),
            "rate_unit": "token per hour",
            "lines": [line.to_json() for line in self.lines],
            "gross": money(self.gross),
            "fee": money(self.fee),
            "net": money(self.net),
            "locked": money(source.locked),
            "released": money(source.released),
            "refunded": money(source.refunded),
            "conserved": self.conserved,
            "transactions": [event.to_json() for event in source.transactions],
        }


def gpu_seconds(ms: int, gpu_milli: int) -> str:
    """GPU-seconds as decimal text, to the millisecond, rounded down."""
    return from_scaled(gpu_ms(ms, gpu_milli), 3)


def split(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Divide a total in proportion to weights by largest remainder; the parts add up to it.

    Equal remainders go to the earlier part. All weights zero: the total must be zero, too.
    """
    whole = sum(weights)
    if whole == 0:
        if total:
            raise ValueError(f"{total} cannot be divided among nothing")
        return (0,) * len(weights)
    parts = [total * weight // whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for index in order[: total - sum(parts)]:
        parts[index] += 1
    return tuple(parts)


def build_receipt(source: ReceiptInput) -> Receipt:
    """Work out lines, gross and fee from usage and prices. Source: `ComputeEscrow` payments."""
    prices, used = source.prices, source.used
    rate = rate_of(prices.timed(), source.sizes)
    time = cost(rate, used.ms, source.decimals)
    counted = counted_cost(
        prices.egress_gib, prices.unit, used.egress_mib, used.units, source.decimals
    )
    fee = fee_of(time, source.fee_bps) + fee_of(counted, source.fee_bps)
    lines = (*_time_lines(source, time), *_counted_lines(source, counted))
    return Receipt(source, rate, lines, time + counted, fee)


def _time_lines(source: ReceiptInput, total: int) -> list[Line]:
    prices, sizes, ms = source.prices, source.sizes, source.used.ms
    # (name, size, decimals of its quantity per hour, price, share of the rate in 1/128)
    rows = (
        ("gpu", sizes.gpu_milli, "GPU", prices.gpu_hour, 128 * prices.gpu_hour * sizes.gpu_milli),
        ("cpu", sizes.cpu_milli, "core", prices.cpu_hour, 128 * prices.cpu_hour * sizes.cpu_milli),
        (
            "memory",
            sizes.memory_mib,
            "GiB",
            prices.memory_gib_hour,
            125 * prices.memory_gib_hour * sizes.memory_mib,
        ),
        (
            "storage",
            sizes.storage_mib,
            "GiB",
            prices.storage_gib_hour,
            125 * prices.storage_gib_hour * sizes.storage_mib,
        ),
    )
    costs = split(total, [weight for *_, weight in rows])
    lines = []
    for (name, size, unit, price, _), part in zip(rows, costs, strict=True):
        if not size or (not price and name != "gpu"):
            continue
        if unit == "GiB":  # MiB·ms to GiB·seconds, to the millionth
            quantity = from_scaled(size * ms * 1000 // 1024, 6)
        else:
            quantity = from_scaled(size * ms, 6)
        money = Money(part, decimals=source.decimals)
        lines.append(
            Line(name, quantity, f"{unit}-seconds", from_nano(price), f"per {unit}-hour", money)
        )
    return lines


def _counted_lines(source: ReceiptInput, total: int) -> list[Line]:
    prices, used = source.prices, source.used
    egress, units = split(
        total, [prices.egress_gib * used.egress_mib, 1024 * prices.unit * used.units]
    )
    lines = []
    if used.egress_mib:
        quantity = from_scaled(used.egress_mib * 10**6 // 1024, 6)
        money = Money(egress, decimals=source.decimals)
        price = from_nano(prices.egress_gib)
        lines.append(Line("egress", quantity, "GiB", price, "per GiB", money))
    if used.units:
        name, money = source.unit or "unit", Money(units, decimals=source.decimals)
        price = from_nano(prices.unit)
        lines.append(Line("units", str(used.units), name, price, f"per {name}", money))
    return lines
