"""Claims, rulings, top-ups and cancels by command line, through a server, on a real Anvil."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from marketplace.cli.main import main
from marketplace.sdk import Coulomb
from marketplace.sdk.profile import Profile, ProfileFile
from settlement import keystore
from settlement.chain.deploy import EscrowSettings, deploy
from settlement.chain.devnet import Devnet, dev_account
from settlement.events import ClaimClosed, Opened
from settlement.units import cost
from tests.escrow_world import mine_every_second
from tests.integration.server.test_real_chain import (
    BUYER,
    PROVIDER,
    RATE,
    Parties,
    Server,
    chain_events,
    offer,
    provider_balance,
    started,
    submit,
)
from tests.market_world import TOKEN

ARBITER = 5
WINDOW_S = 900  # longer than a busy machine takes between two steps
ROLES = {"buyer": BUYER, "provider": PROVIDER, "arbiter": ARBITER}
pytestmark = pytest.mark.timeout(400)
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A market with an arbiter; provider and buyer have money in the escrow."""
    monkeypatch.setenv("COULOMB_ARBITER", dev_account(ARBITER).address)
    with Devnet(block_seconds=0) as net:
        client, owner = net.client(), dev_account(0)
        windows = EscrowSettings(settle_window=60, dispute_window=WINDOW_S, ruling_window=WINDOW_S)
        deployment = deploy(client, owner, windows)
        deployment.save(tmp_path)
        escrow, token = deployment.open(client)
        for index in (BUYER, PROVIDER):
            account = dev_account(index)
            client.transact(owner, token.address, token.transfer(account.address, 10 * TOKEN))
            client.transact(account, token.address, token.approve(escrow.address, 10 * TOKEN))
            client.transact(account, escrow.address, escrow.calls.deposit(10 * TOKEN))
        mine_every_second(client)
        made = Server(tmp_path, net, deployment)
        made.start()
        try:
            made.login("provider", dev_account(PROVIDER))
            made.login("buyer", dev_account(BUYER))
            yield made
        finally:
            assert made.stop() == 0, (tmp_path / "server.log").read_text()


