"""Views: what rows and figures look like where they travel."""

from decimal import Decimal

from marketplace.domain.book import Book
from marketplace.domain.explain import explain
from marketplace.domain.order import AddAsk
from marketplace.services.receipts import receipt_view
from marketplace.services.views import event_view, job_view, no_match_view
from marketplace.wire.jobs import Job, ReceiptEvent
from tests.factories import NANO, NOW, resting_ask, resting_bid
from tests.market_world import TOKEN, World, market


def test_why_nothing_fits_has_counts_changes_and_money() -> None:
    book = Book()
    book.apply(AddAsk(NOW, resting_ask(1, price=4 * NANO)))
    shown = no_match_view(market(), explain(book, resting_bid(99))).to_json()
    assert shown["eliminations"] == [
        {"reason": "rate_above_limit", "alone": 1, "in_turn": 1, "left": 0}
    ]
    [relaxation] = shown["relaxations"]
    assert relaxation["changes"] == [
        {"reason": "rate_above_limit", "pointer": "/pricing/max_gpu_hour", "value": "4"}
    ]
    assert relaxation["rate_per_hour"] == "4"
    assert relaxation["max_cost"]["currency"] == "CMP"


def test_a_plan_says_who_may_do_what_and_the_worst_that_can_be_paid(world: World) -> None:
    ask_id = world.offer(price="2", start_limit="45s")
    spec, bid = world.order(0)
    with world.database.read() as store:
        caller = world.caller(world.buyer)
        plan = world.catalog.quotes.plan(store, caller, spec, bid, balance=0).to_json()
    [match] = plan["matches"]
    assert (match["ask_id"], match["start_limit_seconds"]) == (ask_id, 45)
    assert match["meter"] == world.meter.address
    assert (plan["opener"], plan["witness"]) == (bid.opener, bid.witness)
    assert plan["may_stop"] == ["buyer", "witness", "provider", "meter"]
    assert plan["may_open_again"] == ["buyer", "witness"]
    assert plan["max_paid"]["atoms"] == str(bid.budget)
    assert plan["max_fee_bps"] == bid.max_fee_bps


def test_what_a_job_will_cost_follows_a_top_up_and_its_end(world: World) -> None:
    world.offer(price="2")
    job_id, lease_id = world.open(max_duration="1h", start_deadline="30m")

    def shown() -> Job:
        with world.database.read() as store:
            return job_view(store, market(), store.jobs.need(job_id))

    first = shown()
    assert first.cost is not None
    assert first.cost.projected.atoms == 2 * TOKEN
    with world.database.write() as store:
        lease = store.leases.need(lease_id, lock=True)
        lease.paid_seconds += 1_800
    longer = shown()
    assert longer.cost is not None
    assert longer.cost.projected.atoms == 3 * TOKEN
    world.use(lease_id, 0, 0)
    world.clock.advance(1_800)
    world.end(lease_id, 1, 1_800_000)
    last = shown()
    assert last.cost is not None
    assert last.cost.projected == last.cost.accrued
    assert last.cost.projected.atoms == TOKEN
    assert last.max_cost == first.max_cost


def test_a_receipt_leads_from_readings_to_transactions(world: World) -> None:
    world.offer(price="2")
    job_id, lease_id = world.run(1_800, max_duration="1h")
    lease = world.lease(lease_id)
    with world.database.read() as store:
        receipt = receipt_view(store.receipts.of_job(job_id)[0])
        events = [event_view(row) for row in store.events.after(job_id, 0, 100, "receipt")]
    assert (receipt.readings, receipt.simulated, receipt.gpu_seconds) == (2, True, 1_800)
    assert (receipt.rate, receipt.rate_unit) == (Decimal(2), "token per hour")
    assert (receipt.gross.atoms, receipt.fee.atoms, receipt.net.atoms) == (TOKEN, 0, TOKEN)
    [line] = receipt.lines
    assert (line.resource, line.quantity, line.unit) == ("gpu", 1_800, "GPU-seconds")
    assert (line.price, line.price_unit, line.cost.atoms) == (2, "per GPU-hour", TOKEN)
    assert receipt.conserved
    assert receipt.locked.atoms == lease.released + lease.refunded
    assert [t.kind for t in receipt.transactions] == ["Opened", "Closed"]
    assert [e.data for e in events if isinstance(e, ReceiptEvent)] == [receipt]
