"""Contract accounts at the door: what POST /keys answers where no key, or nobody, can vouch."""

import httpx
import pytest

from settlement.eip712 import checksum
from settlement.errors import ChainUnavailable
from settlement.signing import LocalSigner
from tests.api_client import Api

WALLET = checksum("0x" + "c0" * 20)


def ask_for_key(api: Api, signer: LocalSigner, tail: str = "") -> httpx.Response:
    draft = {"account": WALLET, "name": "wallet", "scopes": ["buyer"]}
    message = api.ok(api.call("POST", "/keys/prepare", json=draft))["message"]
    signed = {"message": message, "signature": api.sign_message(message, signer) + tail}
    return api.call("POST", "/keys", json=signed)


def test_the_owner_of_a_contract_account_gets_its_key(api: Api) -> None:
    api.world.chain.wallets[WALLET] = api.world.buyer.address
    key = api.ok(ask_for_key(api, api.world.buyer))
    assert key["account"] == WALLET
    assert api.ok(api.call("GET", f"/accounts/{WALLET}", key["key"]))["address"] == WALLET


@pytest.mark.parametrize("tail", ["", "00" * 65])
def test_another_is_refused_with_the_code_of_any_bad_signature(api: Api, tail: str) -> None:
    api.world.chain.wallets[WALLET] = api.world.buyer.address
    answer = ask_for_key(api, api.world.stranger, tail)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_signature")
    assert answer.json()["errors"][0]["pointer"] == "/signature"


def test_while_the_chain_is_away_the_caller_is_asked_to_come_back(api: Api) -> None:
    api.world.chain.down = ChainUnavailable("away")
    answer = ask_for_key(api, api.world.buyer)
    assert (answer.status_code, answer.json()["code"]) == (503, "chain_unavailable")
    assert answer.json()["retryable"] is True
    assert "Retry-After" in answer.headers
