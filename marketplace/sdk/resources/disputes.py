"""Claims, contests, rulings, top-ups and cancels.

What moves money of the caller's own account is a transaction that the server writes out, this
client checks against one it writes itself, and the account sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from marketplace.sdk.checks import read_document
from marketplace.sdk.decode import decode
from marketplace.sdk.errors import Forbidden, VerificationError
from marketplace.sdk.flow import Flow, Query, Request, S, call, listing, op
from marketplace.sdk.models import (
    AskInfo,
    Attestation,
    BidInfo,
    Cancelled,
    Claim,
    Lease,
    MarketConfig,
    Prepared,
    TopUp,
    Transaction,
    Transactions,
)
from marketplace.sdk.purchases import Job
from marketplace.sdk.resources.base import hex0x
from marketplace.sdk.resources.wallet import ChainResource, Moved, transacting
from marketplace.sdk.resources.witnessing import voucher_of
from settlement.attestation import MeteredUsage, Ruling, Voucher
from settlement.eip712 import Domain, checksum
from settlement.errors import FieldError, SignatureError
from settlement.orders import Ask, Bid, Cancel
from settlement.signing import Signer, TransactionSigner, sign, verify

if TYPE_CHECKING:
    from settlement.chain.calls import EscrowCalls, LeaseOrders, LeaseRef, SignedVoucher

CANCEL_AHEAD_MAX = 2**20
SETTLE_FIRST = "settle what this machine holds first, with `coulomb provider settle`"


class Sending(ChainResource[S]):
    """Sends what was written out for the signer's own account."""

    def _orders(
        self, lease: Lease, own: type[Ask | Bid], who: str
    ) -> Flow[tuple[LeaseOrders, Bid]]:
        """The orders of a lease, which name it, and of which `who` signed its `own`.

        A lease is what the server says; what it can't make up is our signature, and its number
        follows from what we signed. Raises VerificationError.
        """
        from settlement.chain.calls import LeaseOrders

        ask = yield from self._read(AskInfo, Request("GET", f"/v1/asks/{lease.ask_id}"))
        bid = yield from self._read(BidInfo, Request("GET", f"/v1/bids/{lease.bid_id}"))
        orders = LeaseOrders(ask.ask, bid.bid.struct_hash(), bid.bid.buyer, bid.bid.witness)
        if hex0x(orders.ref.lease_no) != lease.lease_no:
            raise VerificationError(f"the orders of {lease.id} name another lease than it does")
        order: AskInfo | BidInfo = ask if own is Ask else bid
        if signed_by(order, self._session.domain(), who) is None:
            raise VerificationError(f"{who} did not sign the {own.primary} of {lease.id}")
        return orders, bid.bid

    def _lease(self, lease_id: str) -> Flow[Lease]:
        return (yield from self._read(Lease, Request("GET", f"/v1/leases/{lease_id}")))

    def _send_all(
        self, steps: Sequence[Transaction], own: bytes, who: TransactionSigner
    ) -> Flow[tuple[Moved, ...]]:
        """Check and send, in order: settlements, which anyone may send, then exactly `own`."""
        market = yield from self._market()
        calls = yield from call(self._calls)
        for step in steps:
            _require_ours(calls, step, own if step is steps[-1] else None)

        def send() -> tuple[Moved, ...]:
            escrow, _ = self._chain(market)
            return tuple(self._transact(escrow, who, step.data) for step in steps)

        return (yield from call(send))

    def _sender(self, signer: Signer | None) -> Flow[TransactionSigner]:
        """Who sends, and is meant by what is sent."""
        return transacting(signer or (yield from call(self._session.signer)))

    def _calls(self) -> EscrowCalls:
        from settlement.chain.calls import EscrowCalls

        return EscrowCalls(self._session.domain().verifying_contract)


