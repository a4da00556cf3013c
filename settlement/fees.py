"""What a transaction offers, in wei per gas, under a cap. Pure. Source: EIP-1559."""

from __future__ import annotations

from dataclasses import dataclass

GWEI = 10**9
BUMP_PERCENT = 13  # geth and reth ask for 10; a little more survives rounding


@dataclass(frozen=True, slots=True)
class FeePolicy:
    """The most ever offered, and the priority fee where the node gives no advice."""

    cap: int = 200 * GWEI
    priority_cap: int = 5 * GWEI

    def offer(self, base: int, advised_priority: int) -> FeeOffer | None:
        """Twice the base fee and a tip, within the cap; None where the base alone is above it."""
        if base > self.cap:
            return None
        priority = min(advised_priority, self.priority_cap, self.cap)
        return FeeOffer(min(self.cap, 2 * base + priority), priority)

    def raised(self, old: FeeOffer, base: int, advised_priority: int) -> FeeOffer | None:
        """An offer that replaces `old`: at least 13 % more on both; None where the cap forbids."""
        fresh = self.offer(base, advised_priority)
        if fresh is None:
            return None
        maximum = max(fresh.maximum, _bumped(old.maximum))
        priority = max(fresh.priority, _bumped(old.priority))
        if maximum > self.cap:
            return None
        return FeeOffer(maximum, min(priority, maximum))


@dataclass(frozen=True, slots=True)
class FeeOffer:
    """maxFeePerGas and maxPriorityFeePerGas."""

    maximum: int
    priority: int


def _bumped(fee: int) -> int:
    return -(-fee * (100 + BUMP_PERCENT) // 100)
