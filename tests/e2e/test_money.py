"""The money path on real processes: what receipts say is what the chain did, to the atom."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace as Seen
from typing import Any, Self

import httpx
import yaml

from settlement import keystore
from settlement.leases import LeaseStatus
from settlement.units import cost
from tests.e2e.bare import BareBuyer
from tests.e2e.chain import (
    assert_books_balance,
    assert_paid_for_usage,
    assert_receipt_adds_up,
    cast_number,
    on_chain,
)
from tests.e2e.conftest import Stories
from tests.e2e.world import FEE_BPS, ONE, PASSWORD, TIER, Party, World, job_of
from tests.programs import PATIENCE_S

RATE = 2_500_000_000_000  # one GPU at 2.50 an hour, in 1e-12 token per hour
SCRIPT = """
import os, pathlib, time
text = pathlib.Path("numbers.txt").read_text()
print("read", len(text.split()), "numbers", flush=True)
time.sleep(float(os.environ["PAUSE"]))
total = sum(int(word) for word in text.split())
pathlib.Path("/out/sum.txt").write_text(f"{total}\\n")
print("done", flush=True)
"""


def _write_inputs(folder: Path) -> None:
    (folder / "work").mkdir(parents=True)
    (folder / "work" / "main.py").write_text(SCRIPT)
    (folder / "work" / "numbers.txt").write_text("1 2 3 4 5 6 7 8 9 10\n")


def prepare(world: World) -> None:
    """A node that sells GPUs and cores."""
    prices = {"gpu_hour": "2.50", "cpu_hour": "0.05"}
    world.provider("north", region="north", terms={"prices": prices})


def sdk_story(world: World) -> Seen:
    """A job with inputs and outputs, bought, witnessed and fetched through the SDK."""
    provider = world.providers["north"]
    buyer = world.buyer("ada", 3 * ONE)
    folder = world.folder / "ada-files"
    _write_inputs(folder)
    spec = job_of(
        "python main.py",
        workdir=str(folder / "work"),
        env={"PAUSE": "2.5"},
        placement={"regions": ["north"]},
        resources={"gpu": "H100:2", "cpu": "3", "memory": "512MB"},
        outputs=[{"path": "/out"}],
    )
    with world.client(buyer) as client:
        handle = client.jobs.submit(spec)
        job = handle.wait(PATIENCE_S)
        lease = handle.lease()
        assert lease is not None, job
        receipt = handle.receipt()
        handle.result(folder / "result")
        logs = "".join(piece.text for piece in handle.logs() if piece.stream == "stdout")
    return Seen(
        buyer=buyer, provider=provider, job=job, lease=lease, receipt=receipt, logs=logs,
        result=folder / "result", deposited=3 * ONE,
    )  # fmt: skip


@dataclass(slots=True)
class Shell:
    """One person at a command line: a folder, a key, an environment, and no profile yet."""

    world: World
    party: Party
    env: dict[str, str]

    @classmethod
    def of(cls, world: World, name: str) -> Self:
        """Someone new; the key lies in a keystore as Foundry makes them."""
        party = world.newcomer(name)
        env = {"COULOMB_API_URL": world.api_url, "ETH_RPC_URL": world.chain.rpc_url}
        return cls(world, party, {**env, "COULOMB_PASSWORD_FILE": str(party.password_file)})

    def run(self, *words: str) -> Any:
        """A command's JSON."""
        return self.world.cli(self.party, *words, env=self.env)

    def text(self, *words: str) -> str:
        """A command's output as people see it."""
        return self.world.cli_text(self.party, *words, env=self.env)


def _offer(world: World) -> tuple[Shell, dict[str, str]]:
    """A provider from nothing to an ask on the book; what its doctor found."""
    sal = Shell.of(world, "sal")
    world.fund(sal.party.address, 0)
    sal.run(
        "provider", "init", "--name", "shed", "--region", "eu-north", "--tier", TIER,
        "--simulated", "1xH100", "--account", "sal",
    )  # fmt: skip
    agent = world.start_cli(sal.party, "agent-shed", "provider", "start", env=sal.env)
    found = sal.run("provider", "doctor", "--account", "sal")
    agent.says(r"(node_ready)")
    sal.run("key", "create", "desk", "--scope", "provider", "--account", "sal")
    sal.run("ask", "create", "--gpu-hour", "1.75", "--start-limit", "30s", "--yes")
    return sal, {finding["code"]: finding["status"] for finding in found}


def _pay_in(world: World) -> tuple[Shell, str]:
    """A buyer from nothing to money in the escrow; its account."""
    pia = Shell.of(world, "pia")
    pia.party.keystore.unlink()
    made = pia.run("wallet", "new", "pia", "--password-file", str(pia.party.password_file))
    world.fund(made["account"], 2 * ONE)
    pia.run("key", "create", "laptop", "--account", "pia")
    pia.run("wallet", "deposit", "1.5", "--yes")
    return pia, made["account"]


