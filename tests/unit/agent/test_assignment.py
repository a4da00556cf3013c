from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from marketplace.agent.errors import NotOurs
from marketplace.agent.inventory import Inventory, simulated_gpus
from marketplace.agent.run import Assignment, assign
from marketplace.sdk import Lease
from settlement.orders import Ask, Bid
from settlement.signing import LocalSigner
from settlement.units import Sizes
from tests.factories import address
from tests.fakes_agent import FakeMarket
from tests.wire_samples import changed

METER = LocalSigner(b"\1" * 32)
FOUR_GPUS = Inventory(simulated_gpus("4xH100", "o"), 32_000, 64_000, 128_000)
Opened = tuple[Lease, Ask, Bid]


def opened(**changes: Any) -> Opened:
    market = FakeMarket(METER)
    lease_id = market.open_lease(["true"], **changes)
    lease = Lease.model_validate(market.leases[lease_id])
    return lease, market.asks["ask_1"], market.bids["bid_1"]


def assigned(lease: Lease, ask: Ask, bid: Bid, meter: LocalSigner = METER) -> Assignment:
    journal: Any = None
    return assign(FakeMarket(meter).node(journal, Path(), inventory=FOUR_GPUS), lease, ask, bid)


def test_a_lease_that_follows_from_its_orders_is_ours() -> None:
    lease, ask, bid = opened(units=7, terms={"start_limit_seconds": 30})
    job = assigned(lease, ask, bid)
    assert (job.sizes, job.units_cap) == (Sizes(1000, 1000, 512, 64), 7)
    assert lease.terms is not None
    assert job.start_deadline_ms == (lease.terms.start + 30) * 1000
    assert (job.spec.command, job.entry.retry_on) == (("true",), ())


def test_when_a_job_is_retried_is_noted_with_its_lease() -> None:
    retry = {"on_events": ["interruption", "error"], "duration": "1h"}
    assert assigned(*opened(job={"retry": retry})).entry.retry_on == ("interruption", "error")


def test_sizes_that_the_bid_leaves_open_are_its_share_of_what_the_ask_offers() -> None:
    sizes = {"cpu_milli": 0, "memory_mib": 0, "storage_mib": 0}
    offered = {"cpu_milli": 32_000, "memory_mib": 64_000, "storage_mib": 3}
    ask = {"gpu_milli": 4000, **offered}
    job = assigned(*opened(sizes=sizes, gpu_milli=2000, ask=ask))
    assert job.sizes == Sizes(2000, 16_000, 32_000, 1)
    job = assigned(*opened(sizes=sizes, gpu_milli=1000, ask=ask))
    assert job.sizes == Sizes(1000, 8_000, 16_000, 1)  # a sandbox always has a bound


def test_a_lease_without_a_gpu_takes_what_its_bid_says() -> None:
    job = assigned(*opened(gpu_milli=0, sizes={"cpu_milli": 4000}))
    assert job.sizes == Sizes(0, 4000, 512, 64)


@pytest.mark.parametrize(("interval_ms", "grace_ms"), [(1_000, 20_000), (60_000, 120_000)])
def test_the_grace_is_two_intervals_but_not_below_20_s(interval_ms: int, grace_ms: int) -> None:
    assert assigned(*opened(interval_ms=interval_ms)).grace_ms == grace_ms


def test_the_asks_limit_on_time_holds_whatever_the_server_says() -> None:
    lease, ask, bid = opened(terms={"max_seconds": 10**6, "paid_seconds": 10**6})
    assert assigned(lease, ask, bid).longest_seconds == ask.max_seconds


def test_orders_for_another_meter_are_not_ours() -> None:
    lease, ask, bid = opened()
    with pytest.raises(NotOurs, match="another lease"):
        assigned(lease, ask, bid, LocalSigner(b"\2" * 32))
    with pytest.raises(NotOurs, match="another lease"):
        assigned(lease, replace(ask, salt=99), bid)


def test_prices_at_which_another_lease_opens_are_not_ours() -> None:
    lease, ask, bid = opened()
    dearer = replace(ask.floor, gpu_hour=ask.floor.gpu_hour + 1)
    with pytest.raises(NotOurs, match="another lease"):
        assigned(changed(lease, terms=changed(lease.terms, prices=dearer)), ask, bid)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lease_no": b"\xab" * 16}, "another lease"),
        ({"buyer": address(9)}, "who signed"),
        ({"provider": address(9)}, "who signed"),
        ({"terms": None}, "no terms"),
        *(({"id": name}, "not a lease id") for name in ("../../etc", "a/b", "", "x" * 81, "a\0b")),
    ],
)
def test_a_lease_that_its_orders_do_not_open_is_not_ours(changes: dict[str, Any], why: str) -> None:
    lease, ask, bid = opened()
    with pytest.raises(NotOurs, match=why):
        assigned(changed(lease, **changes), ask, bid)


def test_a_job_the_buyer_did_not_sign_is_not_run() -> None:
    lease, ask, bid = opened()
    assert lease.job is not None
    spec = lease.job.spec
    evil = {**spec, "command": ["curl", "evil.example"]}
    broken = {**spec, "resources": {**spec["resources"], "gpu": "::"}}
    for other, why in ((evil, "hash the buyer signed"), (broken, "cannot be read")):
        with pytest.raises(NotOurs, match=why):
            assigned(changed(lease, job=changed(lease.job, spec=other)), ask, bid)
