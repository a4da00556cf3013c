"""A provider's way out without the market: its journal's best vouchers, straight to the escrow.

Anyone may settle, so any account that can pay for gas will do, and neither server nor witness is
asked. Vouchers of one lease are cumulative: the best one pays for all that was countersigned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from marketplace.agent.journal import AgentJournal
from settlement.chain.calls import EscrowCalls, SettlementEntry
from settlement.chain.client import ChainClient, TransactionReceipt
from settlement.chain.contracts import Escrow
from settlement.eip712 import Domain
from settlement.signing import TransactionSigner

BATCH = 200  # vouchers a transaction: far below what the escrow takes, and what a block does


@dataclass(frozen=True, slots=True)
class HeldVoucher:
    """The best voucher of one lease, and the contract it was signed for."""

    lease_id: str
    domain: Domain
    signed: SettlementEntry
    metered: bool  # whether it counts more than time

    @property
    def calldata(self) -> bytes:
        """What settles it, sent to the domain's contract by anyone."""
        return EscrowCalls(self.domain.verifying_contract).settle([self.signed], self.metered)


def held(journal: AgentJournal) -> list[HeldVoucher]:
    """The best voucher of every lease that has one, oldest lease first."""
    return [
        HeldVoucher(
            entry.lease_id, entry.domain, SettlementEntry(voucher, signature), entry.metered
        )
        for entry, voucher, signature in journal.vouchers()
    ]


@dataclass(frozen=True, slots=True)
class Batch:
    """Vouchers that one transaction settles; those that would pay nothing now are left out."""

    escrow: Escrow
    signed: tuple[SettlementEntry, ...]
    metered: bool

    def send(self, sender: TransactionSigner) -> TransactionReceipt:
        """Send it from an account that pays the gas. Raises ChainError."""
        data = self.escrow.calls.settle(self.signed, self.metered)
        return self.escrow.client.transact(sender, self.escrow.address, data)


def payable(
    vouchers: Iterable[HeldVoucher], chain: Callable[[int], ChainClient], sender: str
) -> list[Batch]:
    """What the chains would pay of these vouchers now. Raises ChainError.

    One that is paid already, or whose lease is closed, is left out: the escrow says so itself.
    """
    groups: dict[tuple[Domain, bool], list[SettlementEntry]] = {}
    for item in vouchers:
        groups.setdefault((item.domain, item.metered), []).append(item.signed)
    batches = []
    for (domain, metered), signed in groups.items():
        client = chain(domain.chain_id)
        client.check()
        escrow = Escrow(client, domain.verifying_contract)
        for at in range(0, len(signed), BATCH):
            part = signed[at : at + BATCH]
            paid, _ = escrow.simulate_settle(part, metered, sender, "pending")
            if paid:
                batches.append(Batch(escrow, tuple(paid), metered))
    return batches
