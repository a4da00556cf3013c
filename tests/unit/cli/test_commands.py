"""Commands against a market behind a transport: what they send, print, ask and refuse."""

import json
from pathlib import Path
from typing import Any

import pytest

from marketplace.agent.config import load_config
from marketplace.errors import ExitCode
from marketplace.sdk.profile import ProfileFile
from settlement import keystore
from tests.market_world import H100
from tests.sdk_app import Served
from tests.tars import packed
from tests.unit.cli.conftest import BUYER, Run


def test_dry_run_shows_the_plan_as_data_and_buys_nothing(
    run: Run, market: Served, job_file: str
) -> None:
    market.world.ask(price="2.10", start_limit="60s")
    ran = run("job", "run", job_file, "--dry-run", "-o", "json")
    assert ran.code == 0, ran.err
    row = json.loads(ran.out)
    assert row["price_per_gpu_hour"] == "2.1"
    assert row["maximum_cost"]["amount"] == "0.35"  # ten minutes at 2.10 an hour
    assert row["maximum_duration"] == "10m"
    assert market.sent("POST jobs") == []


def test_plan_is_shown_before_the_question(run: Run, market: Served, job_file: str) -> None:
    market.world.ask(price="2.40", start_limit="60s")
    ran = run("job", "run", job_file)
    assert ran.code == ExitCode.USAGE
    assert "Time counts from when the job is ready, at the latest 1m after the lease" in ran.err
    assert "Buy, for at most 0.4 CMP?" in ran.err
    assert ran.out == ""
    assert "maximum cost       0.4 CMP" in ran.err
    assert "simulated" in ran.err
    assert "say --yes" in ran.err
    assert market.sent("POST jobs") == []


def test_job_without_a_match_is_explained_and_not_placed(
    run: Run, market: Served, job_file: str
) -> None:
    for _ in range(2):
        market.world.ask(price="3")
    for words in (("job", "run", job_file, "--yes"), ("quote", job_file)):
        ran = run(*words)
        assert ran.code == ExitCode.NO_CAPACITY
        assert "rate_above_limit: refuses 2, leaves 0" in ran.err
        assert "try: " in ran.err
        assert "max_gpu_hour" in ran.err
    assert market.sent("POST jobs") == []


def test_detached_job_is_placed_with_a_warning(run: Run, market: Served, job_file: str) -> None:
    market.world.ask(price="2")
    ran = run("-o", "json", "job", "run", job_file, "--yes", "--detach")
    assert ran.code == 0, ran.err
    made = json.loads(ran.out)
    assert (made["state"], made["account"]) == ("queued", BUYER.address)
    assert made["max_cost"]["amount"] == "0.333333333333333334"
    assert "coulomb witness run" in ran.err
    assert market.paths()[-1] == "POST jobs"


@pytest.mark.parametrize(
    ("state", "exit_code", "words", "code"),
    [
        ("succeeded", 0, (), 0), ("succeeded", 0, ("--propagate",), 0),
        ("failed", 3, (), ExitCode.JOB_FAILED), ("failed", 3, ("--propagate",), 3),
        ("cancelled", None, ("--propagate",), ExitCode.JOB_FAILED),
        ("no_match", None, (), ExitCode.NO_CAPACITY),
        ("over_budget", None, (), ExitCode.JOB_FAILED), ("lost", None, (), ExitCode.JOB_FAILED),
    ],
)  # fmt: skip
def test_wait_ends_as_the_job_did(
    run: Run, market: Served, job_file: str, state: str, exit_code: int | None,
    words: tuple[str, ...], code: int,
) -> None:  # fmt: skip
    made = bought(run, market, job_file)
    ended = {"state": state, "exit_code": exit_code}
    market.bend[f"GET jobs/{made}"] = lambda answer: answer.update(ended)
    assert run("job", "wait", made, *words).code == code


def test_wait_times_out_with_124(run: Run, market: Served, job_file: str) -> None:
    made = bought(run, market, job_file)
    assert run("job", "wait", made, "--timeout", "0.2").code == ExitCode.TIMED_OUT


