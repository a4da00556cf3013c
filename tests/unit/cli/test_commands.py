"""Commands against a market behind a transport: what they send, print, ask and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from marketplace.errors import ExitCode
from marketplace.sdk.profile import ProfileFile
from tests.unit.cli.conftest import Run
from tests.unit.sdk.market import BUYER, FakeMarket, money

NO_MATCH = {
    "considered": 2,
    "eliminations": [{"reason": "rate_above_limit", "alone": 2, "in_turn": 2, "left": 0}],
    "relaxations": [{"text": "change pricing.max_gpu_hour to 3"}],
    "summary": "2 asks",
}
MATCH = {
    "ask_id": "ask_1", "provider": "0x" + "1" * 40, "tier": "H100-80GB-SXM", "region": "eu",
    "simulated": True, "price": {"gpu_hour": "2.10"}, "rate_per_hour": "2.10",
    "max_cost": money(10**18), "funded_seconds": 600, "budget_limited": False,
}  # fmt: skip


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: train\ncommand: [python, train.py]\nresources: {gpu: 'H100:1', cpu: 1}\n"
        "pricing: {max_gpu_hour: 2.50}\nmax_duration: 10m\n"
    )
    return str(path)


def plan(**changes: Any) -> Any:
    def bend(answer: dict[str, Any]) -> None:
        answer["plan"].update({"matches": [MATCH], "max_cost": money(10**18), **changes})

    return bend


def test_dry_run_shows_the_plan_as_data_and_buys_nothing(
    run: Run, market: FakeMarket, job_file: str
) -> None:
    market.bend["POST bids/prepare"] = plan()
    ran = run("job", "run", job_file, "--dry-run", "-o", "json")
    assert ran.code == 0
    row = json.loads(ran.out)
    assert row["price_per_gpu_hour"] == "2.10"
    assert row["maximum_cost"]["atoms"] == str(10**18)
    assert row["maximum_duration"] == "10m"
    assert "POST jobs" not in market.paths()


def test_plan_is_shown_before_the_question(run: Run, market: FakeMarket, job_file: str) -> None:
    market.bend["POST bids/prepare"] = plan(matches=[{**MATCH, "funded_seconds": 660}])
    ran = run("job", "run", job_file)
    assert ran.code == ExitCode.USAGE
    assert "The maximum covers 1m that the provider may take to start in" in ran.err
    assert "Buy, for at most 1 CMP?" in ran.err
    assert ran.out == ""
    assert "maximum cost       1 CMP" in ran.err
    assert "simulated" in ran.err
    assert "say --yes" in ran.err
    assert "POST jobs" not in market.paths()


def test_job_without_a_match_is_explained_and_not_placed(
    run: Run, market: FakeMarket, job_file: str
) -> None:
    market.bend["POST bids/prepare"] = plan(matches=[], no_match=NO_MATCH)
    ran = run("job", "run", job_file, "--yes")
    assert ran.code == ExitCode.NO_CAPACITY
    assert "rate_above_limit: refuses 2, leaves 0" in ran.err
    assert "try: change pricing.max_gpu_hour to 3" in ran.err
    assert "POST jobs" not in market.paths()


def test_detached_job_is_placed_with_a_warning(run: Run, market: FakeMarket, job_file: str) -> None:
    market.bend["POST bids/prepare"] = plan()
    ran = run("-o", "json", "job", "run", job_file, "--yes", "--detach")
    assert ran.code == 0
    assert json.loads(ran.out)["id"] == "job_1"
    assert "coulomb witness run" in ran.err
    assert market.paths()[-1] == "POST jobs"


@pytest.mark.parametrize(
    ("state", "exit_code", "words", "code"),
    [
        ("succeeded", 0, (), 0),
        ("failed", 3, (), ExitCode.JOB_FAILED),
        ("failed", 3, ("--propagate",), 3),
        ("succeeded", 0, ("--propagate",), 0),
        ("cancelled", None, ("--propagate",), ExitCode.JOB_FAILED),
        ("no_match", None, (), ExitCode.NO_CAPACITY),
        ("over_budget", None, (), ExitCode.JOB_FAILED),
        ("lost", None, (), ExitCode.JOB_FAILED),
    ],
)
def test_wait_ends_as_the_job_did(
    run: Run,
    market: FakeMarket,
    job_file: str,
    state: str,
    exit_code: int | None,
    words: tuple[str, ...],
    code: int,
) -> None:
    market.bend["POST bids/prepare"] = plan()
    run("job", "run", job_file, "--yes", "--detach")
    market.states = [state]
    market.jobs["job_1"]["exit_code"] = exit_code
    ran = run("job", "wait", "job_1", *words)
    assert ran.code == code


def test_wait_times_out_with_124(run: Run, market: FakeMarket, job_file: str) -> None:
    market.bend["POST bids/prepare"] = plan()
    run("job", "run", job_file, "--yes", "--detach")
    market.states = ["running"]
    assert run("job", "wait", "job_1", "--timeout", "0.2").code == ExitCode.TIMED_OUT


def test_wrong_job_file_lists_every_mistake(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("comand: x\nmax_duration: soon\n")
    ran = run("job", "run", str(path))
    assert ran.code == ExitCode.USAGE
    assert "/comand: unknown key; did you mean command?" in ran.err
    assert "/max_duration: must be a duration" in ran.err


def test_made_key_is_shown_once_and_kept_in_the_profile(run: Run) -> None:
    ran = run("-o", "json", "key", "create", "laptop")
    assert json.loads(ran.out)["key"] == "coul_secret"
    kept = ProfileFile().get()
    assert (kept.api_key, kept.account) == ("coul_secret", BUYER.address)
    assert kept.chain_id == 31337
    assert "coul_secret" not in run("profile", "show").out


def test_an_agents_key_is_made_anew_in_its_file(run: Run, home: Path) -> None:
    file = home / "agent" / "api.key"
    ran = run("key", "create", "node-n1", "--scope", "provider", "--to", str(file))
    assert ran.code == 0, ran.err
    assert file.read_text() == "coul_secret\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert ProfileFile().get().api_key == "coul_k"


def test_wrong_password_ends_with_3(run: Run, home: Path) -> None:
    (home / "pw").write_text("wrong\n")
    ran = run("key", "create", "laptop")
    assert ran.code == ExitCode.AUTH
    assert "wrong password" in ran.err


def test_new_wallet_is_a_keystore_of_its_own(run: Run, home: Path) -> None:
    ran = run("-o", "json", "--password-file", str(home / "pw"), "wallet", "new", "second")
    made = json.loads(ran.out)
    path = Path(made["keystore"])
    assert path == home / "config/coulomb/keystores/second"
    assert path.stat().st_mode & 0o777 == 0o600
    again = run("--password-file", str(home / "pw"), "wallet", "new", "second")
    assert again.code == ExitCode.AUTH
    assert "never overwritten" in again.err


@pytest.mark.parametrize("name", ["a/b", "../up", ".hidden"])
def test_wallet_name_is_no_path(run: Run, name: str, home: Path) -> None:
    ran = run("--password-file", str(home / "pw"), "wallet", "new", name)
    assert ran.code == ExitCode.USAGE


def test_profiles_are_listed_and_switched(run: Run) -> None:
    ProfileFile().update("other", api_url="http://other")
    assert run("profile", "use", "other").code == 0
    rows = json.loads(run("-o", "json", "profile", "list").out)
    assert {row["name"]: row["current"] for row in rows} == {"default": False, "other": True}


def test_a_market_is_joined_by_a_profile_and_a_key(run: Run, home: Path) -> None:
    words = ("profile", "add", "lab", "--api-url", "http://lab", "--rpc-url", "http://node")
    secret = ("--account", "buyer", "--password-file", str(home / "pw"))
    assert run(*words, *secret).code == 0
    assert run("key", "create", "laptop").code == 0
    kept = ProfileFile().get()
    assert (kept.name, kept.api_url, kept.rpc_url) == ("lab", "http://lab", "http://node")
    assert (kept.account, kept.api_key, kept.chain_id) == (BUYER.address, "coul_secret", 31337)
    again = run(*words)
    assert again.code == ExitCode.USAGE
    assert "take another name" in again.err
    unknown = run("profile", "add", "other", "--api-url", "http://lab", "--account", "nobody")
    assert unknown.code == ExitCode.USAGE
    assert "no keystore named 'nobody'" in unknown.err


def test_witness_address_is_stable(run: Run) -> None:
    first = json.loads(run("-o", "json", "witness", "address").out)
    assert json.loads(run("-o", "json", "witness", "address").out) == first


def test_witness_runs_once(run: Run, market: FakeMarket) -> None:
    ran = run("witness", "run", "--once")
    assert ran.code == 0
    assert f"for {BUYER.address}" in ran.err
    assert market.paths()[-1] == "GET witness/pending"


@pytest.mark.parametrize(
    "words",
    [
        ("key", "create", "x"),
        ("key", "revoke", "key_1"),
        ("job", "cancel", "job_1"),
        ("ask", "cancel", "ask_1"),
        ("wallet", "new", "x"),
        ("db", "upgrade", "--url", "sqlite:////nowhere/x.db"),
        ("dev", "up"),
    ],
)
def test_dry_run_sends_nothing(run: Run, market: FakeMarket, words: tuple[str, ...]) -> None:
    ran = run("--dry-run", *words)
    assert ran.code == 0
    assert ran.err.startswith("would")
    assert market.seen == []


@pytest.mark.parametrize(
    "words",
    [("key", "revoke", "key_1"), ("job", "cancel", "job_1"), ("ask", "cancel", "ask_1")],
)
def test_nothing_is_done_without_a_yes(
    run: Run, market: FakeMarket, words: tuple[str, ...]
) -> None:
    assert run(*words).code == ExitCode.USAGE
    assert market.seen == []


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
    monkeypatch.setattr("marketplace.cli.serve.quiet_logs", lambda: None)
    ran = run("dev", "up")
    assert ran.code == ExitCode.USAGE
    assert "port 8420 of 127.0.0.1: Address already in use" in ran.err
    assert "fix: name another with --port" in ran.err


def test_provider_without_a_configuration_is_told_what_to_do(run: Run) -> None:
    assert run("provider", "start").code == ExitCode.USAGE
    ran = run("-o", "json", "provider", "doctor")
    assert ran.code == ExitCode.ERROR
    found = {row["code"]: row for row in json.loads(ran.out)}
    assert found["config"]["status"] == "fail"
    assert "provider init" in found["config"]["fix"]
    assert {"gpu", "sandbox", "disk", "server"} <= set(found)


def test_contract_addresses_without_a_deployment_end_with_9(run: Run, tmp_path: Path) -> None:
    ran = run("contract", "addresses", "--chain-id", "7", "--deployments", str(tmp_path))
    assert ran.code == ExitCode.CHAIN
    assert "nothing is deployed on chain 7" in ran.err


def test_provider_init_makes_keys_that_only_their_owner_reads(
    run: Run, market: FakeMarket, home: Path
) -> None:
    words = ("provider", "init", "--name", "n1", "--region", "eu", "--tier", "H100-80GB-SXM")
    ran = run("-o", "json", *words, "--simulated", "1xH100")
    assert ran.code == 0, ran.err
    made = json.loads(ran.out)
    folder = home / "config/coulomb/provider"
    assert made["config"] == str(folder / "agent.yaml")
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir()} == dict.fromkeys(
        ("agent.yaml", "api.key", "meter.json", "meter.password"), 0o600
    )
    assert (folder / "api.key").read_text() == "coul_secret\n"
    assert "coul_secret" not in ran.out + ran.err + (folder / "agent.yaml").read_text()
    assert market.seen[-1][2]["message"]["account"] == BUYER.address
    assert "simulated" in ran.err
    again = run(*words)
    assert again.code == ExitCode.USAGE
    assert "exists" in again.err
