"""What a client checks before it signs or sends: an order counts only with its own signature."""

from marketplace.sdk.errors import VerificationError
from marketplace.wire.leases import Lease
from marketplace.wire.orders import AskInfo, BidInfo
from settlement.eip712 import Domain
from settlement.errors import SignatureError
from settlement.orders import Ask, Bid
from settlement.signing import verify


def signed_by(order: AskInfo | BidInfo, domain: Domain, account: str) -> Ask | Bid | None:
    """An order that names the account and that the account has signed, else None."""
    signed: Ask | Bid = order.ask if isinstance(order, AskInfo) else order.bid
    named = signed.provider if isinstance(signed, Ask) else signed.buyer
    try:
        verify(signed, domain, order.signature, account)
    except SignatureError:
        return None
    return signed if named == account else None


def top_up_call(
    lease: Lease, ask: AskInfo, bid: BidInfo, domain: Domain, buyer: str, seconds: int
) -> bytes:
    """The call that lets a lease run longer, from its orders, of which `buyer` signed the bid.

    A lease is what the server says; what it can't make up is our signature, and the lease's number
    follows from what we signed. Raises VerificationError.
    """
    from settlement.chain.calls import EscrowCalls, LeaseOrders

    orders = LeaseOrders(ask.ask, bid.bid.struct_hash(), bid.bid.buyer, bid.bid.witness)
    if orders.ref.lease_no != lease.lease_no:
        raise VerificationError(f"the orders of {lease.id} name another lease than it does")
    if signed_by(bid, domain, buyer) is None:
        raise VerificationError(f"{buyer} did not sign the Bid of {lease.id}")
    return EscrowCalls(domain.verifying_contract).top_up(orders, bid.bid, seconds)
