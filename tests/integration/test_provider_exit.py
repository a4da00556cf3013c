"""A provider whose market and witness are gone is paid what was countersigned, by one command."""

import json
from pathlib import Path

import pytest

from marketplace.agent.config import AgentConfig, NodeConfig, save_config
from marketplace.agent.journal import AgentJournal, LeaseEntry
from marketplace.cli.main import main
from settlement import keystore
from settlement.leases import LeaseStatus
from settlement.units import cost, fee_of
from tests.escrow_world import SETTINGS, Lease, World


@pytest.fixture
def config(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An agent's file, and a stranger with a key, who pays the gas; there is no server."""
    for name in ("COULOMB_API_URL", "COULOMB_API_KEY", "COULOMB_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("ETH_RPC_URL", world.client.rpc_url)
    monkeypatch.setenv("COULOMB_PASSWORD_FILE", str(tmp_path / "password"))
    (tmp_path / "password").write_text("pw\n")
    keystore.create(tmp_path / "key", "pw", world.stranger, kdf="pbkdf2", iterations=1)
    path = tmp_path / "agent.yaml"
    state = tmp_path / "state"
    state.mkdir()
    node = NodeConfig(number=1, name="n1", region="eu", tier="H100-80GB-SXM", simulated="1xH100")
    files = (tmp_path / "api.key", node, tmp_path / "meter", tmp_path / "meter.password", state)
    save_config(AgentConfig("http://127.0.0.1:9", *files), path)
    return path


def keep(journal: AgentJournal, lease: Lease, ms: int) -> None:
    """What an agent keeps of a lease of which so much was countersigned."""
    voucher = lease.voucher(ms)
    parties = (lease.ref.buyer, lease.ref.provider, lease.number)
    lease_id = f"lease_{lease.number.hex()}"
    journal.begin(LeaseEntry(lease_id, "job_1", *parties, lease.world.escrow.domain(), "", False))
    journal.keep_voucher(lease_id, voucher.voucher, voucher.signature)


def test_countersigned_usage_is_settled_without_the_market(
    world: World, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lease, over = world.open(), world.open(world.match(world.ask(node=2)))
    world.chain.warp(100)
    world.send(world.relayer, over.close(10_000))
    journal = AgentJournal(tmp_path / "state" / "journal.db")
    keep(journal, lease, 90_000)
    keep(journal, over, 5_000)
    before = world.escrow.balance_of(world.provider.address)
    command = ("--keystore", str(tmp_path / "key"), "--yes", "-o", "json", "provider")
    assert main([*command, "settle", "--config", str(config)]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 1
    assert "1 of 2 vouchers" in err
    view = lease.view()
    assert (view.status, view.used_ms) == (LeaseStatus.ACTIVE, 90_000)
    gross = cost(view.rate, 90_000)
    net = gross - fee_of(gross, SETTINGS.fee_bps)
    assert world.escrow.balance_of(world.provider.address) == before + net
    assert main([*command, "settle", "--config", str(config)]) == 0
    assert "0 of 2 vouchers" in capsys.readouterr().err
    journal.close()


def test_vouchers_are_shown_with_the_call_that_settles_them(
    world: World, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lease = world.open(world.match(world.ask(node=3)))
    world.chain.warp(60)
    journal = AgentJournal(tmp_path / "state" / "journal.db")
    keep(journal, lease, 50_000)
    journal.close()
    assert main(["-o", "json", "provider", "vouchers", "--config", str(config)]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["ms"], row["contract"]) == (50_000, world.escrow.address)
    world.send(world.stranger, bytes.fromhex(row["data"][2:]))
    assert lease.view().used_ms == 50_000
