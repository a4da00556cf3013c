"""The money path on real processes: what receipts say is what the chain did, to the atom."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from marketplace.sdk.models import Lease
from marketplace.sdk.purchases import Job, Receipt
from settlement.leases import LeaseStatus
from tests.e2e.chain import (
    assert_books_balance,
    assert_paid_for_usage,
    assert_receipt_adds_up,
    cast_number,
    on_chain,
)
from tests.e2e.conftest import Stories
from tests.e2e.programs import Program
from tests.e2e.world import FEE_BPS, ONE, PASSWORD, TIER, Party, Provider, World, job_of

pytestmark = pytest.mark.xdist_group("e2e-money")

SCRIPT = """
import os, pathlib, time
text = pathlib.Path("numbers.txt").read_text()
print("read", len(text.split()), "numbers", flush=True)
time.sleep(float(os.environ["PAUSE"]))
total = sum(int(word) for word in text.split())
pathlib.Path("/out/sum.txt").write_text(f"{total}\\n")
print("done", flush=True)
"""


@dataclass(frozen=True, slots=True)
class Bought:
    """One job that ran through a client, and what is known of it afterwards."""

    buyer: Party
    provider: Provider
    job: Job
    lease: Lease
    receipt: Receipt
    logs: str
    result: Path
    deposited: int


def _write_inputs(folder: Path) -> None:
    (folder / "work").mkdir(parents=True)
    (folder / "work" / "main.py").write_text(SCRIPT)
    (folder / "work" / "numbers.txt").write_text("1 2 3 4 5 6 7 8 9 10\n")


def sdk_story(world: World) -> Bought:
    """A job with inputs and outputs, bought, witnessed and fetched through the SDK."""
    provider = world.provider("north", terms={"prices": {"gpu_hour": "2.50", "cpu_hour": "0.05"}})
    buyer = world.buyer("ada", 3 * ONE)
    folder = world.folder / "ada-files"
    _write_inputs(folder)
    spec = job_of(
        "python main.py",
        workdir=str(folder / "work"),
        env={"PAUSE": "2.5"},
        resources={"gpu": "H100:2", "cpu": "3", "memory": "512MB"},
        outputs=[{"path": "/out"}],
    )
    with world.client(buyer) as client:
        handle = client.jobs.submit(spec)
        job = handle.wait(60)
        lease = handle.lease()
        assert lease is not None, job
        receipt = handle.receipt()
        handle.result(folder / "result")
        logs = "".join(piece.text for piece in handle.logs())
    return Bought(buyer, provider, job, lease, receipt, logs, folder / "result", 3 * ONE)


@dataclass(frozen=True, slots=True)
class Commands:
    """What the commands of a provider and a buyer answered."""

    buyer: str
    provider: str
    findings: dict[str, str]
    receipt: dict[str, object]
    listed: list[dict[str, object]]
    result: Path
    said: str
    withdrawn: int
    earned: int
    tokens: int
    agent: Program


def _newcomer(world: World, name: str) -> Party:
    """Someone with a folder and a password, and nothing else yet."""
    home = world.folder / "people" / name
    (home / "config" / "coulomb").mkdir(parents=True)
    party = Party(name, home, None, None)  # type: ignore[arg-type]  # keys are made by commands
    party.password_file.touch(mode=0o600)
    party.password_file.write_text(PASSWORD + "\n")
    return party


def _wallet(world: World, party: Party, tokens: int) -> tuple[dict[str, str], str]:
    """A new key, funded; the environment to act as it."""
    env = {"COULOMB_API_URL": world.api_url, "ETH_RPC_URL": world.chain.rpc_url}
    env["COULOMB_PASSWORD_FILE"] = str(party.password_file)
    made = world.cli(
        party, "wallet", "new", party.name, "--password-file", str(party.password_file), env=env
    )
    world.fund(made["account"], tokens)
    return env, made["account"]


def cli_story(world: World) -> Commands:
    """A provider and a buyer that know nothing but the command line."""
    seller, payer = _newcomer(world, "sal"), _newcomer(world, "pia")
    sal_env, sal = _wallet(world, seller, 0)
    pia_env, pia = _wallet(world, payer, 2 * ONE)

    world.cli(
        seller, "provider", "init", "--name", "shed", "--region", "eu-north", "--tier", TIER,
        "--simulated", "1xH100", "--account", "sal", env=sal_env,
    )  # fmt: skip
    found = world.cli(seller, "provider", "doctor", "--account", "sal", env=sal_env)
    agent = world.start_cli(seller, "agent-shed", "provider", "start", env=sal_env)
    agent.says(r"(node_ready)")
    world.cli(seller, "key", "create", "desk", "--scope", "provider", "--account", "sal",
              env=sal_env)  # fmt: skip
    world.cli(seller, "ask", "create", "--gpu-hour", "1.75", "--start-limit", "30s", "--yes",
              env=sal_env)  # fmt: skip

    world.cli(payer, "key", "create", "laptop", "--account", "pia", env=pia_env)
    world.cli(payer, "wallet", "deposit", "1.5", "--yes", env=pia_env)
    folder = world.folder / "pia-files"
    _write_inputs(folder)
    job_file = folder / "job.yaml"
    placed = {"placement": {"regions": ["eu-north"]}, "env": {"PAUSE": "1.5"}}
    spec = job_of("python main.py", workdir="work", outputs=[{"path": "/out"}], **placed)
    job_file.write_text(yaml.safe_dump(spec))
    quote = world.cli(payer, "quote", str(job_file), env=pia_env)
    assert quote, "no quote"
    run = world.cli(
        payer, "job", "run", str(job_file), "--yes", "--result", str(folder / "result"),
        env=pia_env,
    )  # fmt: skip
    listed = world.cli(payer, "job", "list", env=pia_env)
    said = world.cli_text(payer, "job", "logs", listed[0]["id"], env=pia_env)

    earned = world.escrow.balance_of(sal)
    world.cli(seller, "earnings", "withdraw", "all", "--yes", env=sal_env)
    world.cli(payer, "wallet", "withdraw", "0.5", "--yes", env=pia_env)
    return Commands(
        buyer=pia,
        provider=sal,
        findings={finding["code"]: finding["status"] for finding in found},
        receipt=run,
        listed=listed,
        result=folder / "result",
        said=said,
        withdrawn=ONE // 2,
        earned=earned,
        tokens=world.token.balance_of(sal),
        agent=agent,
    )


STORIES = [sdk_story, cli_story]


def test_job_bought_through_the_sdk_succeeds_and_brings_its_outputs_back(
    stories: Stories, world: World
) -> None:
    seen: Bought = stories.outcome(sdk_story)
    assert (seen.job.state, seen.job.exit_code) == ("succeeded", 0)
    assert (seen.result / "sum.txt").read_text() == "55\n"
    assert seen.logs == "read 10 numbers\ndone\n"


def test_job_bought_through_the_sdk_costs_what_was_measured_to_the_atom(
    stories: Stories, world: World
) -> None:
    seen: Bought = stories.outcome(sdk_story)
    view = on_chain(world, seen.lease)
    assert view.status is LeaseStatus.CLOSED
    assert view.locked == 0
    assert 2_500 <= view.used_ms <= 6_000  # it slept 2.5 s between its first and last reading
    assert_receipt_adds_up(seen.receipt, FEE_BPS)
    assert_paid_for_usage(view, seen.receipt)
    assert {line.resource for line in seen.receipt.lines} == {"gpu", "cpu"}
    assert world.escrow.balance_of(seen.buyer.address) == (
        seen.deposited - seen.receipt.released.atoms
    )
    assert world.escrow.balance_of(seen.provider.address) == seen.receipt.net.atoms
    assert world.escrow.fees_of(seen.provider.address) == seen.receipt.fee.atoms
    assert world.escrow.capacity_used(seen.provider.address, 1) == 0


def test_receipts_transactions_are_on_chain_and_moved_that_lease(
    stories: Stories, world: World
) -> None:
    seen: Bought = stories.outcome(sdk_story)
    kinds = [transaction.kind for transaction in seen.receipt.transactions]
    assert kinds[0] == "Opened"
    assert kinds[-1] == "Closed"
    for transaction in seen.receipt.transactions:
        mined = world.chain_client.receipt(transaction.tx_hash)
        assert mined is not None
        assert mined.succeeded
        assert mined.block_number == transaction.block
        names = {world.escrow.decode(log).name for log in mined.logs}  # type: ignore[union-attr]
        assert transaction.kind in names


def test_market_used_by_commands_alone_sells_runs_and_pays_a_job(
    stories: Stories, world: World
) -> None:
    seen: Commands = stories.outcome(cli_story)
    assert "fail" not in seen.findings.values(), seen.findings
    assert [job["state"] for job in seen.listed] == ["succeeded"]
    assert (seen.result / "sum.txt").read_text() == "55\n"
    assert seen.said == "read 10 numbers\ndone\n"
    receipt = json.loads(json.dumps(seen.receipt))
    assert receipt["simulated"] is True
    released, net = (int(receipt[name]["atoms"]) for name in ("released", "net"))
    assert released == sum(int(line["cost"]["atoms"]) for line in receipt["lines"])
    assert world.escrow.balance_of(seen.buyer) == 3 * ONE // 2 - released - seen.withdrawn
    assert world.token.balance_of(seen.buyer) == ONE // 2 + seen.withdrawn
    assert seen.earned == seen.tokens == net
    assert world.escrow.balance_of(seen.provider) == 0


def test_cast_reads_the_balances_that_the_receipts_add_up_to(
    stories: Stories, world: World
) -> None:
    seen: Bought = stories.outcome(sdk_story)
    escrow = world.escrow.address
    read = {
        name: cast_number(world, escrow, "balanceOf(address)(uint256)", address)
        for name, address in (("buyer", seen.buyer.address), ("provider", seen.provider.address))
    }
    assert read["buyer"] == seen.deposited - seen.receipt.released.atoms
    assert read["provider"] == seen.receipt.net.atoms


def test_deposits_equal_releases_fees_refunds_and_balances(stories: Stories, world: World) -> None:
    stories.all()
    state = assert_books_balance(world)
    assert len(state.leases) == 2
    for lease in state.leases.values():
        assert lease.status is LeaseStatus.CLOSED
        paid = lease.released(state.params)
        assert lease.refunded > 0
        assert paid > lease.fees(state.params) > 0
    assert not any(state.capacity.values())
