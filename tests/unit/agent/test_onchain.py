"""An agent with a node of its own goes by what the chain shows, not by what the market says."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from marketplace.agent.errors import NotOurs, NotShown
from marketplace.agent.node import Halt, HeldLease
from marketplace.agent.onchain import LOOK_S
from marketplace.agent.supervisor import Supervisor
from marketplace.domain.life import Outcome
from settlement.errors import ChainUnavailable
from settlement.leases import LeaseStatus, LeaseView
from settlement.orders import OpenedFrom, Prices
from tests.factories import NOW, shown_lease
from tests.fakes_agent import Desk, until

PAID = 300


class Node:
    """The agent's own node: it shows the lease as `changes` say, or is away."""

    def __init__(self, opened: OpenedFrom) -> None:
        self.opened = opened
        self.changes: dict[str, Any] = {"paid_seconds": PAID}
        self.away = False
        self.asked = 0

    def __call__(self, *names: object) -> LeaseView:
        bid, ask = self.opened.bid, self.opened.ask
        assert names == (bid.buyer, ask.provider, bid.witness, self.opened.lease_no)
        self.asked += 1
        if self.away:
            raise ChainUnavailable("away")
        return shown_lease(self.opened, **self.changes)


class Bench(Desk):
    """One lease on the market, and a node of the chain."""

    def start(self) -> None:
        self.now_s = 0.0
        ask, bid = self.market.asks["ask_1"], self.market.bids["bid_1"]
        self.chain = Node(OpenedFrom(ask, bid, ask.floor))
        self.node = replace(self.node, shows=self.chain)
        self.lease = HeldLease(self.node, self.entry, lambda: self.now_s)
        self.pen = self.lease.attestor

    def says(self, paid: int = PAID) -> int:
        """What is paid for, in seconds, once the market has said this."""
        self.market.leases[self.id]["terms"]["paid_seconds"] = paid
        self.lease.heed(self.shown)
        return self.lease.paid_ms // 1000

    def assign(self) -> Any:
        return self.market.assignment(self.node, self.id)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, paid_seconds=PAID)
    yield bench
    bench.close()


def test_the_start_limit_runs_from_when_the_chain_opened_the_lease(bench: Bench) -> None:
    limit = bench.chain.opened.ask.start_limit_seconds
    assert bench.assign().start_deadline_ms == (NOW + limit) * 1000


@pytest.mark.parametrize("status", [s for s in LeaseStatus if s is not LeaseStatus.ACTIVE])
def test_a_lease_that_is_not_active_on_chain_is_not_taken_up(
    bench: Bench, status: LeaseStatus
) -> None:
    bench.chain.changes |= {"status": status}
    with pytest.raises(NotShown, match=f"the chain's node says {status.name.lower()}"):
        bench.assign()


def test_a_lease_is_not_taken_up_while_the_node_is_away(bench: Bench) -> None:
    bench.chain.away = True
    with pytest.raises(NotShown, match="away"):
        bench.assign()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"rate": 1}, "chain_rate_differs"),
        ({"paid_seconds": 10**7}, "chain_paid_time_differs"),
        ({"start_seconds": 0}, "chain_start_limit_differs"),
        ({"node": 77}, "chain_node_differs"),
        ({"gpu_milli": 1}, "chain_gpus_differ"),
    ],
)
def test_a_lease_that_is_otherwise_on_chain_is_not_ours(
    bench: Bench, changes: dict[str, Any], code: str
) -> None:
    bench.chain.changes |= changes
    with pytest.raises(NotOurs, match=code):
        bench.assign()


def test_prices_below_the_asks_are_refused_with_and_without_a_node(bench: Bench) -> None:
    low = replace(bench.chain.opened, prices=Prices(1))
    lease = bench.market.leases[bench.id]
    lease["terms"]["prices"] = low.prices.to_message()
    lease["lease_no"] = "0x" + low.lease_no.hex()
    for shows in (None, bench.chain):
        bench.node = replace(bench.node, shows=shows)
        with pytest.raises(NotOurs, match="below the ask's lowest"):
            bench.assign()


