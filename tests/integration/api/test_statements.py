"""A page of sixty costs as many statements as a page of two, whatever it lists."""

from typing import Any, TypeVar

import pytest
from sqlmodel import SQLModel

from marketplace.db.store import Store
from marketplace.db.tables import (
    ApiKeyRow,
    AttestationRow,
    GpuRow,
    JobEventRow,
    LeaseRow,
    NodeRow,
    ReceiptRow,
)
from tests.api_client import Api
from tests.databases import rows_of, statements

R = TypeVar("R", bound=SQLModel)
FEW, MANY = 2, 60
STILL = {"list_problems", "list_tiers"}  # they ask the database nothing
LISTS = {
    "list_asks": "/asks",
    "list_attestations": "/leases/{lease_id}/attestations",
    "list_bids": "/bids",
    "list_job_logs": "/jobs/{job_id}/logs",
    "list_jobs": "/jobs",
    "list_keys": "/keys",
    "list_leases": "/leases",
    "list_nodes": "/nodes",
    "list_receipts": "/receipts",
    "list_witness_pending": "/witness/pending",
}


def copy(store: Store, row: R, **changes: Any) -> R:
    """Add a row like another."""
    made = type(row)(**{**row.model_dump(), **changes})
    store.session.add(made)
    store.session.flush()
    return made


def copy_all(store: Store, lease: LeaseRow, number: int) -> None:
    """One more of everything, told apart by a number."""
    key, attestation = rows_of(store, ApiKeyRow)[0], rows_of(store, AttestationRow)[0]
    receipt = rows_of(store, ReceiptRow)[0]
    node_row, ask_row = store.nodes.need(lease.node_id), store.asks.need(lease.ask_id)
    bid_row, job_row = store.bids.need(lease.bid_id), store.jobs.need(lease.job_id)
    name, secret, hashed = f"copy_{number:03}", f"{number:064x}", f"0x{number:064x}"
    node = copy(store, node_row, id=name, number=1_000 + number)
    copy(store, rows_of(store, GpuRow)[0], uuid=name, node_id=node.id)
    ask = copy(store, ask_row, id=name, hash=hashed, node_id=node.id)
    bid = copy(store, bid_row, id=name, hash=hashed, salt=str(1_000 + number), job_id=name)
    job = copy(store, job_row, id=name, bid_id=bid.id, lease_id=name)
    ids = {"job_id": job.id, "bid_id": bid.id, "ask_id": ask.id, "node_id": node.id}
    copied = copy(store, lease, id=name, lease_no=f"0x{number:032x}", **ids)
    copy(store, attestation, id=name, lease_id=copied.id, sequence=copied.sequence, voucher=None)
    copy(store, attestation, id=f"more_{number:03}", lease_id=lease.id, sequence=100 + number)
    copy(store, receipt, id=name, job_id=job.id, lease_id=copied.id)
    copy(store, key, id=name, secret_hash=secret, nonce=name)
    piece = {"stream": "stdout", "offset": number, "text": "x"}
    store.events.append(JobEventRow(job_id=lease.job_id, type="log", data=piece, at_ms=number))


def fill(api: Api, lease_id: str, numbers: range) -> None:
    """Multiply everything, and let one account see it all."""
    with api.world.database.write() as store:
        lease = store.leases.need(lease_id)
        for row in rows_of(store, NodeRow):
            row.provider = api.world.buyer.address
        for number in numbers:
            copy_all(store, lease, number)


@pytest.fixture(scope="module")
def names(still_api: Api) -> dict[str, str]:
    """A market with a closed lease and an open one, which `copy_all` multiplies."""
    world = still_api.world
    world.node()
    world.offer(world.node(gpus=4))
    world.run(3)
    job_id, lease_id = world.open()
    world.attest(lease_id, 0, 0)
    assert still_api.key(world.buyer, "buyer", "provider")
    return {"job_id": job_id, "lease_id": lease_id}


def count(api: Api, path: str) -> tuple[int, int]:
    """How many items the first page has, and how many statements it took."""
    key = api.key(api.world.buyer, "buyer", "provider")
    api.ok(api.call("GET", "/accounts/" + api.world.buyer.address, key))  # the gate knows the key
    with statements(api.world.database) as seen:
        answer = api.ok(api.call("GET", path, key, params={"limit": 100}))
    return len(answer["data"]), len(seen)


@pytest.fixture(scope="module")
def pages(still_api: Api, names: dict[str, str]) -> list[dict[str, tuple[int, int]]]:
    """Of each list its `count` with a few of everything, then with many."""
    counted = []
    for numbers in (range(FEW), range(FEW, MANY)):
        fill(still_api, names["lease_id"], numbers)
        counted.append({n: count(still_api, path.format(**names)) for n, path in LISTS.items()})
    return counted


def test_every_list_is_counted(still_api: Api) -> None:
    paths = still_api.app.openapi()["paths"].values()
    names = {operation["operationId"] for methods in paths for operation in methods.values()}
    assert {name for name in names if name.startswith("list_")} == LISTS.keys() | STILL


@pytest.mark.parametrize("name", LISTS)
def test_a_page_of_many_costs_as_many_statements_as_one_of_few(
    pages: list[dict[str, tuple[int, int]]], name: str
) -> None:
    (few, statements_of_few), (many, statements_of_many) = (page[name] for page in pages)
    assert few >= FEW
    assert many == few + MANY - FEW
    assert statements_of_many == statements_of_few <= 5
