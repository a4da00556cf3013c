"""A job's whole life through the services: matched, opened, used, settled, closed, receipted."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.db.queries import BLOB_ROW_BYTES
from marketplace.db.tables import BidRow, JobEventRow, JobRow, OrderEntryRow
from marketplace.errors import (
    AlreadyExists,
    Conflict,
    InsufficientBalance,
    InvalidInput,
    InvalidOrder,
    InvalidSignature,
    NotFound,
    TooLarge,
)
from marketplace.limits import BLOB_BYTES_MAX, SALT_AHEAD_MAX
from marketplace.services import jobs, offers
from marketplace.services.blobs import DAY_MS
from marketplace.wire.jobs import JobOrder
from settlement.eip712 import ZERO_ADDRESS, Domain
from settlement.events import Cancelled, Opened
from settlement.orders import Numbered
from settlement.signing import sign
from tests.databases import rows_of
from tests.market_world import TOKEN, World, key_of


def statuses(world: World, job_id: str) -> list[str]:
    events = world.rows(JobEventRow, job_id=job_id, type="status")
    return [event.data["state"] for event in events]


def receipt(world: World, job_id: str) -> dict[str, object]:
    with world.database.read() as store:
        rows = world.catalog.receipts.of_job(store, world.caller(world.buyer), job_id)
    return rows[-1].document


def test_a_job_that_succeeds_pays_what_was_measured_and_refunds_the_rest(world: World) -> None:
    world.ask()
    world.fund(10)
    job_id, lease_id = world.run(36)
    job, lease = world.job(job_id), world.lease(lease_id)
    assert (job.state, job.exit_code, lease.state) == ("succeeded", 0, "closed")
    assert world.chain.balances[world.provider.address] == TOKEN * 25 // 1000  # 36 s at 2.50/h
    assert world.chain.balances[world.buyer.address] == 10 * TOKEN - TOKEN * 25 // 1000
    document = receipt(world, job_id)
    assert document["conserved"] is True
    named = (lease.lease_no, world.witness.address)
    assert (document["lease_no"], document["witness"]) == named
    assert lease.released + lease.refunded == 600 * 2500 * TOKEN // 3_600_000 + 1
    assert statuses(world, job_id) == [
        "queued", "matched", "starting", "running", "running", "succeeded",
    ]  # fmt: skip


def test_the_cheapest_ask_wins_at_its_own_price(world: World) -> None:
    world.ask(price="2.80")
    cheap = world.offer(price="1.90")
    job_id = world.queue()
    lease = world.lease(world.job(job_id).lease_id or "")
    assert (lease.ask_id, lease.rate) == (cheap, 1_900_000_000_000)


def test_submission_without_money_is_refused_and_stores_nothing(world: World) -> None:
    world.ask()
    world.chain.balances[world.buyer.address] = TOKEN // 10
    with pytest.raises(InsufficientBalance) as refusal:
        world.submit()
    lock = 600 * 2500 * TOKEN // 3_600_000 + 1
    assert refusal.value.facts["shortfall"].atoms == lock - TOKEN // 10
    with world.database.read() as store:
        assert rows_of(store, JobRow) == []
        assert rows_of(store, BidRow) == []
        assert [row.kind for row in rows_of(store, OrderEntryRow)] == ["ask"]


def test_money_reserved_by_one_job_does_not_cover_another(world: World) -> None:
    world.ask(world.node(gpus=2))
    lock = 600 * 2500 * TOKEN // 3_600_000 + 1
    world.chain.balances[world.buyer.address] = 2 * lock - 1
    first = world.submit()
    with pytest.raises(InsufficientBalance):
        world.submit()
    world.match()
    world.chain.mine()
    assert world.job(first).reserve == 0
    world.fund(1)
    world.submit()


def test_nothing_fits_and_the_job_does_not_rest(world: World) -> None:
    world.offer(price="9.00")
    job_id = world.queue()
    job = world.job(job_id)
    assert (job.state, job.reason, job.reserve) == ("no_match", "no_match", 0)
    assert job.explanation is not None
    assert job.explanation["relaxations"][0]["changes"][0]["pointer"] == "/pricing/max_gpu_hour"


def test_a_resting_job_takes_supply_that_comes_later(world: World) -> None:
    world.fund()
    job_id = world.queue(retry={"on_events": ["no-capacity"], "duration": "1h"})
    assert world.job(job_id).state == "queued"
    world.ask()
    world.match()
    assert world.job(job_id).state == "matched"


def test_a_resting_job_gives_up_at_its_start_deadline(world: World) -> None:
    world.fund()
    retry = {"on_events": ["no-capacity"], "duration": "1h"}
    job_id = world.queue(retry=retry, start_deadline="30s")
    world.clock.advance(32)
    world.match()
    job = world.job(job_id)
    assert (job.state, job.reason) == ("no_match", "start_deadline_passed")


def test_cancelling_a_resting_job_takes_it_off_the_book(world: World) -> None:
    world.fund()
    job_id = world.queue(retry={"on_events": ["no-capacity"], "duration": "1h"})
    world.do(world.catalog.jobs.cancel, world.buyer, job_id)
    world.match()
    assert world.job(job_id).state == "cancelled"
    world.ask()
    world.match()
    assert world.job(job_id).lease_id is None
    with world.database.write() as store, pytest.raises(Conflict):
        world.catalog.jobs.cancel(store, world.caller(world.buyer), job_id)


def test_cancelling_a_running_job_asks_the_agent_and_pays_what_ran(world: World) -> None:
    job_id, lease_id = world.start()
    world.use(lease_id, 0, 0)
    world.clock.advance(10)
    world.do(world.catalog.jobs.cancel, world.buyer, job_id)
    assert world.lease(lease_id).stop_requested == "cancelled"
    world.end(lease_id, 1, 10_000, outcome="cancelled", exit_code=None)
    assert world.job(job_id).state == "cancelled"
    assert world.chain.balances[world.provider.address] == 10_000 * 2500 * TOKEN // 3_600_000_000


def test_a_job_cancelled_between_fill_and_opening_is_stopped_when_it_opens(world: World) -> None:
    world.offer()
    job_id = world.queue()
    world.do(world.catalog.jobs.cancel, world.buyer, job_id)
    world.chain.mine()
    lease = world.lease(world.job(job_id).lease_id or "")
    assert (lease.state, lease.stop_requested) == ("active", "cancelled")


def test_capacity_is_free_again_once_the_lease_is_closed(world: World) -> None:
    world.offer()
    world.run(5)
    second = world.queue(retry={"on_events": ["no-capacity"], "duration": "1h"})
    assert world.job(second).state == "matched"
    third = world.queue()
    assert world.job(third).state == "no_match"


def test_an_opening_that_the_ask_spoils_moves_the_job_to_the_next_ask(world: World) -> None:
    bad, good = world.offer(price="1.00"), world.ask(price="2.00")
    job_id = world.queue()
    lease_id = world.refuse_opening(job_id, f"InvalidSignature({world.provider.address})")
    assert world.lease(lease_id).state == "failed_to_open"
    world.match()
    world.chain.mine()
    job = world.job(job_id)
    assert job.state == "starting"
    assert world.lease(job.lease_id or "").ask_id == good
    spoiled = world.row("asks", bad)
    assert (spoiled.state, spoiled.reason[:16]) == ("suspended", "InvalidSignature")


@pytest.mark.parametrize("error", ["NodeFull(0, 1000)", "OrderExpired(1, 2)"])
def test_an_opening_that_fails_for_this_pair_alone_tries_the_next_ask(
    world: World, error: str
) -> None:
    first, second = world.offer(price="1.00"), world.ask(price="2.00")
    job_id = world.queue()
    world.refuse_opening(job_id, error)
    world.match()
    lease = world.lease(world.job(job_id).lease_id or "")
    assert (lease.ask_id, world.job(job_id).excluded) == (second, [first, second])
    with world.database.read() as store:
        expected = "suspended" if error.startswith("OrderExpired") else "open"
        assert store.asks.get(first).state == expected


def test_a_lease_that_is_open_already_keeps_its_job(world: World) -> None:
    world.ask(price="1.00")
    world.offer(price="2.00")
    job_id = world.queue()
    lease_id = world.refuse_opening(job_id, "LeaseExists(0x)")
    world.match()
    assert (world.lease(lease_id).state, world.job(job_id).lease_id) == ("opening", lease_id)
    world.open_late(lease_id)
    assert (world.lease(lease_id).state, world.job(job_id).state) == ("active", "starting")
    assert world.job(job_id).reserve == 0


def test_a_lease_that_opens_after_its_job_went_on_is_to_stop(world: World) -> None:
    world.ask(price="1.00")
    world.offer(price="2.00")
    job_id = world.queue()
    late = world.refuse_opening(job_id, "NodeFull(0, 1000)")
    world.match()
    before = world.job(job_id)
    assert (before.state, before.lease_id == late) == ("matched", False)
    world.chain.refusals[f"open:{before.lease_id}"] = "held back"
    world.open_late(late)
    lease, job = world.lease(late), world.job(job_id)
    assert (lease.state, lease.stop_requested) == ("active", "cancelled")
    assert (job.state, job.lease_id, job.reserve) == ("matched", before.lease_id, before.reserve)
    world.use(late, 0, 0)
    assert world.job(job_id).state == "matched"


def test_a_bid_that_expired_before_its_opening_fails_and_blames_no_ask(world: World) -> None:
    ask = world.offer()
    job_id = world.queue()
    world.chain.refusals[f"open:{world.job(job_id).lease_id}"] = "OrderExpired(1, 2)"
    world.chain.mine()
    world.clock.advance(7 * 24 * 3600)
    world.catalog.settling.failed_opens()
    assert (world.job(job_id).state, world.job(job_id).reason) == ("failed", "open_failed")
    assert world.row("asks", ask).state == "open"


def test_an_opening_that_the_buyer_spoils_fails_the_job_with_the_reason(world: World) -> None:
    ask = world.offer()
    job_id = world.queue()
    world.refuse_opening(job_id, "InsufficientBalance(5, 4)")
    job = world.job(job_id)
    assert (job.state, job.reason, job.detail) == (
        "failed", "open_failed", "InsufficientBalance(5, 4)",
    )  # fmt: skip
    assert job.reserve == 0
    assert world.row("asks", ask).state == "open"
    again = world.queue()
    assert world.job(again).state == "matched"


@pytest.mark.parametrize(
    "changes",
    [
        {"buyer": key_of("stranger").address}, {"max_seconds": 601}, {"budget": 1},
        {"job_hash": bytes(32)}, {"opener": "0x" + "77" * 20}, {"witness": "0x" + "00" * 20},
        {"expiry": 1},
    ],
)  # fmt: skip
def test_a_bid_that_contradicts_its_job_or_market_is_refused(
    world: World, changes: dict[str, Any]
) -> None:
    spec, bid = world.order(0)
    order = world.sign_order(spec, replace(bid, **changes))
    with pytest.raises(InvalidOrder) as refusal:
        world.catalog.jobs.check(world.caller(world.buyer), order)
    assert refusal.value.problems[0].pointer.startswith("/bid/")


def test_a_bid_that_anyone_may_open_is_refused_where_the_market_has_an_opener(world: World) -> None:
    named = replace(world.catalog.market, opener="0x" + "77" * 20)
    jobs = replace(world.catalog.jobs, market=named)
    spec, bid = world.order(0)
    assert bid.opener == ZERO_ADDRESS
    with pytest.raises(InvalidOrder) as refusal:
        jobs.check(world.caller(world.buyer), world.sign_order(spec, bid))
    assert [problem.pointer for problem in refusal.value.problems] == ["/bid/opener"]


def test_a_bid_signed_by_another_key_or_for_another_chain_is_refused(world: World) -> None:
    spec, bid = world.order(0)
    contract = world.domain.verifying_contract
    for domain, signer in (
        (world.domain, world.stranger),
        (Domain(1, contract), world.buyer),
        (Domain(world.domain.chain_id, "0x" + "ed" * 20), world.buyer),
    ):
        order = JobOrder(job=spec.to_json(), bid=bid, signature=sign(bid, domain, signer))
        with pytest.raises(InvalidSignature):
            world.catalog.jobs.check(world.caller(world.buyer), order)


def test_a_salt_is_used_once(world: World) -> None:
    world.fund()
    caller = world.caller(world.buyer)
    signed = world.sign_order(*world.order(7))
    order = world.catalog.jobs.check(caller, signed)
    world.do(world.catalog.jobs.submit, world.buyer, order)
    with pytest.raises(AlreadyExists):
        world.do(world.catalog.jobs.submit, world.buyer, order)
    world.chain.used.add((world.buyer.address, 7))
    with pytest.raises(AlreadyExists):
        world.catalog.jobs.check(caller, signed)
    order = world.catalog.jobs.check(caller, world.sign_order(*world.order(1 << 63)))
    with pytest.raises(InvalidInput):
        world.do(world.catalog.jobs.submit, world.buyer, order)


def test_a_salt_that_the_chain_refuses_is_not_stated_again(world: World) -> None:
    """The database is older than the chain, as after a restore."""
    world.start()
    with world.database.write() as store:
        store.accounts.need(world.buyer.address).next_salt = 0
    with pytest.raises(AlreadyExists):
        world.submit()
    world.submit()


def test_salts_that_the_chain_tells_of_are_not_stated(world: World) -> None:
    buyer, provider = world.buyer.address, world.provider.address
    _, lease_id = world.start()
    opened = next(e.event for e in world.chain.events.events() if isinstance(e.event, Opened))
    with world.database.write() as store:
        for account in (buyer, provider):
            store.accounts.need(account).next_salt = 0
    ahead, most = SALT_AHEAD_MAX + 8, 2**64 - 1
    for event, salts in (
        (replace(opened, lease_no=b"\x09" * 16, bid_salt=4), (5, 0, 0)),
        (Cancelled(provider, Numbered.ORDERS, 7, False), (5, 8, 0)),
        (Cancelled(provider, Numbered.ORDERS, 6, False), (5, 8, 0)),
        (Cancelled(provider, Numbered.ORDERS, ahead + 1, False), (5, 8, 0)),
        (Cancelled(provider, Numbered.ORDERS, ahead + 1, True), (5, ahead + 2, ahead + 2)),
        (Cancelled(buyer, Numbered.ORDERS, most, True), (5, ahead + 2, ahead + 2)),
    ):
        world.chain.direct.append(event)
        world.chain.mine()
        rows = [world.row("accounts", account) for account in (buyer, provider)]
        assert (rows[0].next_salt, rows[1].next_salt, rows[1].orders_from) == salts
    world.ask()
    assert world.lease(lease_id).state == "active"


def test_a_node_has_a_bounded_number_of_asks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "ASKS_MAX", 2)
    node_id = world.node()
    first, _ = world.ask(node_id), world.ask(node_id)
    with pytest.raises(Conflict, match="at most 2 asks"):
        world.ask(node_id)
    world.ask()
    world.do(world.catalog.asks.cancel, world.provider, first)
    world.ask(node_id)


def test_an_account_has_a_bounded_number_of_live_jobs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LIVE_MAX", 2)
    world.fund()
    for _ in range(2):
        world.submit(start_deadline="1h")
    with pytest.raises(Conflict, match="at most 2 live jobs"):
        world.submit(start_deadline="1h")
    world.fund(account=world.stranger)
    world.submit(world.stranger)


def test_an_account_uploads_so_much_a_day_and_again_the_next(world: World) -> None:
    blobs = replace(world.catalog.blobs, day_bytes_max=2 * (BLOB_ROW_BYTES + 10))

    def own(number: int, size: int = 10) -> None:
        world.do(blobs.own, world.buyer, f"{number:064x}", size)

    own(1)
    own(1)
    own(2, 0)
    with pytest.raises(TooLarge, match="24 hours"):
        own(3, 11)
    own(1)
    world.do(blobs.own, world.stranger, "3" * 64, 11)
    world.clock.advance(DAY_MS / 1000 + 1)
    own(3, 11)


def test_a_blob_above_its_limit_is_refused_while_it_comes(world: World) -> None:
    with world.catalog.blobs.files.receive() as upload:
        for _ in range(BLOB_BYTES_MAX // 2**20):
            upload.write(b"x" * 2**20)
        with pytest.raises(TooLarge):
            upload.write(b"x")


def test_an_input_must_be_a_blob_of_the_buyer(world: World) -> None:
    world.offer()
    sha256 = world.keep_blob(b"folder")
    with pytest.raises(InvalidInput):
        world.submit(inputs={"sha256": sha256, "size": 6})
    world.do(world.catalog.blobs.own, world.buyer, sha256, 6)
    with pytest.raises(InvalidInput):
        world.submit(inputs={"sha256": sha256, "size": 7})
    job_id = world.submit(inputs={"sha256": sha256, "size": 6})
    with world.database.read() as store:
        provider = world.caller(world.provider)
        with pytest.raises(NotFound):
            world.catalog.blobs.open(store, provider, sha256)
    world.match()
    world.chain.mine()
    assert world.job(job_id).state == "starting"
    with world.database.read() as store:
        assert b"".join(world.catalog.blobs.open(store, provider, sha256)) == b"folder"
        with pytest.raises(NotFound):
            world.catalog.blobs.open(store, world.caller(world.stranger), sha256)
