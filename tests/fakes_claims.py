"""The part of the fake chain that knows claims, rulings and cancelled orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from marketplace.services import records
from settlement.chain.abi import abi
from settlement.eip712 import checksum
from settlement.events import ChainEvent, ClaimClosed, Claimed, Contested, OrderCancelled
from settlement.leases import LeaseState, LeaseStatus, Params
from settlement.ports import Intent


class FakeClaims:
    """What `FakeChain` does on its balances for claims. `direct` are transactions of the parties'
    own, for the next block."""

    __slots__ = ()
    clock: Any
    params: Params
    balances: dict[str, int]
    cancelled: set[tuple[str, int]]
    direct: list[ChainEvent]

    state: Callable[[bytes], LeaseState]
    paid: Callable[[LeaseState, int, int, int], int]

    def _rule(self, row: records.LeaseRecord, intent: Intent) -> list[ChainEvent]:
        arguments = abi("ComputeEscrow").arguments("rule", _data(intent))
        return self._end_claim(row, int(arguments[1]))

    def _cancel(self, intent: Intent) -> list[ChainEvent]:
        account, salt, and_older, _ = abi("ComputeEscrow").arguments("cancel", _data(intent))
        self.cancelled.add((checksum(account), salt))
        return [OrderCancelled(checksum(account), salt, and_older)]

    def claim(self, row: records.LeaseRecord, ms: int, window_s: int = 60) -> None:
        """The provider's own transaction, in the next block; its bond is taken."""
        lease, now_s = self.state(_number(row)), self.clock() // 1000
        end = min(lease.end, now_s)
        amount = self.paid(lease, ms, 0, 0) - lease.released(self.params)
        back = lease.lock(self.params) - lease.released(self.params) - amount
        self.balances[lease.buyer] += back
        self.balances[lease.provider] = self.balances.get(lease.provider, 0) - amount
        parties = (lease.lease_no, lease.buyer, lease.provider)
        self.direct.append(Claimed(*parties, ms, end, amount, back, now_s + window_s))

    def contest(self, row: records.LeaseRecord, window_s: int = 60) -> None:
        """The buyer's own transaction, in the next block; its bond is taken."""
        lease = self.state(_number(row))
        self.balances[lease.buyer] -= lease.claim
        until = self.clock() // 1000 + window_s
        parties = (lease.lease_no, lease.buyer, lease.provider)
        self.direct.append(Contested(*parties, lease.claim, until))

    def _end_claim(self, row: records.LeaseRecord, award: int | None) -> list[ChainEvent]:
        lease = self.state(_number(row))
        contested = lease.status is LeaseStatus.CONTESTED
        if award is not None:
            shares = (award, 2 * award, 3 * (lease.claim - award)) if contested else None
        elif self.clock() // 1000 <= lease.claim_until:
            shares = None
        elif contested:
            shares = (0, lease.claim, 2 * lease.claim)
        else:
            shares = (lease.claim, lease.claim, 0)
        if shares is None or lease.claim == 0 or lease.status is LeaseStatus.CLOSED:
            return []
        self.balances[lease.provider] += shares[0] + shares[1]
        self.balances[lease.buyer] += shares[2]
        return [ClaimClosed(lease.lease_no, lease.buyer, lease.provider, *shares)]


def _data(intent: Intent) -> bytes:
    return bytes.fromhex(intent.payload["data"][2:])


def _number(lease: records.LeaseRecord) -> bytes:
    return bytes.fromhex(lease.lease_no[2:])
