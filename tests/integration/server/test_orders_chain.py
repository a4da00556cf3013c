"""Top-ups and cancels by command line, through a server, on a real Anvil."""

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
from settlement.chain.devnet import dev_account
from settlement.events import Opened
from settlement.units import cost
from tests.integration.server.test_real_chain import (
    BUYER,
    PATIENCE_S,
    PROVIDER,
    RATE,
    Server,
    chain_events,
    job_on_offer,
    served,
)

ROLES = {"buyer": BUYER, "provider": PROVIDER}
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with served(tmp_path, 10) as made:
        yield made


@pytest.fixture
def coulomb(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """The command line as buyer or provider: `coulomb("buyer", …)` returns its rows."""
    for name in ("COULOMB_API_URL", "COULOMB_API_KEY", "COULOMB_PROFILE", "ETH_RPC_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "password").write_text("pw\n")
    for name, index in ROLES.items():
        key = dev_account(index)
        path = tmp_path / "config/coulomb/keystores" / name
        keystore.create(path, "pw", key, kdf="pbkdf2", iterations=1)
        with Coulomb(server.url, signer=key) as client:
            made = client.keys.create("cli", [name])
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


def test_a_job_is_topped_up_and_its_cancelled_bid_is_void_on_chain(
    server: Server, coulomb: Run
) -> None:
    job_id, parties = job_on_offer(server)
    parties.begin()
    before = server.call("GET", parties.path, "buyer")["terms"]
    coulomb("buyer", "job", "top-up", job_id, "5m")
    lease = server.wait(parties.path, "buyer", lambda x: x["terms"]["end"] > before["end"])
    assert lease["terms"]["end"] == before["end"] + 300
    assert lease["terms"]["paid_seconds"] == before["paid_seconds"] + 300
    (row,) = coulomb("buyer", "order", "cancel", job_id)
    assert row["order"] == lease["bid_id"]
    escrow, _ = server.deployment.open(server.net.client())
    (opened,) = (e for e in chain_events(server) if isinstance(e, Opened))
    account = dev_account(BUYER).address
    until = time.monotonic() + PATIENCE_S
    while not escrow.salt_state(account, opened.bid_salt).cancelled:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert server.call("GET", parties.path, "buyer")["state"] == "active"  # it goes on
    asks = coulomb("provider", "order", "cancel", "--all")
    assert [row["order"] for row in asks] == [lease["ask_id"]]
    ms = parties.finish()
    server.wait(f"/jobs/{job_id}", "buyer", lambda j: j["state"] == "succeeded")
    receipt = server.call("GET", f"/jobs/{job_id}/receipt", "buyer")
    assert (receipt["conserved"], receipt["gross"]["atoms"]) == (True, str(cost(RATE, ms)))
