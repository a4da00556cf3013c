"""The wallet with the server away: an exit needs the chain and nobody else."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from marketplace.sdk import NO_RETRIES, Coulomb, Unit, onchain
from marketplace.sdk.errors import ConnectFailed, InputError, NotEnough
from marketplace.sdk.session import Session
from settlement.leases import SaltState
from tests.market_world import key_of

BUYER, ESCROW = key_of("buyer"), "0x" + "e" * 40
SENT = SimpleNamespace(tx_hash="0x1", block_number=2, gas_used=3)


def away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def chain(_session: Any, market: Any) -> tuple[Any, Any]:
    """An escrow with 5 atoms of the account's, and a token with 2 decimals."""
    assert market is None
    client = SimpleNamespace(balance=lambda _who: 7, transact=lambda *_call: SENT)
    calls = SimpleNamespace(withdraw=lambda _to, _atoms: b"")
    escrow = SimpleNamespace(client=client, calls=calls, address=ESCROW, balance_of=lambda _who: 5)
    token = SimpleNamespace(balance_of=lambda _who: 6, symbol=lambda: "CMP", decimals=lambda: 2)
    return escrow, token


def client(tmp_path: Path, **known: Any) -> Coulomb:
    session = Session(lambda: BUYER, state=tmp_path, **known)
    transport = httpx.MockTransport(away)
    return Coulomb("http://market", session=session, transport=transport, retry=NO_RETRIES)


def test_a_pinned_wallet_looks_and_withdraws_without_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onchain, "reach", chain)
    with client(tmp_path, rpc_url="http://node", chain_id=31_337, escrow=ESCROW) as coulomb:
        funds = coulomb.wallet.funds()
        assert (funds.free, funds.tokens, funds.wei) == (5, 6, 7)
        assert coulomb.wallet.unit() == Unit("CMP", 2)
        assert coulomb.wallet.withdraw(5).tx_hash == "0x1"
        with pytest.raises(NotEnough, match=r"0\.06 CMP asked for, 0\.05 CMP are free"):
            coulomb.wallet.withdraw(6)
        with pytest.raises(InputError, match="nothing to move"):
            coulomb.wallet.withdraw(0)
        with pytest.raises(InputError, match="wrong EIP-55 checksum"):
            coulomb.wallet.withdraw(5, to=BUYER.address.swapcase().replace("0X", "0x"))
        with pytest.raises(InputError, match="zero address"):
            coulomb.wallet.withdraw(5, to="0x" + "0" * 40)
        with pytest.raises(ConnectFailed):  # which escrow the market uses now, only it knows
            coulomb.wallet.deposit(1)


@pytest.mark.parametrize(
    "known",
    [{"rpc_url": "http://node"}, {"chain_id": 31_337, "escrow": ESCROW}],
    ids=["no contracts", "no node"],
)
def test_a_wallet_that_lacks_something_asks_the_server_for_it(
    tmp_path: Path, known: dict[str, Any]
) -> None:
    with client(tmp_path, **known) as coulomb, pytest.raises(ConnectFailed):
        coulomb.wallet.funds()


def test_a_market_without_a_fee_relays_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(tmp_path) as coulomb:
        market = SimpleNamespace(relay_fee=None)
        monkeypatch.setattr(coulomb.session, "market", market)
        for refused in (lambda: coulomb.calls.withdraw(5), lambda: coulomb.calls.fee()):
            with pytest.raises(InputError, match="sends no calls that others signed"):
                refused()


@pytest.mark.parametrize("used", [0, 1, 2, 3, 4, 7, 8, 9, 100])
@pytest.mark.parametrize("first", [0, 3])
def test_a_signed_call_takes_the_lowest_number_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: int, first: int
) -> None:
    def state(_who: str, salt: int, _kind: Any) -> SaltState:
        assert salt >= first
        return SaltState(salt < first + used, False)

    head = SimpleNamespace(timestamp=lambda: 7)
    escrow = SimpleNamespace(client=head, salts_from=lambda *_: first, salt_state=state)
    monkeypatch.setattr(onchain, "reach", lambda *_: (escrow, None))
    found = onchain.next_call(Session(), cast(Any, None), BUYER.address)
    assert found == (first + used, 7)
