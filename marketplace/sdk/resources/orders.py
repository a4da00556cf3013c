"""Top-ups and cancels.

A top-up moves money of the caller's own account: the server writes the transaction out, this client
checks it against one it writes itself, and the account sends it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from marketplace.sdk.checks import read_document
from marketplace.sdk.decode import decode
from marketplace.sdk.errors import Forbidden, VerificationError
from marketplace.sdk.flow import Flow, Query, Request, S, call, op
from marketplace.sdk.models import (
    AskInfo,
    BidInfo,
    Cancelled,
    Lease,
    MarketConfig,
    Prepared,
    TopUp,
    Transaction,
)
from marketplace.sdk.purchases import Job
from marketplace.sdk.resources.base import hex0x
from marketplace.sdk.resources.wallet import ChainResource, Moved, transacting
from settlement.eip712 import Domain, checksum
from settlement.errors import SignatureError
from settlement.orders import Ask, Bid, Cancel
from settlement.signing import Signer, sign, verify

if TYPE_CHECKING:
    from settlement.chain.calls import EscrowCalls, LeaseOrders

CANCEL_AHEAD_MAX = 2**20


class TopUps(ChainResource[S]):
    """Jobs that are to run longer."""

    @op
    def prepare(self, job_id: str, duration: str) -> Flow[TopUp]:
        """What running a job longer would lock, and the transaction that does it."""
        path = f"/v1/jobs/{job_id}/top-up/prepare"
        request = Request("POST", path, json={"duration": duration}, repeatable=True)
        return (yield from self._read(TopUp, request))

    @op
    def create(self, job_id: str, duration: str, *, signer: Signer | None = None) -> Flow[Moved]:
        """Let a job run longer, such as `30m`, from the buyer's account."""
        from marketplace.domain.reader import seconds_of

        market = yield from self._market()
        who = transacting(signer or (yield from call(self._session.signer)))
        found = yield from TopUps.prepare.flow(self, job_id, duration)
        orders, bid = yield from self._orders(found.lease_id, who.address)
        calls = yield from call(self._calls)
        own = calls.top_up(orders, bid, seconds_of(duration))
        _require_ours(calls, found.transaction, own)

        def send() -> Moved:
            escrow, _ = self._chain(market)
            return self._transact(escrow, who, own)

        return (yield from call(send))

    def _orders(self, lease_id: str, buyer: str) -> Flow[tuple[LeaseOrders, Bid]]:
        """The orders of a lease, which name it, and of which `buyer` signed the bid.

        A lease is what the server says; what it can't make up is our signature, and its number
        follows from what we signed. Raises VerificationError.
        """
        from settlement.chain.calls import LeaseOrders

        lease = yield from self._read(Lease, Request("GET", f"/v1/leases/{lease_id}"))
        ask = yield from self._read(AskInfo, Request("GET", f"/v1/asks/{lease.ask_id}"))
        bid = yield from self._read(BidInfo, Request("GET", f"/v1/bids/{lease.bid_id}"))
        orders = LeaseOrders(ask.ask, bid.bid.struct_hash(), bid.bid.buyer, bid.bid.witness)
        if hex0x(orders.ref.lease_no) != lease.lease_no:
            raise VerificationError(f"the orders of {lease.id} name another lease than it does")
        if signed_by(bid, self._session.domain(), buyer) is None:
            raise VerificationError(f"{buyer} did not sign the Bid of {lease.id}")
        return orders, bid.bid

    def _calls(self) -> EscrowCalls:
        from settlement.chain.calls import EscrowCalls

        return EscrowCalls(self._session.domain().verifying_contract)


