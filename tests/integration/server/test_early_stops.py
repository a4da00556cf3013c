"""One balance that opens nodes and stops them at once, many at a time, on a real chain."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from marketplace.domain.reliability import reliability_milli
from marketplace.limits import EARLY_STOPS_MAX
from settlement.attestation import Stop
from settlement.chain.calls import LeaseRef
from settlement.chain.devnet import dev_account
from settlement.leases import LeaseStatus
from settlement.orders import Ask, Bid
from settlement.units import cost_up
from tests.integration.server.test_real_chain import (
    BUYER,
    METER,
    PROVIDER,
    WITNESS,
    Server,
    served,
)
from tests.market_world import gpu, job_spec, node_listing

NODES = EARLY_STOPS_MAX + 4
THREADS = 8


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with served(tmp_path, 100) as made:
        offer_nodes(made)
        yield made


def offer_nodes(server: Server) -> None:
    """So many nodes with one GPU each, all for sale."""
    for number in range(1, NODES + 1):
        node = node_listing(number, [gpu(f"GPU-{number}")])
        node_id = server.call("POST", "/nodes", "provider", json=node)["id"]
        draft = {"node_id": node_id, "meter": METER.address, "prices": {"gpu_hour": "2.50"}}
        message = server.call("POST", "/asks/prepare", "provider", json=draft)["ask"]
        signature = server.sign(Ask.from_message(message), dev_account(PROVIDER))
        server.call("POST", "/asks", "provider", json={"ask": message, "signature": signature})


def order(server: Server, **changes: Any) -> dict[str, Any]:
    """A job and its signed bid."""
    job = job_spec(**changes)
    draft = {"job": job, "witness": WITNESS.address}
    message = server.call("POST", "/bids/prepare", "buyer", json=draft)["bid"]
    signature = server.sign(Bid.from_message(message), dev_account(BUYER))
    return {"job": job, "bid": message, "signature": signature}


def open_leases(server: Server) -> list[dict[str, Any]]:
    """A lease on every node."""
    bids = []
    for salt in range(NODES):  # one after the other, so that each has a salt of its own
        body = order(server)
        headers = {"Idempotency-Key": f"job-{salt}"}
        bids.append(server.call("POST", "/jobs", "buyer", json=body, headers=headers)["id"])
    jobs = [server.wait(f"/jobs/{x}", "buyer", lambda j: j["state"] == "starting") for x in bids]
    return [server.call("GET", f"/leases/{job['lease_id']}", "buyer") for job in jobs]


def post_job(server: Server, body: dict[str, Any], key: str) -> Any:
    headers = {"Authorization": f"Bearer {server.keys['buyer']}", "Idempotency-Key": key}
    return server.http.post(f"{server.url}/v1/jobs", headers=headers, json=body)


def until_refused(server: Server) -> Any:
    """The refusal of a new bid, once the market knows of the stops."""
    until = time.monotonic() + 60
    body = order(server)
    while (answer := post_job(server, body, f"late-{time.monotonic()}")).status_code == 202:
        assert time.monotonic() < until, answer.text
        server.call("POST", f"/jobs/{answer.json()['id']}/cancel", "buyer")
        time.sleep(0.2)
        body = order(server)
    return answer


def assert_waits(answer: Any) -> None:
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_stops"), answer.text
    assert 3_000 < int(answer.headers["Retry-After"]) <= 3_600


def used(server: Server) -> int:
    escrow, _ = server.deployment.open(server.net.client())
    account = dev_account(PROVIDER).address
    return sum(escrow.capacity_used(account, number) for number in range(1, NODES + 1))


def refs(leases: list[dict[str, Any]]) -> list[LeaseRef]:
    names = ("buyer", "provider", "witness")
    return [LeaseRef(*(x[n] for n in names), bytes.fromhex(x["lease_no"][2:])) for x in leases]


def test_whoever_stops_more_than_twenty_nodes_at_once_past_the_server_waits_an_hour(
    server: Server,
) -> None:
    leases = open_leases(server)
    client = server.net.client()
    escrow, _ = server.deployment.open(client)
    assert used(server) == NODES * 1_000
    resting = order(
        server, retry={"on_events": ["no-capacity"], "duration": "2h"}, start_deadline="2h"
    )
    waiting = post_job(server, resting, "resting").json()["id"]
    stops = [escrow.calls.stop(ref) for ref in refs(leases)]
    client.transact(dev_account(BUYER), escrow.address, escrow.calls.multicall(stops))
    assert used(server) == 0  # every node is free again, within one transaction
    assert_waits(until_refused(server))
    server.kill()
    server.start()
    assert_waits(post_job(server, order(server), "after the restart"))
    for ref in refs(leases):  # only what was open for a while is locked still, and nothing is paid
        view = escrow.lease(ref)
        assert (view.status, view.released) == (LeaseStatus.STOPPED, 0)
        assert view.locked == cost_up(view.rate, (view.end - view.start) * 1_000)
    assert escrow.balance_of(dev_account(PROVIDER).address) == 0
    job = server.call("GET", f"/jobs/{waiting}", "buyer")
    assert job["state"] in ("queued", "starting")  # it may have met a node before the last stop


def test_whoever_cancels_more_than_twenty_jobs_at_once_waits_an_hour(server: Server) -> None:
    jobs = [lease["job_id"] for lease in open_leases(server)]
    with ThreadPoolExecutor(THREADS) as pool:
        cancel = "/jobs/{}/cancel".format
        list(pool.map(lambda job: server.call("POST", cancel(job), "buyer"), jobs))
    assert_waits(post_job(server, order(server), "one more"))


def test_a_provider_that_stops_as_many_harms_nobody(server: Server) -> None:
    leases = open_leases(server)
    client = server.net.client()
    escrow, _ = server.deployment.open(client)
    half = len(leases) // 2
    stops = [escrow.calls.stop(ref) for ref in refs(leases[:half])]
    client.transact(dev_account(PROVIDER), escrow.address, escrow.calls.multicall(stops))
    deadline = client.timestamp() + 500
    with ThreadPoolExecutor(THREADS) as pool:  # the meter's stops, through the server

        def stop(lease: dict[str, Any]) -> None:
            names = lease["buyer"], lease["provider"], bytes.fromhex(lease["lease_no"][2:])
            said = Stop(*names, False, deadline)
            body = {"stop": said.to_message(), "signature": server.sign(said, METER)}
            server.call("POST", f"/leases/{lease['id']}/stop", "provider", json=body)

        list(pool.map(stop, leases[half:]))
    for lease in leases:
        server.wait(f"/leases/{lease['id']}", "buyer", lambda x: x["state"] == "stopped")
    blamed = f"0.{reliability_milli(NODES, NODES)}"  # the market has found out who did it
    server.wait("/nodes", "provider", lambda page: page["data"][0]["reliability"] == blamed)
    assert post_job(server, order(server), "still welcome").status_code == 202