def bought(run: Run, market: Served, job_file: str) -> str:
    """The id of a job that is queued; nobody matches it."""
    market.world.ask(price="2")
    ran = run("-o", "json", "job", "run", job_file, "--yes", "--detach")
    assert ran.code == 0, ran.err
    return str(json.loads(ran.out)["id"])


def test_job_is_listed_shown_and_cancelled(run: Run, market: Served, job_file: str) -> None:
    made = bought(run, market, job_file)
    (row,) = json.loads(run("-o", "json", "job", "list").out)
    assert (row["id"], row["spec"]["name"]) == (made, "train")
    assert made in run("job", "show", made).out
    ended = run("-o", "json", "--yes", "job", "cancel", made)
    assert json.loads(ended.out)["ending"]
    assert "the job is asked to end" in ended.err


def test_what_a_job_left_behind_is_shown(run: Run, market: Served) -> None:
    market.world.ask()
    job_id, lease_id = market.world.run(5)
    ran = run("receipt", "show", job_id)
    assert ran.out.startswith("Receipt ")
    assert "to the provider" in ran.out
    assert "all accounted for" in ran.out
    ended = run("--yes", "order", "cancel", job_id)
    assert ended.code == ExitCode.CONFLICT
    assert "nothing was open any more" in ended.err
    (row,) = json.loads(run("-o", "json", "receipt", "list").out)
    assert (row["lease_id"], row["used_ms"], row["simulated"]) == (lease_id, 5_000, True)
    lines = run("-o", "jsonl", "job", "watch", job_id).out.splitlines()
    assert {json.loads(line)["type"] for line in lines} >= {"status", "cost", "receipt"}
    assert run("job", "logs", job_id).code == 0


@pytest.mark.parametrize("to", [None, "elsewhere"])
def test_outputs_are_unpacked_into_a_folder_of_the_jobs_own_unless_told_otherwise(
    run: Run, market: Served, home: Path, monkeypatch: pytest.MonkeyPatch, to: str | None
) -> None:
    monkeypatch.chdir(home)
    before = set(home.iterdir())
    market.world.ask()
    job_id, _ = market.world.run(5)
    with market.client() as client:
        blob = client.blobs.put(packed({"model.bin": b"weights"}))
    assert "its job file names no `outputs`" in run("job", "result", job_id).err
    left = {"outputs": blob.sha256}

    def told(answer: dict[str, Any]) -> None:
        answer.update(left)
        answer["spec"]["outputs"] = [{"path": "/out/model.bin"}]

    market.bend[f"GET jobs/{job_id}"] = told
    words = ("-o", "json", "job", "result", job_id, *(("--to", to) if to else ()))
    ran = run(*words)
    assert ran.code == 0, ran.err
    folder = to or job_id
    assert json.loads(ran.out) == [{"file": f"{folder}/model.bin"}]
    assert (home / folder / "model.bin").read_bytes() == b"weights"
    assert set(home.iterdir()) - before == {home / folder}
    again = run(*words)
    assert again.code == ExitCode.USAGE
    assert f"{folder} is not an empty folder" in again.err
    with market.client() as client:
        left["outputs"] = client.blobs.put(packed({".git/hooks/post-checkout": b"x"})).sha256
    ran = run("job", "result", job_id, "--to", "third")
    assert "is not among the job's outputs" in ran.err
    assert list((home / "third").iterdir()) == []


def test_an_ask_is_made_listed_repriced_and_cancelled(run: Run, market: Served) -> None:
    market.world.node(market.world.buyer)
    meter = ("--meter", market.world.meter.address)
    dry = run("-o", "json", "--dry-run", "ask", "create", "--gpu-hour", "2", *meter)
    assert json.loads(dry.out)["message"]["floor"]["gpuHour"] == "2000000000"
    words = ("ask", "create", "--gpu-hour", "2", "--max-duration", "6h", *meter)
    made = json.loads(run("-o", "json", "--yes", *words).out)
    assert (made["ask"]["maxSeconds"], made["prices"]["gpu_hour"]) == (21_600, "2")
    repriced = run("-o", "json", "--yes", "ask", "reprice", made["id"], "--gpu-hour", "3")
    new = json.loads(repriced.out)
    assert (new["ask"]["maxSeconds"], new["prices"]["gpu_hour"]) == (21_600, "3")
    states = {row["id"]: row["state"] for row in json.loads(run("-o", "json", "ask", "list").out)}
    assert states == {made["id"]: "cancelled", new["id"]: "open"}
    assert "open" not in run("--yes", "order", "cancel", "--all").out
    rows = run("-o", "csv", "book", "show").out
    assert "CMP" not in rows
    assert len(rows.splitlines()) == 1


