"""A provider's way out without the market: its journal's best vouchers, straight to the escrow.

Anyone may settle, so any account that can pay for gas will do, and neither server nor witness is
asked. Vouchers of one lease are cumulative: the best one pays for all that was countersigned.
"""

from collections.abc import Callable
from dataclasses import dataclass

from marketplace.agent.journal import AgentJournal, LeaseEntry
from settlement.chain.calls import SettlementEntry
from settlement.chain.client import ChainClient, TransactionReceipt
from settlement.chain.contracts import Escrow
from settlement.eip712 import Domain
from settlement.signing import TransactionSigner

BATCH = 200  # vouchers a transaction: far below what the escrow takes, and what a block does
HeldVouchers = list[tuple[LeaseEntry, SettlementEntry]]


def held(journal: AgentJournal) -> HeldVouchers:
    """The best voucher of every lease that has one, oldest lease first."""
    return [(entry, entry.voucher) for entry in journal.leases() if entry.voucher is not None]


@dataclass(frozen=True, slots=True)
class Batch:
    escrow: Escrow
    signed: tuple[SettlementEntry, ...]  # what one transaction settles
    metered: bool  # whether they count more than time

    def send(self, sender: TransactionSigner) -> TransactionReceipt:
        """Send it from an account that pays the gas. Raises ChainError."""
        data = self.escrow.calls.settle(self.signed, self.metered)
        return self.escrow.client.transact(sender, self.escrow.address, data)


def payable(vouchers: HeldVouchers, chain: Callable[[int], ChainClient], by: str) -> list[Batch]:
    """What the chains would pay now: nothing paid already or closed. Raises ChainError."""
    groups: dict[tuple[Domain, bool], list[SettlementEntry]] = {}
    for entry, signed in vouchers:
        groups.setdefault((entry.domain, entry.metered), []).append(signed)
    batches = []
    for (domain, metered), group in groups.items():
        client = chain(domain.chain_id)
        client.check()
        escrow = Escrow(client, domain.verifying_contract)
        for at in range(0, len(group), BATCH):
            paid, _ = escrow.simulate_settle(group[at : at + BATCH], metered, by, "pending")
            if paid:
                batches.append(Batch(escrow, tuple(paid), metered))
    return batches
