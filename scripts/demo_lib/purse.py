"""The purse of the demonstration: made by a buyer, spent from by its operator, swept at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.demo_lib.market import ONE, Market
from scripts.demo_lib.people import Buyer, make_operator
from scripts.demo_lib.shopping import Purchase
from settlement.signing import LocalSigner

IN_PURSE = ONE // 4
LIFE_SECONDS = 3_600
OPERATOR = "agent"


@dataclass(slots=True)
class DemoPurse:
    """A purse and what became of its money, in atoms read from the chain."""

    address: str
    owner: Buyer
    operator: Buyer
    used: int = 0
    left: int = 0
    returned: int = 0

    def sweep(self, market: Market, purchases: Sequence[Purchase]) -> None:
        """Take back what is left, once the operator's jobs are over."""
        escrow, _ = market.contracts()
        mine = [purchase for purchase in purchases if purchase.buyer is self.operator]
        self.used = sum(receipt.gross.atoms for job in mine for receipt in job.receipts)
        self.left = escrow.balance_of(self.address)
        before = escrow.balance_of(self.owner.address)
        self.owner.client.purses.sweep(self.address, self.left)
        self.returned = escrow.balance_of(self.owner.address) - before

    def problems(self) -> list[str]:
        """What does not add up to the atom."""
        parts = (
            ("left in the purse", self.left, IN_PURSE - self.used, "put in - used"),
            ("returned to its owner", self.returned, self.left, "what was left"),
        )
        found = [f"purse: {name} = {a}, but {other} = {b}" for name, a, b, other in parts if a != b]
        return found if self.used else [*found, "purse: its operator used nothing"]

    def to_json(self) -> dict[str, str]:
        """Its part of the JSON object."""
        return {
            "address": self.address,
            "owner": self.owner.address,
            "put_in_atoms": str(IN_PURSE),
            "used_atoms": str(self.used),
            "returned_atoms": str(self.returned),
        }


def make_purse(market: Market, owner: Buyer) -> DemoPurse:
    """A purse with a part of the owner's deposit, for an operator with a key of its own."""
    key = LocalSigner.create()
    made = owner.client.purses.create(key.address, LIFE_SECONDS, IN_PURSE)
    return DemoPurse(made.address, owner, make_operator(market, OPERATOR, made.address, key))
