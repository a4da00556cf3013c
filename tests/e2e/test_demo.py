"""The demonstration, run as people run it; what it claims is checked against its chain."""

import json
import selectors
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow, Token
from settlement.errors import ChainUnavailable
from settlement.events import (
    Closed,
    Deposited,
    MarkedAgain,
    Opened,
    PurseCreated,
    PurseSwept,
    Stopped,
)
from tests.forked import ROOT
from tests.programs import PATIENCE_S

SECONDS = 400  # on a busy machine; alone it takes well under half of that
WORDS = [sys.executable, "-m", "scripts.demo_lib", "--json", "--keep"]


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "stderr"


@pytest.fixture(scope="module")
def running(errors: Path) -> Iterator[subprocess.Popen[str]]:
    """The demonstration, kept running until the tests are over."""
    with errors.open("w") as out:
        process = subprocess.Popen(
            WORDS, cwd=ROOT, stdout=subprocess.PIPE, stderr=out, text=True, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(PATIENCE_S)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture(scope="module")
def result(running: subprocess.Popen[str], errors: Path) -> dict[str, Any]:
    """The JSON object on stdout."""
    line = _first_line(running)
    assert line, errors.read_text()
    document: dict[str, Any] = json.loads(line)
    assert document["conserved"] is True, errors.read_text()
    return document


def _first_line(process: subprocess.Popen[str]) -> str:
    """What it prints first; empty where it ends or takes too long."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(SECONDS) else ""


def _chain(result: dict[str, Any]) -> tuple[ChainClient, Escrow, Token]:
    client = ChainClient(result["chain"]["rpc"], result["chain"]["chain_id"])
    contracts = result["contracts"]
    escrow = Escrow(client, contracts["ComputeEscrow"])
    return client, escrow, Token(client, contracts["ComputeToken"])


def test_jobs_end_in_every_way(result: dict[str, Any]) -> None:
    states = Counter(job["state"] for job in result["jobs"])
    assert states["succeeded"] >= 6
    others = {"failed": 1, "cancelled": 1, "over_budget": 1, "no_match": 1}
    assert {state: count for state, count in states.items() if state != "succeeded"} == others
    reasons = {job["state"]: job["reason"] for job in result["jobs"]}
    assert reasons["failed"] == "exit_code"
    assert "then ask_" in reasons["no_match"]


def test_leases_pay_what_the_chain_says_they_paid(result: dict[str, Any]) -> None:
    client, escrow, _ = _chain(result)
    logged = escrow.events(0, client.head().number)
    closed = {
        "0x" + item.event.lease_no.hex(): item.event
        for item in logged
        if isinstance(item.event, Closed)
    }
    assert {lease["lease_no"] for lease in result["leases"]} == set(closed)
    # All but the one without a match have a lease, and one that lost its node has two.
    assert len(result["leases"]) == len(result["jobs"]) - 1 + 1
    for lease in result["leases"]:
        event = closed[lease["lease_no"]]
        assert lease["simulated"] is True
        assert int(lease["cost_atoms"]) == int(lease["released_atoms"]) == event.released > 0
        assert int(lease["refunded_atoms"]) >= event.refunded
        assert all((receipt := client.receipt(tx)) and receipt.succeeded for tx in lease["tx"])


def test_deposits_are_somewhere_to_the_atom(result: dict[str, Any]) -> None:
    client, escrow, token = _chain(result)
    events = [item.event for item in escrow.events(0, client.head().number)]
    accounts = {event.account for event in events if isinstance(event, Deposited)}
    providers = {event.provider for event in events if isinstance(event, Closed)}
    deposits = sum(event.amount for event in events if isinstance(event, Deposited))
    released = sum(event.released for event in events if isinstance(event, Closed))
    assert len(accounts) == 2
    assert len(providers) == 4
    fees = sum(escrow.fees_of(provider) for provider in providers)
    earned = sum(escrow.balance_of(provider) for provider in providers)
    assert earned + fees == released > 0
    assert sum(escrow.balance_of(account) for account in accounts) + released == deposits
    assert token.balance_of(escrow.address) == deposits
    sheet = {name: int(atoms) for name, atoms in result["sheet"].items()}
    assert (sheet["deposits_atoms"], sheet["earned_atoms"]) == (deposits, earned)
    parts = ("earned_atoms", "fees_atoms", "refunds_atoms", "untouched_atoms")
    assert sum(sheet[part] for part in parts) == deposits


def test_the_purse_paid_for_what_its_operator_used_and_the_rest_is_back(
    result: dict[str, Any],
) -> None:
    client, escrow, _ = _chain(result)
    purse = result["purse"]
    events = [item.event for item in escrow.events(0, client.head().number)]
    (made,) = (event for event in events if isinstance(event, PurseCreated))
    assert (made.purse, made.owner) == (purse["address"], purse["owner"])
    paid = sum(e.released for e in events if isinstance(e, Closed) and e.buyer == made.purse)
    swept = sum(event.amount for event in events if isinstance(event, PurseSwept))
    assert paid == int(purse["used_atoms"]) > 0
    assert int(purse["put_in_atoms"]) == paid + swept == paid + int(purse["returned_atoms"])
    assert escrow.balance_of(made.purse) == escrow.balance_of(made.operator) == 0
    assert client.nonce(made.operator) == 0


def test_a_job_that_lost_its_node_paid_both_providers_within_its_budget(
    result: dict[str, Any],
) -> None:
    client, escrow, _ = _chain(result)
    (moving,) = (job for job in result["jobs"] if job["name"] == "moving")
    assert moving["state"] == "succeeded"
    first, second = (lease for lease in result["leases"] if lease["job"] == moving["job"])
    events = [item.event for item in escrow.events(0, client.head().number)]
    marked = ["0x" + e.lease_no.hex() for e in events if isinstance(e, MarkedAgain)]
    assert marked == [first["lease_no"]]
    ended = {"0x" + e.lease_no.hex(): e for e in events if isinstance(e, Closed | Stopped)}
    assert set(ended) >= {first["lease_no"], second["lease_no"]}
    lost = next(e for e in events if isinstance(e, Opened) and _is(e, first))
    earned = escrow.balance_of(lost.provider) + escrow.fees_of(lost.provider)
    assert earned == int(first["released_atoms"]) > 0  # it had no other lease
    assert lost.locked == earned + int(first["refunded_atoms"])


def _is(event: Opened, lease: dict[str, Any]) -> bool:
    return "0x" + event.lease_no.hex() == lease["lease_no"]


def test_ctrl_c_ends_everything_it_started(
    result: dict[str, Any], running: subprocess.Popen[str], errors: Path
) -> None:
    started = psutil.Process(running.pid).children(recursive=True)
    assert len(started) >= 5  # chain, server, and the agents that are left
    running.send_signal(signal.SIGINT)
    assert running.wait(PATIENCE_S) == 0, errors.read_text()
    assert running.stdout is not None
    assert running.stdout.read() == ""  # one object, nothing else
    assert [process for process in started if process.is_running()] == []
    with pytest.raises(ChainUnavailable):
        ChainClient(result["chain"]["rpc"], result["chain"]["chain_id"]).check()
