"""Prices, sizes, rates and costs as integers. Mirrors the arithmetic of `ComputeEscrow`.

Units: a price is in 1e-9 token (per hour, GiB or unit), a size in thousandths of a resource or in
MiB, a rate in 1e-12 token per hour, a cost in atoms of the token. There are no floats.
"""

from dataclasses import dataclass

UINT32_MAX = 2**32 - 1
UINT40_MAX = 2**40 - 1
UINT64_MAX = 2**64 - 1
MS_PER_HOUR = 3_600_000
RATE_SCALE = 10**12  # one token per hour, as a rate
PRICE_SCALE = 10**9  # one token, as a price
BPS = 10_000
MAX_FEE_BPS = 1_000
MAX_PAID_SECONDS = 10**9  # with a start limit, in milliseconds, it fits 40 bits of a lease's slot
MAX_START_SECONDS = 2**16 - 1
MAX_NOTICE_SECONDS = 2**16 - 1


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a lease allocates for its whole life."""

    gpu_milli: int
    cpu_milli: int = 0
    memory_mib: int = 0
    storage_mib: int = 0


def _one(decimals: int) -> int:
    return int(10**decimals)


def cost(rate: int, ms: int, decimals: int = 18) -> int:
    """Atoms owed for cumulative `ms` milliseconds at `rate`, rounded down."""
    return rate * ms * _one(decimals) // (MS_PER_HOUR * RATE_SCALE)


def cost_up(rate: int, ms: int, decimals: int = 18) -> int:
    """`cost` rounded up: the lock that covers every payment."""
    return -(-rate * ms * _one(decimals) // (MS_PER_HOUR * RATE_SCALE))


def time_lock(rate: int, paid_seconds: int, decimals: int = 18) -> int:
    """Atoms that an open lease locks for time. They cover any payment it may still make."""
    return cost_up(rate, paid_seconds * 1000, decimals)


def counted_cost(
    egress_gib: int, unit: int, egress_mib: int, units: int, decimals: int = 18
) -> int:
    """Atoms owed for counted resources (prices in 1e-9 token). Only the sum is rounded down."""
    price = egress_gib * egress_mib + unit * units * 1024
    return price * _one(decimals) // (1024 * PRICE_SCALE)


def counted_lock(
    egress_gib: int, unit: int, egress_cap_mib: int, units_cap: int, decimals: int = 18
) -> int:
    """Atoms locked for the caps of counted resources, rounded up."""
    price = egress_gib * egress_cap_mib + unit * units_cap * 1024
    return -(-price * _one(decimals) // (1024 * PRICE_SCALE))


def affordable_seconds(rate: int, atoms: int, decimals: int = 18) -> int:
    """The most whole seconds whose lock fits into `atoms`; 2^32-1 if the rate is zero."""
    if rate == 0:
        return UINT32_MAX
    return min(UINT32_MAX, atoms * MS_PER_HOUR * RATE_SCALE // (rate * 1000 * _one(decimals)))


def fee_of(gross_total: int, fee_bps: int) -> int:
    """The operator's fee on a cumulative gross amount, rounded down."""
    return gross_total * fee_bps // BPS


def gpu_ms(ms: int, gpu_milli: int) -> int:
    """GPU-milliseconds used, rounded down."""
    return ms * gpu_milli // 1000