class Claims(Sending[S]):
    """Time that no witness signed: claimed by a provider, contested by a buyer, ruled on."""

    @listing
    def list(
        self, *, role: str | None = None, state: str | None = None, limit: int | None = None
    ) -> Query[Claim]:
        """Claims that the caller made, has to pay or rules on (`provider, buyer, arbiter`)."""
        params = {"role": role, "state": state, "limit": limit}
        return Query("/v1/claims", partial(decode, Claim), params)

    @op
    def get(self, lease_id: str) -> Flow[Claim]:
        """A lease's claim."""
        return (yield from self._read(Claim, Request("GET", f"/v1/leases/{lease_id}/claim")))

    @op
    def create(
        self, lease_id: str, ms: int | None = None, *, signer: Signer | None = None
    ) -> Flow[tuple[Moved, ...]]:
        """Claim time up to `ms` (all that was attested, if left out) from the payout account.

        Settles the best voucher first. Takes a bond as large as the claim from the free balance.
        """
        yield from self._market()
        who = yield from self._sender(signer)
        lease = yield from self._lease(lease_id)
        orders, _ = yield from self._orders(lease, Ask, who.address)
        best = yield from self._best_voucher(lease, orders)
        found = yield from self._prepare(lease_id, "/prepare", {"ms": ms})
        if best is not None:
            yield from self._require_settled(best, found.transactions[:-1], who.address)
        calls = yield from call(self._calls)
        wanted = ms if ms is not None else _claimed_ms(calls, found.transactions[-1])
        if wanted > max(lease.used.ms, ms or 0):
            raise VerificationError(f"the server claims {wanted} ms, {lease.used.ms} were attested")
        return (yield from self._send_all(found.transactions, calls.claim(orders, wanted), who))

    def _best_voucher(self, lease: Lease, orders: LeaseOrders) -> Flow[SignedVoucher | None]:
        """The best of the vouchers that the server shows and the bid's witness did sign.

        Raises VerificationError where the server speaks of more than it shows.
        """
        path = f"/v1/leases/{lease.id}/attestations"
        query: Query[Attestation] = Query(path, partial(decode, Attestation))
        best: SignedVoucher | None = None
        cursor: str | None = None
        while True:
            found, cursor = query.read((yield from self._json(query.page(cursor))))
            for item in found:
                signed = self._verified(item, orders.ref)
                if signed is not None and (best is None or _covers(signed.voucher, best.voucher)):
                    best = signed
            if cursor is None:
                break
        if lease.countersigned.ms > (best.voucher.ms if best else 0):
            raise VerificationError(
                f"the server speaks of {lease.countersigned.ms} ms countersigned on {lease.id}, "
                "and shows no voucher for them",
                fix=SETTLE_FIRST,
            )
        return best

    def _verified(self, item: Attestation, ref: LeaseRef) -> SignedVoucher | None:
        """An attestation's voucher, if the witness signed it for this very lease."""
        from settlement.chain.calls import SignedVoucher

        if item.voucher is None:
            return None
        voucher, signature = voucher_of(item.voucher.message), item.voucher.signature
        try:
            verify(voucher, self._session.domain(), signature, ref.witness)
        except SignatureError:
            return None
        names = (voucher.buyer, voucher.provider, voucher.lease_no)
        ours = names == (ref.buyer, ref.provider, ref.lease_no)
        return SignedVoucher(voucher, signature) if ours else None

    def _require_settled(
        self, best: SignedVoucher, steps: Sequence[Transaction], who: str
    ) -> Flow[None]:
        """A claim is the last that a lease pays: what was countersigned has to be paid before.

        Raises VerificationError where the best voucher is neither among `steps` nor paid.
        """
        calls, market = (yield from call(self._calls)), (yield from self._market())
        planned = [signed.voucher for step in steps for signed in _vouchers(calls, step)]
        same = (v for v in planned if v.lease_no == best.voucher.lease_no)
        if any(_covers(voucher, best.voucher) for voucher in same):
            return

        def pays() -> bool:
            escrow, _ = self._chain(market)
            metered = isinstance(best.voucher, MeteredUsage)
            return bool(escrow.simulate_settle([best], metered, who, "latest")[0])

        if (yield from call(pays)):
            raise VerificationError(
                f"the server's plan leaves {best.voucher.ms} ms unpaid that were countersigned",
                fix=SETTLE_FIRST,
            )

    @op
    def contest(self, lease_id: str, *, signer: Signer | None = None) -> Flow[tuple[Moved, ...]]:
        """Contest a claim from the buyer's account, on a bond as large as the claim."""
        market = yield from self._market()
        who = yield from self._sender(signer)
        found = yield from self._prepare(lease_id, "/contest/prepare", None)
        lease, calls = (yield from self._lease(lease_id)), (yield from call(self._calls))
        orders, _ = yield from self._orders(lease, Bid, who.address)
        claim = yield from self._read(Claim, Request("GET", f"/v1/leases/{lease_id}/claim"))

        def claimed() -> int:
            escrow, _ = self._chain(market)
            return escrow.claim_of(orders.ref).amount

        if (yield from call(claimed)) != claim.bond.atoms:
            raise VerificationError(f"the claim on {lease_id} is another than the server says")
        return (yield from self._send_all(found.transactions, calls.contest(orders.ref), who))

    @op
    def close(self, lease_id: str, *, signer: Signer | None = None) -> Flow[tuple[Moved, ...]]:
        """Close a claim whose window is over; the market does so by itself, too.

        Whichever lease the server names: anyone may close any claim, and the claim says who gets
        what.
        """
        yield from self._market()
        who = yield from self._sender(signer)
        found = yield from self._prepare(lease_id, "/close/prepare", None)
        lease, calls = (yield from self._lease(lease_id)), (yield from call(self._calls))
        own = calls.close_claim(_ref(lease))
        return (yield from self._send_all(found.transactions, own, who))

    @op
    def rule(self, lease_id: str, award: str, *, signer: Signer | None = None) -> Flow[Claim]:
        """Divide a contested claim as its arbiter: `award` tokens of it are the provider's."""
        market = yield from self._market()
        who = signer or (yield from call(self._session.signer))
        path = f"/v1/leases/{lease_id}/claim/ruling"
        request = Request("POST", f"{path}/prepare", json={"award": award}, repeatable=True)
        prepared = yield from self._read(Prepared, request)
        ruling = read_document(Ruling, prepared, self._session.domain())
        claim = yield from self._read(Claim, Request("GET", f"/v1/leases/{lease_id}/claim"))
        parties = (checksum(claim.buyer), checksum(claim.provider))
        if (ruling.buyer, ruling.provider) != parties or ruling.award != _atoms(award, market):
            raise VerificationError("the server's ruling is another than asked for")
        signature = yield from call(partial(sign, ruling, self._session.domain(), who))
        body = {"ruling": ruling.to_message(), "signature": hex0x(signature)}
        key = "ruling-" + ruling.struct_hash().hex()
        request = Request("POST", path, json=body, idempotency_key=key)
        return (yield from self._read(Claim, request))

    def _prepare(self, lease_id: str, path: str, body: Any) -> Flow[Transactions]:
        where = f"/v1/leases/{lease_id}/claim{path}"
        request = Request("POST", where, json=body, repeatable=True)
        return (yield from self._read(Transactions, request))


