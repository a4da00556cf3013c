"""A lease on chain is compared with the orders that its number names."""

from dataclasses import replace
from typing import Any

import pytest

from settlement.leases import LeaseStatus, LeaseView, Unlike, unlike
from settlement.orders import OpenedFrom
from tests.factories import make_ask, make_bid, shown_lease

ASK, BID = make_ask(min_seconds=60, max_seconds=900), make_bid(max_seconds=300)
OPENED = OpenedFrom(ASK, BID, ASK.floor)
COUNTED = replace(OPENED, bid=replace(BID, egress_mib=1))


def view(**changes: Any) -> LeaseView:
    return shown_lease(OPENED, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"used_ms": 5, "again": True, "released": 1},
        {"paid_seconds": 900},  # topped up to the ask's longest time
        {"paid_seconds": 60},  # a budget that pays for the shortest
        {"status": LeaseStatus.STOPPED, "paid_seconds": 0, "start_seconds": 0},
        {"status": LeaseStatus.CLOSED, "paid_seconds": 3},
    ],
)
def test_a_lease_that_its_orders_open_is_alike(changes: dict[str, Any]) -> None:
    assert unlike(view(**changes), OPENED) is None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"status": LeaseStatus.NONE}, Unlike.NOT_ON_CHAIN),
        ({"rate": OPENED.prices.rate(OPENED.bid.sizes()) + 1}, Unlike.RATE),
        ({"paid_seconds": 901}, Unlike.PAID_TIME),
        ({"paid_seconds": 59}, Unlike.PAID_TIME),
        ({"status": LeaseStatus.STOPPED, "paid_seconds": 901}, Unlike.PAID_TIME),
        ({"start_seconds": OPENED.ask.start_limit_seconds + 1}, Unlike.START_LIMIT),
        ({"start_seconds": 0}, Unlike.START_LIMIT),
        ({"node": OPENED.ask.node + 1}, Unlike.NODE),
        ({"gpu_milli": OPENED.bid.gpu_milli - 1}, Unlike.GPUS),
        ({"metered": True}, Unlike.COUNTED),
    ],
)
def test_a_lease_that_differs_is_told_by_what_differs(
    changes: dict[str, Any], found: Unlike
) -> None:
    assert unlike(view(**changes), OPENED) is found


def test_a_lease_that_should_count_and_does_not_is_told() -> None:
    assert unlike(shown_lease(COUNTED), COUNTED) is None
    assert unlike(shown_lease(COUNTED, metered=False), COUNTED) is Unlike.COUNTED