class Orders(ChainResource[S]):
    """Orders of either side, made void."""

    @op
    def cancel(self, order_id: str | None, *, signer: Signer | None = None) -> Flow[Cancelled]:
        """Make an ask, a bid or a job's bid void; None: every order so far. Leases go on."""
        market = yield from self._market()
        who = signer or (yield from call(self._session.signer))
        body = {"order_id": order_id}
        request = Request("POST", "/v1/orders/cancel/prepare", json=body, repeatable=True)
        prepared = yield from self._read(Prepared, request)
        cancel = read_document(Cancel, prepared, self._session.domain())
        if (cancel.account, cancel.and_older) != (who.address, order_id is None):
            raise VerificationError("the server's cancel is another than asked for")
        if order_id is None:
            yield from self._check_all(cancel, market)
        else:
            order = yield from self._order(order_id)
            if self._salt(order, cancel.account) != cancel.salt:
                raise VerificationError(f"the server's cancel is of another order than {order_id}")
        signature = yield from call(partial(sign, cancel, self._session.domain(), who))
        signed = {"cancel": cancel.to_message(), "signature": hex0x(signature)}
        key = "cancel-" + cancel.struct_hash().hex()
        request = Request("POST", "/v1/orders/cancel", json=signed, idempotency_key=key)
        return (yield from self._read(Cancelled, request))

    def _order(self, order_id: str) -> Flow[AskInfo | BidInfo]:
        if order_id.startswith("ask_"):
            return (yield from self._read(AskInfo, Request("GET", f"/v1/asks/{order_id}")))
        bid_id = order_id
        if not order_id.startswith("bid_"):
            bid_id = (yield from self._read(Job, Request("GET", f"/v1/jobs/{order_id}"))).bid_id
        return (yield from self._read(BidInfo, Request("GET", f"/v1/bids/{bid_id}")))

    def _salt(self, order: AskInfo | BidInfo, account: str) -> int | None:
        """The salt of an order that the account itself has signed; None where it has not."""
        signed = signed_by(order, self._session.domain(), account)
        return None if signed is None else signed.salt

    def _check_all(self, cancel: Cancel, market: MarketConfig) -> Flow[None]:
        """Every order so far: up to the newest that the account has signed, and no further.

        A greater salt would use up salts of orders that are still to come, in the end all of them.
        """
        if not (yield from self._reached(cancel)):
            raise VerificationError(f"the server's cancel goes beyond your orders: {cancel.salt}")
        if not self._session.rpc_url:
            return

        def first() -> int:
            escrow, _ = self._chain(market)
            return escrow.orders_from(cancel.account)

        if cancel.salt > (yield from call(first)) + CANCEL_AHEAD_MAX:
            raise VerificationError(f"the server's cancel is far ahead of the chain: {cancel.salt}")

    def _reached(self, cancel: Cancel) -> Flow[bool]:
        """Whether one of the account's orders has the salt of a cancel, or a greater one."""
        asks: Query[AskInfo | BidInfo] = Query(
            "/v1/asks", partial(decode, AskInfo), {"provider": cancel.account}
        )
        bids: Query[AskInfo | BidInfo] = Query("/v1/bids", partial(decode, BidInfo))
        for orders in (asks, bids):
            if (yield from self._any_reaches(orders, cancel)):
                return True
        return False

    def _any_reaches(self, orders: Query[AskInfo | BidInfo], cancel: Cancel) -> Flow[bool]:
        cursor: str | None = None
        while True:
            try:
                body = yield from self._json(orders.page(cursor))
            except Forbidden:  # a key for asks alone sees no bids
                return False
            found, cursor = orders.read(body)
            salts = (self._salt(order, cancel.account) for order in found)
            if any(salt is not None and salt >= cancel.salt for salt in salts):
                return True
            if cursor is None:
                return False


def signed_by(order: AskInfo | BidInfo, domain: Domain, account: str) -> Ask | Bid | None:
    """An order that the account is named in and has signed; None where that is not so."""
    if isinstance(order, AskInfo):
        signed: Ask | Bid = order.ask
        named = order.ask.provider
    else:
        signed, named = order.bid, order.bid.buyer
    try:
        verify(signed, domain, order.signature, account)
    except SignatureError:
        return None
    return signed if named == account else None


def _require_ours(calls: EscrowCalls, step: Transaction, own: bytes) -> None:
    """Raise VerificationError where a transaction is not what this client would write."""
    if checksum(step.to) != calls.address:
        raise VerificationError(f"the server wants a call of {step.to}, not of the escrow")
    if step.data != own:
        raise VerificationError(f"the server's {step.call} is another call than asked for")