class TopUps(Sending[S]):
    """Jobs that are to run longer."""

    @op
    def prepare(self, job_id: str, duration: str) -> Flow[TopUp]:
        """What running a job longer would lock, and the transaction that does it."""
        path = f"/v1/jobs/{job_id}/top-up/prepare"
        request = Request("POST", path, json={"duration": duration}, repeatable=True)
        return (yield from self._read(TopUp, request))

    @op
    def create(
        self, job_id: str, duration: str, *, signer: Signer | None = None
    ) -> Flow[tuple[Moved, ...]]:
        """Let a job run longer, such as `30m`, from the buyer's account."""
        from marketplace.domain.reader import seconds_of

        yield from self._market()
        who = yield from self._sender(signer)
        found = yield from TopUps.prepare.flow(self, job_id, duration)
        lease = yield from self._lease(found.lease_id)
        orders, bid = yield from self._orders(lease, Bid, who.address)
        calls = yield from call(self._calls)
        own = calls.top_up(orders, bid, seconds_of(duration))
        return (yield from self._send_all(found.transactions, own, who))


class Orders(Sending[S]):
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


def _covers(later: Voucher, earlier: Voucher) -> bool:
    """Whether a voucher pays for at least as much as another of its lease."""
    names = ("ms", "egress_mib", "units")
    return all(getattr(later, name, 0) >= getattr(earlier, name, 0) for name in names)


def _vouchers(calls: EscrowCalls, step: Transaction) -> tuple[SignedVoucher, ...]:
    try:
        return calls.vouchers(step.data)
    except FieldError as error:
        raise VerificationError(f"the server's {step.call} settles nothing: {error}") from error


def _require_ours(calls: EscrowCalls, step: Transaction, own: bytes | None) -> None:
    """Raise VerificationError where a transaction is not what this client would write."""
    if checksum(step.to) != calls.address:
        raise VerificationError(f"the server wants a call of {step.to}, not of the escrow")
    if own is not None:
        if step.data != own:
            raise VerificationError(f"the server's {step.call} is another call than asked for")
        return
    _vouchers(calls, step)


def _claimed_ms(calls: EscrowCalls, step: Transaction) -> int:
    try:
        return calls.claimed_ms(step.data)
    except FieldError as error:
        raise VerificationError(f"the server's claim is none: {error}") from error


def _ref(lease: Lease) -> LeaseRef:
    from settlement.chain.calls import LeaseRef

    number = bytes.fromhex(lease.lease_no.removeprefix("0x"))
    return LeaseRef(lease.buyer, lease.provider, lease.witness, number)


def _atoms(amount: str, market: Any) -> int:
    from marketplace.domain.pricing import to_atoms

    return to_atoms(amount, decimals=market.decimals)
