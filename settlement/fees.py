"""What a transaction offers, in wei per gas, under a cap. Pure. Source: EIP-1559."""

from dataclasses import dataclass

GWEI = 10**9
BUMP_PERCENT = 13  # geth and reth ask for 10 percent more; 3 more survive rounding


@dataclass(frozen=True, slots=True)
class FeeAdvice:
    """The newest block's base fee, and the priority fee that the node advises."""

    base: int
    priority: int


@dataclass(frozen=True, slots=True)
class TransactionFees:
    """maxFeePerGas and maxPriorityFeePerGas."""

    maximum: int
    priority: int


@dataclass(frozen=True, slots=True)
class FeePolicy:
    """The most that is ever offered."""

    cap: int = 200 * GWEI
    priority_cap: int = 5 * GWEI

    def offer(self, advice: FeeAdvice) -> TransactionFees | None:
        """Twice the base fee and a tip, within the cap; None if the base fee is above the cap."""
        if advice.base > self.cap:
            return None
        priority = min(advice.priority, self.priority_cap, self.cap)
        return TransactionFees(min(self.cap, 2 * advice.base + priority), priority)

    def raised(self, old: TransactionFees, advice: FeeAdvice) -> TransactionFees | None:
        """An offer that replaces `old`: both fees at least 13 % higher; None above the cap."""
        fresh = self.offer(advice)
        maximum = _bumped(old.maximum)
        if fresh is None or maximum > self.cap:
            return None
        maximum = max(fresh.maximum, maximum)
        return TransactionFees(maximum, min(maximum, max(fresh.priority, _bumped(old.priority))))


def _bumped(fee: int) -> int:
    return -(-fee * (100 + BUMP_PERCENT) // 100)
