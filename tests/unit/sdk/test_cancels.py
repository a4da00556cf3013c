"""A client makes void the order that was named, whatever salt the server writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from marketplace.sdk import Coulomb, RetryPolicy
from marketplace.sdk.errors import VerificationError
from marketplace.sdk.resources.orders import CANCEL_AHEAD_MAX, Orders
from marketplace.sdk.session import Session
from settlement.orders import Cancel
from settlement.signing import LocalSigner, sign
from tests.factories import make_ask, make_bid
from tests.unit.sdk.market import BUYER, WITNESS, FakeMarket


@dataclass
class OrderMarket(FakeMarket):
    """One account with an ask and a bid; it writes cancels of the salt that a test says."""

    ask_salt: int = 3
    bid_salt: int = 7
    cancel_salt: int = 7
    signer: LocalSigner = BUYER
    sees_bids: bool = True

    def on_asks(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        ask = make_ask(provider=BUYER.address, salt=self.ask_salt)
        row = {"id": "ask_1", "ask": ask.to_message(), "node_id": "node_1", "state": "open"}
        return self._shown(row, ask, rest)

    def on_bids(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        if not self.sees_bids:
            return 403, {"code": "forbidden", "title": "Forbidden", "detail": "scope"}
        bid = make_bid(buyer=BUYER.address, salt=self.bid_salt)
        return self._shown({"id": "bid_1", "bid": bid.to_message(), "job_id": "job_1"}, bid, rest)

    def _shown(self, row: dict[str, Any], order: Any, rest: list[str]) -> tuple[int, Any]:
        signature = "0x" + sign(order, self.domain, self.signer).hex()
        row |= {"signature": signature, "hash": "0x" + order.struct_hash().hex()}
        return 200, row if rest else {"data": [row], "has_more": False, "next_cursor": None}

    def on_orders(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        if rest[-1] == "prepare":
            cancel = Cancel(BUYER.address, self.cancel_salt, body["order_id"] is None)
            return 200, {"typed_data": cancel.typed_data(self.domain)}
        return 202, {"orders": [], "cancel": body["cancel"]}

    def signed(self) -> list[int]:
        """Salts of the cancels that were handed in."""
        return [int(b["cancel"]["salt"]) for _, p, b, _ in self.seen if p == "orders/cancel"]


@pytest.fixture
def market() -> OrderMarket:
    job = {"id": "job_1", "name": "n", "account": BUYER.address, "bid_id": "bid_1"}
    return OrderMarket(jobs={"job_1": {**job, "job_hash": "0x" + "0" * 64, "spec": {}}})


@pytest.fixture
def client(market: OrderMarket, tmp_path: Path) -> Iterator[Coulomb]:
    session = Session(lambda: BUYER, lambda: WITNESS, state=tmp_path)
    transport = httpx.MockTransport(market)
    retry = RetryPolicy(attempts=1)
    with Coulomb("http://market", session=session, retry=retry, transport=transport) as opened:
        yield opened


@pytest.mark.parametrize(("order_id", "salt"), [("ask_1", 3), ("bid_1", 7), ("job_1", 7)])
def test_one_cancel_is_of_the_order_that_was_named(
    market: OrderMarket, client: Coulomb, order_id: str, salt: int
) -> None:
    market.cancel_salt = salt + 1
    with pytest.raises(VerificationError, match=order_id):
        client.orders.cancel(order_id)
    market.cancel_salt = salt
    client.orders.cancel(order_id)
    assert market.signed() == [salt]


@pytest.mark.parametrize("order_id", ["ask_1", None])
def test_an_order_that_the_account_did_not_sign_is_no_proof(
    market: OrderMarket, client: Coulomb, order_id: str | None
) -> None:
    market.signer = WITNESS
    market.cancel_salt = market.ask_salt
    with pytest.raises(VerificationError):
        client.orders.cancel(order_id)
    assert market.signed() == []


def test_all_orders_end_with_the_newest_there_is(market: OrderMarket, client: Coulomb) -> None:
    client.orders.cancel(None)
    for market.cancel_salt in (8, 2**64 - 1):
        with pytest.raises(VerificationError, match="beyond your orders"):
            client.orders.cancel(None)
    assert market.signed() == [7]


def test_a_key_that_sees_no_bids_goes_by_asks(market: OrderMarket, client: Coulomb) -> None:
    market.sees_bids = False
    with pytest.raises(VerificationError, match="beyond your orders"):
        client.orders.cancel(None)
    market.cancel_salt = 3
    client.orders.cancel(None)
    assert market.signed() == [3]


def test_all_orders_stay_near_what_the_chain_says(
    market: OrderMarket, client: Coulomb, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = 5
    chain = SimpleNamespace(orders_from=lambda account: first)
    monkeypatch.setattr(Orders, "_chain", lambda self, market: (chain, None))
    client.session.rpc_url = "http://chain"
    market.bid_salt = first + CANCEL_AHEAD_MAX + 1
    market.cancel_salt = market.bid_salt
    with pytest.raises(VerificationError, match="ahead of the chain"):
        client.orders.cancel(None)
    market.cancel_salt -= 1
    client.orders.cancel(None)
    assert market.signed() == [first + CANCEL_AHEAD_MAX]
