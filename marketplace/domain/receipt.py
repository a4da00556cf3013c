"""Receipts: measured usage → rate → cost, resource by resource → payments and transactions.

The chain settles one number; a receipt shows what it is made of. Parts are shares of the floored
total by largest remainder, so the lines add up to the chain's figure exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from marketplace.domain.pricing import from_nano, from_scaled
from settlement.orders import Prices
from settlement.units import Sizes, cost, counted_cost, fee_of, gpu_ms
from settlement.usage import UsageVector


@dataclass(frozen=True, slots=True)
class ReceiptInput:
    """What a receipt's figures follow from, all of it stored or on chain.

    `released` is gross atoms paid over the lease's life, `refunded` what went back, `locked` what
    opening and topping up locked. `unit` names what `prices.unit` counts.
    """

    prices: Prices
    sizes: Sizes
    unit: str
    used: UsageVector
    locked: int
    released: int
    refunded: int
    fee_bps: int
    decimals: int = 18


@dataclass(frozen=True, slots=True)
class Charge:
    """One resource: how much (decimal text), at which price (decimal tokens), its cost in atoms."""

    resource: str
    quantity: str
    unit: str
    price: str
    price_unit: str
    atoms: int


@dataclass(frozen=True, slots=True)
class Charges:
    """From usage to payments. `gross` = Σ lines = `fee` + `net`; `rate` in 1e-12 token per hour."""

    source: ReceiptInput
    rate: int
    lines: tuple[Charge, ...]
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


def charges_of(source: ReceiptInput) -> Charges:
    """Work out lines, gross and fee from usage and prices. Source: `ComputeEscrow` payments."""
    prices, used = source.prices, source.used
    rate = prices.rate(source.sizes)
    time = cost(rate, used.ms, source.decimals)
    counted = counted_cost(
        prices.egress_gib, prices.unit, used.egress_mib, used.units, source.decimals
    )
    fee = fee_of(time, source.fee_bps) + fee_of(counted, source.fee_bps)
    lines = (*_time_lines(source, time), *_counted_lines(source, counted))
    return Charges(source, rate, lines, time + counted, fee)


def _time_lines(source: ReceiptInput, total: int) -> list[Charge]:
    prices, sizes, ms = source.prices, source.sizes, source.used.ms
    rows = (  # name, size, unit, its parts in one (thousandths or MiB), price per unit and hour
        ("gpu", sizes.gpu_milli, "GPU", 1000, prices.gpu_hour),
        ("cpu", sizes.cpu_milli, "core", 1000, prices.cpu_hour),
        ("memory", sizes.memory_mib, "GiB", 1024, prices.memory_gib_hour),
        ("storage", sizes.storage_mib, "GiB", 1024, prices.storage_gib_hour),
    )
    # shares of the rate, in 1/128,000 of its unit
    costs = split(total, [price * size * (128_000 // parts) for _, size, _, parts, price in rows])
    return [
        Charge(
            name, from_scaled(size * ms * 1000 // parts, 6), f"{unit}-seconds", from_nano(price),
            f"per {unit}-hour", part,
        )
        for (name, size, unit, parts, price), part in zip(rows, costs, strict=True)
        if size and (price or name == "gpu" or (name == "cpu" and not sizes.gpu_milli))
    ]  # fmt: skip


def _counted_lines(source: ReceiptInput, total: int) -> list[Charge]:
    prices, used = source.prices, source.used
    weights = [prices.egress_gib * used.egress_mib, 1024 * prices.unit * used.units]
    egress, units = split(total, weights)
    lines = []
    if used.egress_mib:
        quantity = from_scaled(used.egress_mib * 10**6 // 1024, 6)
        price = from_nano(prices.egress_gib)
        lines.append(Charge("egress", quantity, "GiB", price, "per GiB", egress))
    if used.units:
        name = source.unit or "unit"
        price = from_nano(prices.unit)
        lines.append(Charge("units", str(used.units), name, price, f"per {name}", units))
    return lines