@pytest.fixture
def coulomb(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """The command line as buyer, provider or arbiter: `coulomb("buyer", …)` returns its rows."""
    for name in ("COULOMB_API_URL", "COULOMB_API_KEY", "COULOMB_PROFILE", "ETH_RPC_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "password").write_text("pw\n")
    for name, index in ROLES.items():
        key = dev_account(index)
        path = tmp_path / "config/coulomb/keystores" / name
        keystore.create(path, "pw", key, kdf="pbkdf2", iterations=1)
        scopes = ["provider"] if name == "provider" else ["buyer"]
        with Coulomb(server.url, signer=key) as client:
            made = client.keys.create("cli", scopes)
        profile = Profile(
            name=name,
            api_url=server.url,
            api_key=made.key,
            keystore=name,
            password_file=str(tmp_path / "password"),
            rpc_url=server.net.rpc_url,
        )
        ProfileFile().save(profile)

    def run(role: str, *words: str) -> list[dict[str, Any]]:
        monkeypatch.setenv("COULOMB_API_URL", server.url)  # another port after a restart
        code = main(["--profile", role, "--yes", "-o", "json", *words])
        out, err = capsys.readouterr()
        assert code == 0, err
        rows = json.loads(out) if out.strip() else []
        return rows if isinstance(rows, list) else [rows]

    return run


def unwitnessed(server: Server) -> tuple[str, Parties, int]:
    """A running job whose witness signed some time and then no more; the time attested."""
    offer(server)
    job_id = submit(server)
    parties = started(server, job_id)
    parties.begin()
    time.sleep(1.2)
    parties.use()
    time.sleep(1.5)
    ms = int((time.time() - parties.ready) * 1000)
    parties.attest(ms)
    return job_id, parties, ms


def later(server: Server, seconds: int) -> None:
    client = server.net.client()
    client.rpc("evm_increaseTime", seconds)
    client.rpc("evm_mine")


def test_a_provider_claims_and_the_market_closes_it_after_the_window(
    server: Server, coulomb: Run
) -> None:
    job_id, parties, ms = unwitnessed(server)
    before = provider_balance(server)
    lease_id = parties.lease["id"]
    sent = coulomb("provider", "claim", "create", lease_id)
    assert 1 <= len(sent) <= 2  # the market may have settled the voucher before
    lease = server.wait(parties.path, "buyer", lambda x: x["state"] == "claimed")
    amount = cost(RATE, ms) - cost(RATE, lease["settled"]["ms"])
    (shown,) = coulomb("buyer", "claim", "show", lease_id)
    assert (shown["ms"], shown["amount"]["atoms"]) == (ms, str(amount))
    assert lease["settled"]["ms"] == parties.acknowledged_ms
    job = server.call("GET", f"/jobs/{job_id}", "buyer")
    assert job["state"] in ("cancelled", "lost")  # lost, where the claim took its time
    assert job["claim"]["lease_id"] == lease_id
    later(server, WINDOW_S + 1)
    server.wait(parties.path, "buyer", lambda x: x["state"] == "closed")
    assert provider_balance(server) >= before + amount
    assert provider_balance(server) == 10 * TOKEN + cost(RATE, ms)
    receipt = server.call("GET", f"/jobs/{job_id}/receipt", "buyer")
    assert receipt["conserved"] is True
    assert receipt["claim"]["awarded"]["atoms"] == str(amount)
    assert receipt["gross"]["atoms"] == str(cost(RATE, ms))
    (listed,) = coulomb("provider", "claim", "list", "--state", "closed")
    assert listed["awarded"]["atoms"] == str(amount)


def test_a_buyer_contests_and_the_arbiter_divides(server: Server, coulomb: Run) -> None:
    job_id, parties, ms = unwitnessed(server)
    lease_id = parties.lease["id"]
    coulomb("provider", "claim", "create", lease_id, "--ms", str(ms))
    server.wait(parties.path, "buyer", lambda x: x["state"] == "claimed")
    assert coulomb("arbiter", "dispute", "list") == []
    coulomb("buyer", "claim", "contest", lease_id)
    lease = server.wait(parties.path, "buyer", lambda x: x["state"] == "contested")
    (waiting,) = coulomb("arbiter", "dispute", "list")
    assert waiting["lease_id"] == lease_id
    coulomb("arbiter", "dispute", "rule", lease_id, "--award", "0.0001")
    server.wait(parties.path, "buyer", lambda x: x["state"] == "closed")
    award = TOKEN // 10_000
    paid = cost(RATE, lease["settled"]["ms"])
    amount = int(lease["claim"]["amount"]["atoms"])
    assert provider_balance(server) == 10 * TOKEN + paid + award + 2 * award - amount
    (closed,) = (e for e in chain_events(server) if isinstance(e, ClaimClosed))
    assert (closed.awarded, closed.bonds) == (award, 2 * award)
    receipt = server.call("GET", f"/jobs/{job_id}/receipt", "buyer")
    assert (receipt["conserved"], receipt["claim"]["contested"]) == (True, True)


def test_a_party_closes_a_claim_that_the_market_did_not(server: Server, coulomb: Run) -> None:
    _, parties, _ = unwitnessed(server)
    lease_id = parties.lease["id"]
    coulomb("provider", "claim", "create", lease_id)
    server.wait(parties.path, "buyer", lambda x: x["state"] == "claimed")
    server.kill()
    server.start("api", "indexer")
    coulomb("buyer", "claim", "contest", lease_id)
    server.wait(parties.path, "buyer", lambda x: x["state"] == "contested")
    later(server, WINDOW_S + 1)
    server.wait(parties.path, "buyer", lambda x: claim_is_over(server, x))
    coulomb("buyer", "claim", "close", lease_id)
    lease = server.wait(parties.path, "buyer", lambda x: x["state"] == "closed")
    assert lease["claim"]["awarded"]["atoms"] == "0"  # nobody ruled


def claim_is_over(server: Server, lease: dict[str, Any]) -> bool:
    """Whether the chain that the server has read is past the claim's window."""
    path = f"{server.url}/v1/leases/{lease['id']}/claim/close/prepare"
    headers = {"Authorization": f"Bearer {server.keys['buyer']}"}
    return server.http.post(path, headers=headers).status_code == 200


def test_a_job_is_topped_up_and_its_cancelled_bid_is_void_on_chain(
    server: Server, coulomb: Run
) -> None:
    offer(server)
    job_id = submit(server)
    parties = started(server, job_id)
    parties.begin()
    before = server.call("GET", parties.path, "buyer")["terms"]
    coulomb("buyer", "job", "top-up", job_id, "5m")
    lease = server.wait(parties.path, "buyer", lambda x: x["terms"]["end"] > before["end"])
    assert lease["terms"]["end"] == before["end"] + 300
    assert lease["terms"]["funded_seconds"] == before["funded_seconds"] + 300
    (row,) = coulomb("buyer", "order", "cancel", job_id)
    assert row["order"] == lease["bid_id"]
    escrow, _ = server.deployment.open(server.net.client())
    (opened,) = (e for e in chain_events(server) if isinstance(e, Opened))
    account = dev_account(BUYER).address
    until = time.monotonic() + 20
    while not escrow.order_state(account, opened.bid_salt).cancelled:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert server.call("GET", parties.path, "buyer")["state"] == "active"  # it goes on
    asks = coulomb("provider", "order", "cancel", "--all")
    assert [row["order"] for row in asks] == [lease["ask_id"]]
    ms = parties.finish()
    server.wait(f"/jobs/{job_id}", "buyer", lambda j: j["state"] == "succeeded")
    receipt = server.call("GET", f"/jobs/{job_id}/receipt", "buyer")
    assert (receipt["conserved"], receipt["gross"]["atoms"]) == (True, str(cost(RATE, ms)))
