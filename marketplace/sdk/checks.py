"""What a client checks before it signs or sends: an order counts only with its own signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketplace.sdk.errors import VerificationError
from marketplace.wire.leases import Lease
from marketplace.wire.orders import AskInfo, BidInfo
from settlement.eip712 import Domain
from settlement.errors import SignatureError
from settlement.orders import Ask, Bid
from settlement.signing import verify

if TYPE_CHECKING:
    from settlement.chain.calls import LeaseOrders


def signed_by(order: AskInfo | BidInfo, domain: Domain, account: str) -> Ask | Bid | None:
    """An order that names the account and that the account has signed, else None."""
    signed: Ask | Bid
    if isinstance(order, AskInfo):
        signed, named = order.ask, order.ask.provider
    else:
        signed, named = order.bid, order.bid.buyer
    try:
        verify(signed, domain, order.signature, account)
    except SignatureError:
        return None
    return signed if named == account else None


def own_orders(
    lease: Lease, ask: AskInfo, bid: BidInfo, domain: Domain, buyer: str
) -> tuple[LeaseOrders, Bid]:
    """The orders of a lease, which name it, and of which `buyer` signed the bid.

    A lease is what the server says; what it can't make up is our signature, and the lease's number
    follows from what we signed. Raises VerificationError.
    """
    from settlement.chain.calls import LeaseOrders

    orders = LeaseOrders(ask.ask, bid.bid.struct_hash(), bid.bid.buyer, bid.bid.witness)
    if orders.ref.lease_no != lease.lease_no:
        raise VerificationError(f"the orders of {lease.id} name another lease than it does")
    if signed_by(bid, domain, buyer) is None:
        raise VerificationError(f"{buyer} did not sign the Bid of {lease.id}")
    return orders, bid.bid
