"""Operators' commands: what they refuse, and how they say it."""

import json
from pathlib import Path
from typing import Any

import pytest

from marketplace.errors import ExitCode
from marketplace.sdk.profile import ProfileFile
from tests.unit.cli.conftest import BUYER, Run


@pytest.fixture(autouse=True)
def _logs_as_in_all_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("serve", "dev"):
        monkeypatch.setattr(f"marketplace.cli.{place}.quiet_logs", lambda: None)


@pytest.mark.parametrize(
    "words", [("serve",), ("settle", "run"), ("settle", "status"), ("reconcile",)]
)
def test_operator_commands_name_what_is_not_set(
    run: Run, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COULOMB_CHAIN_ID", raising=False)
    ran = run(*words)
    assert ran.code == ExitCode.USAGE
    assert "ETH_RPC_URL is not set" in ran.err


def test_operator_commands_take_the_chain_from_the_profile(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COULOMB_DEPLOYMENTS", str(tmp_path))
    ProfileFile().update("default", rpc_url="http://127.0.0.1:9", chain_id=7)
    ran = run("reconcile")
    assert ran.code == ExitCode.CHAIN
    assert "nothing is deployed on chain 7" in ran.err
    assert "fix: name the folder with --deployments or COULOMB_DEPLOYMENTS" in ran.err


def test_dev_up_names_the_options_that_move_taken_ports(
    run: Run, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    def taken(address: tuple[str, int], **_options: Any) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr("socket.create_server", taken)
    ran = run("dev", "up")
    assert ran.code == ExitCode.USAGE
    assert "port 8420 of 127.0.0.1: Address already in use" in ran.err
    assert "fix: name another with --port" in ran.err


def test_fresh_market_is_not_made_over_another_without_a_yes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "31337.json").touch()
    ran = run("dev", "up", "--fresh", "--folder", str(tmp_path))
    assert ran.code == ExitCode.USAGE
    assert f"Delete the market in {tmp_path}" in ran.err
    ran = run("dev", "up", "--fresh", "--yes", "--folder", str(tmp_path))
    assert "is not a folder of `coulomb dev up`: it holds 31337.json" in ran.err


@pytest.mark.parametrize(
    ("variables", "said", "fix"),
    [
        ({}, "COULOMB_RELAYER_KEYSTORE is not set", "coulomb wallet new relayer"),
        ({"RELAYER_KEYSTORE": "k"}, "COULOMB_RELAYER_PASSWORD is not set", "a file that holds"),
        (
            {"RELAYER_KEYSTORE": "k", "RELAYER_PASSWORD": "nowhere"},
            "no password in nowhere", "COULOMB_RELAYER_PASSWORD",
        ),
        ({"DATABASE_URL": "foo"}, "COULOMB_DATABASE_URL is wrong: use sqlite:///FILE", ""),
        ({"BLOBS": "/dev/null/x"}, "COULOMB_BLOBS cannot be used", "may write to"),
        ({"ROLES": "api,relay"}, "COULOMB_ROLES is wrong: roles are api", ""),
        ({"OPENER": "0x01"}, "COULOMB_OPENER is wrong: 0x01: must be an address", ""),
        ({"OPERATORS": "0x01"}, "COULOMB_OPERATORS is wrong: 0x01: must be an address", ""),
    ],
)  # fmt: skip
def test_serve_says_which_setting_is_wrong(
    run: Run,
    variables: dict[str, str],
    said: str,
    fix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in ({"CHAIN_ID": "7", "BLOBS": str(tmp_path)} | variables).items():
        monkeypatch.setenv(f"COULOMB_{name}", value)
    monkeypatch.setenv("ETH_RPC_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("marketplace.cli.serve.require_free", lambda *_: None)
    ran = run("serve")
    assert ran.code == ExitCode.USAGE
    assert said in ran.err
    assert fix in ran.err.partition("fix: ")[2]
    assert len(ran.err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("url", "said"), [("foo", "URL is wrong"), ("sqlite:////nowhere/x.db", "cannot be opened")]
)
def test_database_that_cannot_be_used_is_a_wrong_setting(run: Run, url: str, said: str) -> None:
    ran = run("db", "upgrade", "--url", url, "--yes")
    assert (ran.code, said in ran.err, "fix: " in ran.err) == (ExitCode.USAGE, True, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fee-bps", "100"), "--fee-recipient ADDRESS"),
        (("--fee-recipient", "0x01"), "'0x01' must be an address"),
        (("--token", "CMP"), "'CMP' must be an address"),
        (("--holder", "me"), "'me' must be an address"),
    ],
)
def test_deployment_with_wrong_terms_is_refused(
    run: Run, words: tuple[str, ...], said: str
) -> None:
    ran = run("contract", "deploy", *words)
    assert (ran.code, said in ran.err) == (ExitCode.USAGE, True)


def test_deployment_is_planned_on_the_chain_of_the_environment_and_never_overwritten(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        def __init__(self, _url: str, chain_id: int) -> None:
            self.chain_id = chain_id

        def check(self) -> None: ...

    monkeypatch.setattr("marketplace.cli.contract.ChainClient", Client)
    monkeypatch.setenv("ETH_RPC_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("COULOMB_CHAIN_ID", "7")
    words = ("contract", "deploy", "--deployments", str(tmp_path), "--dry-run", "-o", "json")
    plan = json.loads(run(*words).out)
    assert (plan["chain"], plan["fee"], plan["holder"]) == (7, "0 %", BUYER.address)
    assert (plan["supply"], plan["file"]) == ("1,000,000,000 CMP", str(tmp_path / "7.json"))
    (tmp_path / "7.json").touch()
    ran = run(*words)
    assert ran.code == ExitCode.USAGE
    assert f"{tmp_path / '7.json'} names a deployment on chain 7 already" in ran.err
    assert "--replace" in ran.err
    assert run(*words, "--replace").code == 0
    ran = run("contract", "deploy", "--deployments", "/dev/null")
    assert (ran.code, "7.json cannot be written" in ran.err) == (ExitCode.USAGE, True)
    ran = run("dev", "up", "--folder", "/dev/null/x")
    assert (ran.code, "/dev/null/x cannot be used" in ran.err) == (ExitCode.USAGE, True)


def test_contract_addresses_without_a_deployment_end_with_9(run: Run, tmp_path: Path) -> None:
    ran = run("contract", "addresses", "--chain-id", "7", "--deployments", str(tmp_path))
    assert ran.code == ExitCode.CHAIN
    assert "nothing is deployed on chain 7" in ran.err
