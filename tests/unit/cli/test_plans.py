"""What people read before they agree: who may do what, the worst that can be paid, whose word is
taken."""

import json
from pathlib import Path

import pytest

from marketplace.agent.config import load_config
from marketplace.sdk.profile import ProfileFile
from settlement.errors import ChainUnavailable
from tests.sdk_app import Served
from tests.unit.cli.conftest import Run


def test_the_plan_says_who_may_do_what_and_the_worst_that_can_be_paid(
    run: Run, market: Served, job_file: str
) -> None:
    market.world.ask(price="2.40", start_limit="60s")
    row = json.loads(run("job", "run", job_file, "--dry-run", "-o", "json").out)
    ours = json.loads(run("-o", "json", "witness", "address").out)["address"]
    assert (row["start_limit"], row["notice"]) == ("1m", None)
    assert row["opener"] == market.world.catalog.market.opener
    assert (row["witness"], row["witness_is"]) == (ours, "yours")
    assert row["meter"] == market.world.meter.address
    assert row["may_stop"] == ["buyer", "witness", "provider", "meter"]
    assert row["may_open_again"] == ["buyer", "witness"]
    assert (row["at_most_paid"], row["max_fee_bps"]) == (row["budget"], 0)
    said = run("job", "run", job_file, "--dry-run").err
    assert "all leases of this bid cost at most 0.4166" in said  # ten minutes at its own limit
    assert "could have all" not in said


def test_the_plan_warns_of_a_witness_that_somebody_hosts(
    run: Run, market: Served, job_file: str
) -> None:
    market.world.ask()
    host = market.world.stranger.address
    words = ("job", "run", job_file, "--dry-run", "--witness", host)
    row = json.loads(run(*words, "-o", "json").out)
    assert (row["witness"], row["witness_is"]) == (host, "hosted")
    assert "The witness is not yours" in run(*words).err


def test_the_notice_of_an_interruptible_ask_is_in_its_plan(run: Run, market: Served) -> None:
    node = market.world.node(market.world.buyer)
    meter = ("--meter", market.world.meter.address)
    words = ("--dry-run", "ask", "create", "--gpu-hour", "2", "--node", node, *meter)
    said = run(*words, "--start-limit", "5m").err
    assert "start limit        5m" in said
    assert "notice             none: not interruptible" in said
    assert f"meter              {market.world.meter.address}" in said
    assert f"opener             {market.world.catalog.market.opener}" in said
    assert "Nothing is paid for the time a job takes to start" in said
    assert "notice             10m" in run(*words, "--interruptible", "--notice", "10m").err


def test_witness_says_once_whose_word_it_takes(
    run: Run, market: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = run("witness", "run", "--once").err
    assert trusting.count("takes the market's word for what was opened on chain") == 1
    assert "ETH_RPC_URL" in trusting
    monkeypatch.setenv("ETH_RPC_URL", "http://node.example:8545/secret")
    checking = run("witness", "run", "--once").err
    assert "compared with the chain, at http://node.example:8545\n" in checking
    assert "market's word" not in checking
    assert "secret" not in checking


def test_doctor_says_whose_word_the_agent_takes(
    run: Run, market: Served, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_chain(*_: object, **__: object) -> None:
        raise ChainUnavailable("the chain's node at 127.0.0.1 cannot be reached")

    monkeypatch.setattr("marketplace.cli.doctor.ChainClient", no_chain)
    market.bend["GET config"] = lambda answer: answer.update(rpc_url="")

    def found() -> dict[str, str]:
        file.with_name("api.key").unlink()  # so that doctor looks for no server at that address
        rows = json.loads(run("-o", "json", "provider", "doctor").out)
        return next(row for row in rows if row["code"] == "chain_checks")

    file = home / "config/coulomb/provider/agent.yaml"
    init = ("provider", "init", "--name", "n1", "--region", "eu", "--tier", "H100-80GB-SXM")
    assert run(*init, "--simulated", "1xH100").code == 0
    trusting = found()
    assert (trusting["status"], "rpc_url" in trusting["fix"]) == ("warn", True)
    monkeypatch.setenv("ETH_RPC_URL", "http://127.0.0.1:9")
    assert run(*init, "--simulated", "1xH100", "--replace").code == 0
    monkeypatch.delenv("ETH_RPC_URL")
    written = load_config(file)
    assert written.rpc_url == "http://127.0.0.1:9"  # as the profile has it, and so the escrow:
    assert written.escrow == ProfileFile().get().escrow is not None
    assert found()["status"] == "fail"