def test_an_ask_is_made_with_the_meter_of_its_own_node(
    run: Run, market: Served, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    market.bend["GET config"] = lambda answer: answer.update(rpc_url="")
    market.world.node(market.world.buyer)
    with market.client() as client:
        (node,) = client.nodes.list()
    for name, number in (("other", node.number + 1), ("mine", node.number)):
        words = ("--tier", "H100-80GB-SXM", "--simulated", "1xH100", "--number", str(number))
        file = ("--config", f"{name}/agent.yaml") if name == "mine" else ()
        ran = run("-o", "json", "provider", "init", "--name", name, "--region", "eu", *words, *file)
        assert ran.code == ExitCode.OK, ran.err
    assert "coulomb provider start --config mine/agent.yaml" in ran.err
    assert "coulomb ask create --config mine/agent.yaml --node mine --gpu-hour PRICE" in ran.err
    meter = json.loads(ran.out)["meter"]
    assert load_config(Path("mine/agent.yaml")).meter_keystore == Path("mine/meter.json").resolve()
    create = ("--dry-run", "ask", "create", "--gpu-hour", "2")
    wrong = run(*create)
    assert wrong.code == ExitCode.USAGE
    assert f"the agent's file sets up the node other, not {node.name}" in wrong.err
    assert "with --config" in wrong.err
    made = run("-o", "json", *create, "--config", "mine/agent.yaml")
    assert json.loads(made.out)["message"]["meter"] == meter
    unknown = run(*create, "--node", "nobody")
    assert "no node of yours is called 'nobody'" in unknown.err


def test_an_ask_without_gpus_and_on_notice_keeps_both_when_it_is_repriced(
    run: Run, market: Served
) -> None:
    market.world.node(market.world.buyer)
    meter = ("--meter", market.world.meter.address)
    unpriced = run("--yes", "ask", "create", "--no-gpu", "--gpu-hour", "2", *meter)
    assert (unpriced.code, "say --cpu-hour" in unpriced.err) == (ExitCode.USAGE, True)
    assert "say --gpu-hour" in run("--yes", "ask", "create", "--cpu-hour", "1", *meter).err
    words = ("--no-gpu", "--cpu-hour", "0.05", "--interruptible", "--notice", "5m")
    ran = run("-o", "json", "--yes", "ask", "create", *words, *meter)
    assert "prices             cpu_hour 0.05\n" in ran.err
    assert "notice             5m\n" in ran.err
    made = json.loads(ran.out)
    assert (made["tier"], made["gpu_milli"], made["notice_seconds"]) == ("CPU", 0, 300)
    repriced = run("-o", "json", "--yes", "ask", "reprice", made["id"], "--cpu-hour", "0.06")
    new = json.loads(repriced.out)
    assert (new["tier"], new["gpu_milli"], new["notice_seconds"]) == ("CPU", 0, 300)
    market.world.match()
    (shown,) = json.loads(run("-o", "json", "book", "show").out)["asks"]
    assert (shown["free_cpu_milli"], shown["price"]["cpu_hour"]) == (64_000, "0.06")
    head, row = run("-o", "csv", "book", "show").out.splitlines()
    cells = dict(zip(head.split(","), row.split(","), strict=True))
    assert (cells["GPU-hour"], cells["core-hour"], cells["notice s"]) == ("", "0.06", "300")
    assert (
        "without interruptible"
        in run("--yes", "ask", "create", "--notice", "5m", *words[:3], *meter).err
    )


def test_an_ask_that_the_account_did_not_sign_is_not_repriced(run: Run, market: Served) -> None:
    ask_id = market.world.ask()
    ran = run("--yes", "ask", "reprice", ask_id, "--gpu-hour", "3")
    assert ran.code == ExitCode.ERROR
    assert f"did not sign {ask_id}" in ran.err
    assert market.sent("POST asks") == []


def test_tiers_and_the_book_are_listed(run: Run, market: Served) -> None:
    market.world.ask()
    assert H100 in run("tier", "list").out
    book = json.loads(run("-o", "json", "book", "show", "--tier", H100).out)
    assert [row["tier"] for row in book["asks"]] == [H100]


def test_nodes_are_shown_and_drained(run: Run, market: Served) -> None:
    node_id = market.world.node(market.world.buyer, gpus=2)
    (row,) = json.loads(run("-o", "json", "provider", "status").out)
    assert (row["id"], row["gpu_count"], row["leases"]) == (node_id, 2, 0)
    assert json.loads(run("-o", "json", "--yes", "provider", "drain", "n1").out)["state"] == (
        "draining"
    )
    assert json.loads(run("-o", "json", "provider", "resume", "n1").out)["state"] == "active"


def test_a_node_is_taken_back_and_its_leases_say_when_they_end(run: Run, market: Served) -> None:
    world = market.world
    node_id = world.node(world.buyer, gpus=2)
    world.fund(9, world.stranger)
    world.ask(node_id, provider=world.buyer)
    _, firm = world.open(buyer=world.stranger)
    world.ask(node_id, "2.00", provider=world.buyer, interruptible=True, notice="5m")
    accepts = {"placement": {"interruptible": True}}
    _, lease_id = world.open(buyer=world.stranger, **accepts)
    ran = run("-o", "json", "--yes", "provider", "drain", node_id, "--interrupt")
    assert json.loads(ran.out)["state"] == "draining"
    assert f"{lease_id} has notice; it ends at " in ran.err
    assert f"{firm} is not interruptible: it goes on" in ran.err


def test_wrong_job_file_lists_every_mistake(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("comand: x\nmax_duration: soon\n")
    ran = run("job", "run", str(path))
    assert ran.code == ExitCode.USAGE
    assert "/comand: unknown key; did you mean command?" in ran.err
    assert "/max_duration: must be a duration" in ran.err


def test_made_key_is_shown_once_and_kept_in_the_profile(run: Run) -> None:
    ran = run("-o", "json", "key", "create", "laptop")
    made = json.loads(ran.out)["key"]
    kept = ProfileFile().get()
    assert (kept.api_key, kept.account) == (made, BUYER.address)
    assert kept.chain_id == 31337
    for words in (("profile", "show"), ("profile", "list"), ("key", "list")):
        for form in ("table", "json", "jsonl", "csv"):
            assert made not in run("-o", form, *words).out


def test_who_may_wait_for_an_ask_is_told_how(run: Run, market: Served, job_file: str) -> None:
    ran = run("job", "run", job_file)
    assert ran.code == ExitCode.NO_CAPACITY
    assert "maximum cost" not in ran.err
    assert "the book is empty" in ran.err
    assert "retry: {on_events: [no-capacity]}" in ran.err


def test_an_agents_key_is_made_anew_in_its_file(run: Run, home: Path) -> None:
    file = home / "agent" / "api.key"
    before = ProfileFile().get().api_key
    ran = run("key", "create", "node-n1", "--scope", "provider", "--to", str(file))
    assert ran.code == 0, ran.err
    assert file.read_text().startswith("coul_")
    assert file.read_text().strip() not in ran.out + ran.err
    again = run("key", "create", "node-n1", "--scope", "provider", "--to", str(file))
    assert again.code == ExitCode.USAGE
    assert f"Replace what is in {file}?" in again.err
    assert file.stat().st_mode & 0o777 == 0o600
    assert ProfileFile().get().api_key == before


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
    assert "never overwritten: choose another name" in again.err


def test_new_wallet_takes_its_password_from_the_file_of_the_environment(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COULOMB_PASSWORD_FILE", str(home / "pw"))
    assert run("wallet", "new", "second").code == 0
    assert keystore.load(home / "config/coulomb/keystores/second", "pw").address


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
    assert (kept.account, kept.chain_id) == (BUYER.address, 31337)
    assert (kept.api_key or "").startswith("coul_")
    again = run(*words)
    assert again.code == ExitCode.USAGE
    assert "take another name" in again.err
    unknown = run("profile", "add", "other", "--api-url", "http://lab", "--account", "nobody")
    assert unknown.code == ExitCode.USAGE
    assert "no keystore named 'nobody'" in unknown.err


def test_witness_address_is_stable(run: Run) -> None:
    first = json.loads(run("-o", "json", "witness", "address").out)
    assert json.loads(run("-o", "json", "witness", "address").out) == first


def test_witness_runs_once(run: Run, market: Served) -> None:
    ran = run("witness", "run", "--once")
    assert ran.code == 0
    assert f"for {BUYER.address}" in ran.err
    assert market.paths()[-1] == "GET witness/pending"


@pytest.mark.parametrize(
    "words",
    [
        ("key", "create", "x"), ("key", "revoke", "key_1"), ("job", "cancel", "job_1"),
        ("ask", "cancel", "ask_1"), ("wallet", "new", "x"), ("dev", "up"),
        ("db", "upgrade", "--url", "sqlite:////nowhere/x.db"),
    ],
)  # fmt: skip
def test_dry_run_sends_nothing(run: Run, market: Served, words: tuple[str, ...]) -> None:
    ran = run("--dry-run", *words)
    assert ran.code == 0
    assert ran.err.startswith("would")
    assert market.seen == []


@pytest.mark.parametrize(
    "words", [("key", "revoke", "key_1"), ("job", "cancel", "job_1"), ("ask", "cancel", "ask_1")]
)
def test_nothing_is_done_without_a_yes(run: Run, market: Served, words: tuple[str, ...]) -> None:
    assert run(*words).code == ExitCode.USAGE
    assert market.seen == []


def test_a_machine_without_gpus_is_set_up_in_the_tier_cpu(run: Run, market: Served) -> None:
    market.bend["GET config"] = lambda answer: answer.update(rpc_url="")
    words = ("provider", "init", "--name", "n1", "--region", "eu", "--tier", "CPU")
    misfit = run(*words, "--simulated", "1xH100", "--shared")
    assert misfit.code == ExitCode.USAGE
    assert "the tier CPU sells no GPUs: leave out simulated and shared" in misfit.err
    ran = run(*words)
    assert ran.code == ExitCode.OK
    assert "coulomb ask create --cpu-hour PRICE" in ran.err
    file = Path(json.loads(run("-o", "json", *words, "--replace").out)["config"])
    file.with_name("api.key").unlink()  # so that doctor looks for no server at that address
    found = {row["code"]: row for row in json.loads(run("-o", "json", "provider", "doctor").out)}
    assert (found["gpu"]["status"], found["node"]["status"]) == ("ok", "ok")
    assert "sells no GPUs" in found["gpu"]["evidence"]


def test_provider_without_a_configuration_is_told_what_to_do(run: Run, market: Served) -> None:
    market.bend["GET config"] = lambda answer: answer.update(rpc_url="")
    assert run("provider", "start").code == ExitCode.USAGE
    ran = run("-o", "json", "provider", "doctor")
    assert ran.code == ExitCode.ERROR
    found = {row["code"]: row for row in json.loads(ran.out)}
    assert found["config"]["status"] == "fail"
    assert "provider init" in found["config"]["fix"]
    assert {"gpu", "sandbox", "disk", "server"} <= set(found)


def test_provider_init_makes_keys_that_only_their_owner_reads(
    run: Run, market: Served, home: Path
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
    key = (folder / "api.key").read_text().strip()
    assert key.startswith("coul_")
    assert key not in ran.out + ran.err + (folder / "agent.yaml").read_text()
    assert market.seen[-1][2]["message"]["account"] == BUYER.address
    assert "simulated" in ran.err
    again = run(*words)
    assert again.code == ExitCode.USAGE
    assert "exists" in again.err