def test_paid_time_is_the_chains_whatever_the_market_says(bench: Bench) -> None:
    assert [bench.says(paid) for paid in (PAID, 9_999, 10, PAID)] == [PAID] * 4


def test_a_top_up_counts_as_soon_as_the_chain_shows_it(bench: Bench) -> None:
    assert bench.says(420) == PAID  # the market is ahead of the agent's node
    bench.chain.changes["paid_seconds"] = 420
    assert bench.says(420) == 420
    asked = bench.chain.asked
    assert bench.says(420) == 420
    assert bench.chain.asked == asked  # nothing new is said: the node is left alone


def test_a_top_up_that_the_market_hides_is_seen_after_a_while(bench: Bench) -> None:
    assert bench.says() == PAID
    bench.chain.changes["paid_seconds"] = 420
    assert bench.says() == PAID
    bench.now_s = LOOK_S
    assert bench.says() == 420


def test_a_node_that_falls_silent_leaves_what_it_showed_last(bench: Bench) -> None:
    assert bench.says() == PAID
    bench.chain.away = True
    bench.now_s = LOOK_S
    assert bench.says(9_999) == PAID
    bench.chain.away = False
    bench.chain.changes["status"] = LeaseStatus.NONE  # a reorg took it: it comes back
    assert bench.says(9_999) == PAID
    assert bench.lease.halt is None


def test_nothing_is_paid_before_the_node_has_shown_it(bench: Bench) -> None:
    bench.chain.away = True
    assert bench.says() == 0


@pytest.mark.parametrize("status", [LeaseStatus.STOPPED, LeaseStatus.CLOSED])
def test_a_lease_that_is_over_on_chain_ends_its_job_though_the_market_says_active(
    bench: Bench, status: LeaseStatus
) -> None:
    assert bench.says() == PAID
    bench.chain.changes |= {"status": status, "paid_seconds": 5, "start_seconds": 0}
    bench.now_s = LOOK_S
    bench.says()
    assert bench.lease.halt == Halt(Outcome.FAILED, f"lease_{status.name.lower()}")


def test_a_lease_waits_until_its_node_shows_it_and_the_log_says_so_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.market.open_lease(["true"])
    ask, bid = bench.market.asks["ask_2"], bench.market.bids["bid_2"]
    bench.market.leases[bench.id]["state"] = "closed"
    chain = Node(OpenedFrom(ask, bid, ask.floor))
    chain.changes |= {"status": LeaseStatus.NONE}
    supervisor = Supervisor(replace(bench.node, shows=chain))
    with capture_logs() as logs:
        for _ in range(3):
            supervisor.tick()
    assert [line["event"] for line in logs] == ["lease_not_shown"]
    assert bench.journal.lease("lease_2") is None
    chain.changes["status"] = LeaseStatus.ACTIVE
    until(lambda: "lease_2" in bench.market.finished or supervisor.tick())
    assert bench.market.finished["lease_2"]["reason"] == "wrong_runtime"  # it was taken up
    until(lambda: not supervisor._work or supervisor.tick())
    bench.close()


def test_a_node_that_falls_silent_after_the_first_look_ends_no_job(tmp_path: Path) -> None:
    """What it showed then is paid for: the job is not out of time as soon as it is ready."""
    bench = Bench(tmp_path)
    bench.market.open_lease(["true"])
    ask, bid = bench.market.asks["ask_2"], bench.market.bids["bid_2"]
    bench.market.leases[bench.id]["state"] = "closed"
    chain = Node(OpenedFrom(ask, bid, ask.floor))

    def shows_once(*names: object) -> LeaseView:
        view = chain(*names)
        chain.away = True
        return view

    supervisor = Supervisor(replace(bench.node, shows=shows_once))
    supervisor.tick()
    assert supervisor._work["lease_2"].lease.paid_ms == PAID * 1000
    until(lambda: not supervisor._work or supervisor.tick())
    bench.close()