def cli_story(world: World) -> Seen:
    """A provider and a buyer that use nothing but the command line."""
    with ThreadPoolExecutor(2) as pool:
        offered, paid_in = pool.submit(_offer, world), pool.submit(_pay_in, world)
        sal, findings = offered.result()
        pia, buyer = paid_in.result()
    folder = world.folder / "pia-files"
    _write_inputs(folder)
    placed = {"placement": {"regions": ["eu-north"]}, "env": {"PAUSE": "1.5"}}
    spec = job_of("python main.py", workdir="work", outputs=[{"path": "/out"}], **placed)
    job_file = str(folder / "job.yaml")
    Path(job_file).write_text(yaml.safe_dump(spec))
    quote = pia.run("quote", job_file)
    receipt = pia.run("job", "run", job_file, "--yes", "--result", str(folder / "result"))
    earned = world.escrow.balance_of(sal.party.address)
    with ThreadPoolExecutor(1) as pool:
        withdrawn = pool.submit(sal.run, "earnings", "withdraw", "all", "--yes")
        listed = pia.run("job", "list")
        said = pia.text("job", "logs", listed[0]["id"], "--stream", "stdout")
        withdrawn.result()
    return Seen(
        buyer=buyer, provider=sal.party.address, findings=findings, quote=quote, receipt=receipt,
        listed=listed, result=folder / "result", said=said, earned=earned,
    )  # fmt: skip


# -- HTTP and cast --------------------------------------------------------------------------------


def bare_story(world: World) -> Seen:
    """Deposit, log in, buy and close with an HTTP client and cast."""
    folder = world.folder / "bare"
    password = folder / "password"
    folder.mkdir()
    password.write_text(PASSWORD + "\n")
    with httpx.Client(base_url=world.api_url, timeout=60) as http:
        buyer = BareBuyer.of(world, http, folder / "keys", password)
        world.fund(buyer.account.address, ONE)
        buyer.deposit(ONE)
        buyer.log_in()
        job_id = buyer.buy(job_of("sleep 1", placement={"regions": ["north"]}))
        lease = buyer.close(job_id)
        job, receipt = buyer.get(f"/v1/jobs/{job_id}"), buyer.get(f"/v1/jobs/{job_id}/receipt")
        read = keystore.load(buyer.account.file, PASSWORD).address
        return Seen(
            job=job, lease=lease, receipt=receipt, balance=buyer.balance(), read_by_us=read,
            account=buyer.account.address,
        )  # fmt: skip


STORIES = [sdk_story, cli_story, bare_story]


def test_job_bought_through_the_sdk_succeeds_and_brings_its_outputs_back(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(sdk_story)
    assert (seen.job.state, seen.job.exit_code) == ("succeeded", 0)
    assert (seen.result / "sum.txt").read_text() == "55\n"
    assert seen.logs == "read 10 numbers\ndone\n"


def test_job_bought_through_the_sdk_costs_what_was_measured_to_the_atom(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(sdk_story)
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


def test_receipts_transactions_are_on_chain_and_moved_that_lease(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(sdk_story)
    kinds = [transaction.kind for transaction in seen.receipt.transactions]
    assert kinds[0] == "Opened"
    assert kinds[-1] == "Closed"
    for transaction in seen.receipt.transactions:
        mined = world.chain_client.receipt(transaction.tx_hash)
        assert mined is not None
        assert mined.succeeded
        assert mined.block_number == transaction.block
        names = {type(world.escrow.decode(log)).__name__ for log in mined.logs}
        assert transaction.kind in names


def test_market_used_by_commands_alone_sells_runs_and_pays_a_job(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(cli_story)
    assert "fail" not in seen.findings.values(), seen.findings
    assert [row["price"]["gpu_hour"] for row in seen.quote["matches"]] == ["1.75"]
    assert [job["state"] for job in seen.listed] == ["succeeded"]
    assert (seen.result / "sum.txt").read_text() == "55\n"
    assert seen.said == "read 10 numbers\ndone\n"
    assert seen.receipt["simulated"] is True
    released, net = (int(seen.receipt[name]["atoms"]) for name in ("released", "net"))
    assert released == sum(int(line["cost"]["atoms"]) for line in seen.receipt["lines"])
    assert world.escrow.balance_of(seen.buyer) == 3 * ONE // 2 - released
    assert world.token.balance_of(seen.buyer) == ONE // 2
    assert seen.earned == world.token.balance_of(seen.provider) == net > 0
    assert world.escrow.balance_of(seen.provider) == 0


def test_cast_reads_the_balances_that_the_receipts_add_up_to(
    stories: Stories, world: World
) -> None:
    stories.all()
    seen = stories.outcome(sdk_story)
    with world.client(seen.provider.party) as client:
        receipts = list(client.jobs.receipts())
    assert len(receipts) == 2
    escrow, buyer, provider = world.escrow.address, seen.buyer.address, seen.provider.address
    left = cast_number(world, escrow, "balanceOf(address)(uint256)", buyer)
    earned = cast_number(world, escrow, "balanceOf(address)(uint256)", provider)
    fees = cast_number(world, escrow, "feesOf(address)(uint256)", provider)
    assert left == seen.deposited - seen.receipt.released.atoms
    assert earned == sum(receipt.net.atoms for receipt in receipts)
    assert fees == sum(receipt.fee.atoms for receipt in receipts)


def test_buyer_with_http_and_cast_alone_buys_and_closes_a_job(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(bare_story)
    assert seen.job["state"] == "succeeded"
    released = int(seen.receipt["released"]["atoms"])
    assert released == cost(RATE, seen.receipt["used_ms"]) > 0
    assert seen.balance == ONE - released
    assert seen.lease["settled"]["ms"] == seen.receipt["used_ms"]
    assert seen.read_by_us == seen.account  # Foundry's keystore is ours


def test_deposits_equal_releases_fees_refunds_and_balances(stories: Stories, world: World) -> None:
    stories.all()
    state = assert_books_balance(world)
    assert len(state.leases) == 3
    for lease in state.leases.values():
        assert lease.status is LeaseStatus.CLOSED
        paid = lease.released(state.params)
        assert lease.refunded > 0
        assert paid > lease.fees(state.params) > 0
    assert not any(state.capacity.values())
