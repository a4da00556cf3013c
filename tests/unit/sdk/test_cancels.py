"""A client makes void the orders that its account signed, and none that the server makes up."""

from collections.abc import Iterator
from typing import Any

import pytest

from marketplace.limits import SALT_AHEAD_MAX, SALT_MAX
from marketplace.sdk import Coulomb, onchain
from marketplace.sdk.errors import InputError, VerificationError
from settlement.orders import Ask, Bid
from settlement.signing import sign
from tests.market_world import job_spec
from tests.sdk_app import Served

ASK_SALT, BID_SALT = 0, 1


@pytest.fixture
def client(market: Served) -> Iterator[Coulomb]:
    """An account with an ask (salt 0) and a bid (salt 1)."""
    world = market.world
    market.api.key(world.buyer, "buyer", "provider")
    world.fund()
    with market.client() as opened:
        node_id = world.node(world.buyer)
        terms = {"meter": world.meter.address, "prices": {"gpu_hour": "9"}}
        market.ask_id = opened.asks.offer(node_id, terms).id  # type: ignore[attr-defined]
        market.job = opened.jobs.submit(job_spec()).job  # type: ignore[attr-defined]
        yield opened


def cancels(market: Served) -> list[tuple[int, bool]]:
    """Salts of the cancels that were handed in, and whether they void all older orders."""
    bodies = market.sent("POST orders/cancel")
    return [(int(b["cancel"]["salt"]), b["cancel"]["andOlder"]) for b in bodies]


@pytest.mark.parametrize(("kind", "salt"), [("ask", ASK_SALT), ("bid", BID_SALT), ("job", 1)])
def test_one_cancel_is_of_the_order_that_was_named(
    market: Any, client: Coulomb, kind: str, salt: int
) -> None:
    ids = {"ask": market.ask_id, "bid": market.job.bid_id, "job": market.job.id}
    done = client.orders.cancel(ids[kind])
    assert cancels(market) == [(salt, False)]
    assert done.orders == (ids["ask"] if kind == "ask" else ids["bid"],)
    assert "POST orders/cancel/prepare" not in market.paths()


def test_all_orders_end_with_the_newest_there_is(market: Any, client: Coulomb) -> None:
    done = client.orders.cancel(None)
    assert set(done.orders) == {market.ask_id, market.job.bid_id}
    assert cancels(market) == [(BID_SALT, True)]


def test_a_greater_salt_that_the_server_states_is_not_believed(
    market: Any, client: Coulomb
) -> None:
    market.bend["GET accounts"] = lambda answer: answer.update(next_salt=2**63)
    client.orders.cancel(None)
    assert cancels(market) == [(BID_SALT, True)]


def test_no_order_takes_a_salt_that_would_use_up_all_others(market: Any, client: Coulomb) -> None:
    market.bend["GET accounts"] = lambda answer: answer.update(next_salt=2**64 - 2)
    with pytest.raises(VerificationError, match="states the salt"):
        client.jobs.submit(job_spec())
    market.bend["GET asks"] = forge(market.world.buyer, market, SALT_MAX + 1)
    with pytest.raises(VerificationError, match="has the salt"):
        client.orders.cancel(None)
    assert cancels(market) == []


def forge(signer: Any, market: Served, salt: int = 77) -> Any:
    """Makes the salts of shown orders greater, signed by `signer`."""

    def bend(answer: dict[str, Any]) -> None:
        for row in answer["data"] if "data" in answer else [answer]:
            kind: Any = Ask if "ask" in row else Bid
            name = kind.primary.lower()
            row[name]["salt"] = str(salt)
            order = kind.from_message(row[name])
            row["signature"] = "0x" + sign(order, market.world.domain, signer).hex()

    return bend


@pytest.mark.parametrize("one", [True, False])
def test_an_order_that_the_account_did_not_sign_is_no_proof(
    market: Any, client: Coulomb, one: bool
) -> None:
    market.bend["GET asks"] = market.bend["GET bids"] = forge(market.world.stranger, market)
    if one:
        for order_id in (market.ask_id, market.job.id):
            with pytest.raises(VerificationError, match="did not sign"):
                client.orders.cancel(order_id)
    else:
        with pytest.raises(InputError, match="no orders"):
            client.orders.cancel(None)
    assert cancels(market) == []


def test_a_key_that_sees_no_bids_goes_by_asks(market: Any, client: Coulomb) -> None:
    with market.client(market.world.buyer, "provider") as asks_only:
        asks_only.orders.cancel(None)
    assert cancels(market) == [(ASK_SALT, True)]


def test_all_orders_stay_near_what_the_chain_says(
    market: Any, client: Coulomb, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = -SALT_AHEAD_MAX
    monkeypatch.setattr(onchain, "orders_from", lambda session, market, account: first)
    client.session.rpc_url = "http://chain"
    with pytest.raises(VerificationError, match="ahead of the chain"):
        client.orders.cancel(None)
    first += BID_SALT
    client.orders.cancel(None)
    assert cancels(market) == [(BID_SALT, True)]


def test_an_ask_is_known_by_its_own_signature(market: Any, client: Coulomb) -> None:
    account = market.world.buyer.address
    assert client.asks.own(market.ask_id, account).ask.salt == ASK_SALT
    market.bend["GET asks"] = forge(market.world.stranger, market)
    with pytest.raises(VerificationError, match="did not sign"):
        client.asks.own(market.ask_id, account)
