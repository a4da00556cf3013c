"""Makes orders void: off the book at once, and on chain by the account's own signature."""

from dataclasses import dataclass

from marketplace.db.store import CANCEL_KEY, CANCEL_TRIES, Store
from marketplace.db.tables import AccountRow
from marketplace.domain.advance import BidVoided
from marketplace.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Problem
from marketplace.services.common import Principal, check_account
from marketplace.services.jobs import Jobs
from marketplace.services.offers import Asks
from marketplace.services.ports import Clock, EscrowReads, Market
from marketplace.wire.orders import CancelledOrders, SignedCancel
from settlement.chain.calls import EscrowCalls
from settlement.consent import CANCELS
from settlement.orders import Cancel, Numbered
from settlement.ports import IntentKind


@dataclass(frozen=True, slots=True)
class Cancels:
    """Makes asks and bids open no further lease; leases that are open go on."""

    market: Market
    clock: Clock
    reads: EscrowReads
    calls: EscrowCalls
    asks: Asks
    jobs: Jobs

    def prepare(self, store: Store, caller: Principal, order_id: str | None) -> Cancel:
        """The Cancel to sign: of one ask, bid or job, or (None) of every order so far. Raises
        NotFound; Conflict if there is none."""
        if order_id is not None:
            return Cancel(
                caller.account, Numbered.ORDERS, self._salt(store, caller, order_id), False
            )
        account = store.accounts.get(caller.account)
        salts = None
        if account is not None:
            lowest = self._lowest(store, account)
            salts = store.order_salts(account.address, lowest, account.next_salt)
        if salts is None:
            raise Conflict("the account has no orders that could be cancelled")
        _, highest = salts
        return Cancel(caller.account, Numbered.ORDERS, highest, True)

    def _salt(self, store: Store, caller: Principal, order_id: str) -> int:
        if order_id.startswith("ask_"):
            ask = store.asks.get(order_id)
            if ask is not None and ask.provider == caller.account:
                return int(ask.message["salt"])
        else:
            job = store.jobs.get(order_id)
            bid = store.bids.get(job.bid_id if job is not None else order_id)
            if bid is not None and bid.account == caller.account:
                return int(bid.salt)
        raise NotFound("no such order")

    def check(self, caller: Principal, signed: SignedCancel) -> None:
        """Check a Cancel, if need be by the chain, before any transaction is begun. Raises
        InvalidInput, InvalidSignature, ChainError."""
        cancel = signed.cancel
        if cancel.account != caller.account:
            detail = "must be the account of the API key"
            raise InvalidInput([Problem("/cancel/account", detail)])
        if cancel.kind != Numbered.ORDERS:
            raise InvalidInput([Problem("/cancel/kind", "must be 0: orders")])
        parties = (cancel.account, self.market, self.reads)
        check_account(cancel, signed.signature, *parties, CANCELS)

    def submit(self, store: Store, caller: Principal, signed: SignedCancel) -> CancelledOrders:
        """Take the orders off the book and send the Cancel to the chain. Raises InvalidInput,
        AlreadyExists, Conflict, Unavailable."""
        cancel = signed.cancel
        account = store.accounts.get_or_add(cancel.account, self.clock(), lock=True)
        self._check_worth(store, account, cancel)
        if cancel.and_older:
            account.orders_from = max(account.orders_from, cancel.salt + 1)
        cancelled = []
        for ask in store.asks.resting_of(caller.account):
            if _covers(cancel, int(ask.message["salt"])):
                self.asks.cancel(store, caller, ask.id)
                cancelled.append(ask.id)
        for job, bid in store.jobs.live_with_bids(caller.account):
            if _covers(cancel, int(bid.salt)):  # a job that has no lease yet ends
                self.jobs.lives.take(store, *self.jobs.locked(store, job.id), BidVoided())
                cancelled.append(bid.id)
        data = self.calls.cancel(cancel, signed.signature)
        store.enqueue(IntentKind.CANCEL, store.tries(_key(cancel)).key, self.calls.payload(data))
        return CancelledOrders(cancel=cancel, orders=tuple(cancelled))

    def _check_worth(self, store: Store, account: AccountRow, cancel: Cancel) -> None:
        """The relayer pays for a Cancel: it must make an order void that is not void already.
        Raises InvalidInput, AlreadyExists, Conflict."""
        lowest = self._lowest(store, account)
        tries = store.tries(_key(cancel))
        if cancel.salt < lowest or not tries.is_free:
            problem = Problem("/cancel/salt", "is cancelled already, or about to be")
            raise AlreadyExists("the orders are cancelled already", problems=[problem])
        if tries.last is not None and tries.dead >= CANCEL_TRIES:
            raise Conflict(
                f"the chain refused this Cancel {tries.dead} times, last with "
                f"{tries.last.error}; send it to the escrow from the account itself"
            )
        if not cancel.and_older:
            known = cancel.salt < account.next_salt
            if not known or not store.order_salts(account.address, cancel.salt, cancel.salt):
                raise InvalidInput([Problem("/cancel/salt", "is not an order of yours here")])
            return
        if cancel.salt >= account.next_salt:
            detail = f"must be below {account.next_salt}, the next order's"
            raise InvalidInput([Problem("/cancel/salt", detail)])
        if not store.order_salts(account.address, lowest, cancel.salt):
            detail = "has no order of yours at or below it that is not cancelled"
            raise InvalidInput([Problem("/cancel/salt", detail)])

    def _lowest(self, store: Store, account: AccountRow) -> int:
        """The lowest salt whose order is neither void nor about to be. If the Cancel of the older
        ones died, the chain still takes them, so it is 0."""
        if account.orders_from == 0:
            return 0
        tries = store.tries(
            _key(Cancel(account.address, Numbered.ORDERS, account.orders_from - 1, True))
        )
        return 0 if tries.dead and tries.is_free else account.orders_from


def _covers(cancel: Cancel, salt: int) -> bool:
    return salt == cancel.salt or (cancel.and_older and salt < cancel.salt)


def _key(cancel: Cancel) -> str:
    and_older = int(cancel.and_older)
    return CANCEL_KEY.format(account=cancel.account, salt=cancel.salt, and_older=and_older)
