"""How jobs end, on real processes: cancelled, over budget, failed, unmatched, counted, attacked."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace as Seen
from typing import Any

import pytest

from marketplace.sdk import JobHandle
from marketplace.sdk.errors import ApiError, InsufficientBalance
from settlement.chain.contracts import CountedView
from settlement.leases import LeaseStatus
from settlement.signing import LocalSigner
from settlement.units import cost, counted_cost
from tests.e2e.chain import assert_books_balance, assert_receipt_adds_up, on_chain, ref_of
from tests.e2e.conftest import Stories
from tests.e2e.jobs import job_in, until_countersigned, until_opened, until_running
from tests.e2e.liar import Liar, bare_node
from tests.e2e.world import FEE_BPS, ONE, Party, World
from tests.programs import PATIENCE_S

UNIT_PRICE = "0.0005"
UNIT = "request"
BUDGET = "0.0066"  # 9.9 seconds of one GPU at 2.40 an hour
DEPOSIT = 100 * ONE
SPENDER = """
import time
import coulomb_job
coulomb_job.ready()
time.sleep(0.7)
coulomb_job.count(3)
time.sleep(0.7)
coulomb_job.progress("half")
coulomb_job.count(4)
time.sleep(0.7)
"""


def _ended(buyer: Party, handle: JobHandle, result: Path | None = None) -> Seen:
    lease = handle.lease()
    assert lease is not None
    return Seen(
        buyer=buyer, job=handle.refresh(), lease=lease, receipt=handle.receipt(), result=result
    )


def prepare(world: World) -> None:
    """One node with two asks: the cheaper one is for jobs of at most a minute that start fast."""
    prices = {"gpu_hour": "2.50", "unit": UNIT_PRICE}
    mill = world.provider("mill", "6xH100", region="mill", terms={"prices": prices, "unit": UNIT})
    quick = {"prices": {"gpu_hour": "2.40"}, "start_limit": "5s", "max_duration": "1m"}
    world.offer(mill, quick)


def cancelled_story(world: World) -> Seen:
    """Cancel a job that, told to end, still saves its work."""
    ida = world.buyer("ida")
    command = "trap 'echo saved > /out/state; exit 0' TERM; while :; do sleep 0.1; done"
    with world.client(ida) as client, ThreadPoolExecutor(1) as pool:
        handle = client.jobs.submit(job_in("mill", command, outputs=[{"path": "/out"}]))
        waiting = pool.submit(handle.wait, PATIENCE_S)
        lease = until_running(world, client.jobs.get(handle.id))
        until_countersigned(world, client, lease.id, 2)
        client.jobs.get(handle.id).cancel()
        waiting.result()
        into = ida.home / "result"
        handle.result(into)
        return _ended(ida, handle, into)


def over_budget_story(world: World) -> Seen:
    """A budget for some seconds, and a job that never ends by itself."""
    joe = world.buyer("joe")
    spec = job_in(
        "mill", "while :; do sleep 0.1; done", budget={"max_total": BUDGET}, max_duration="1m"
    )
    with world.client(joe) as client:
        handle = client.jobs.submit(spec)
        handle.wait(PATIENCE_S)
        return _ended(joe, handle)


def counted_story(world: World) -> tuple[Seen, CountedView]:
    """A job that sells units, told of on its socket."""
    kim = world.buyer("kim")
    folder = kim.home / "work"
    folder.mkdir()
    (folder / "spender.py").write_text(SPENDER)
    spec = job_in(
        "mill", "python spender.py", workdir=str(folder), ready="socket",
        units={"name": UNIT, "max": 10, "max_price": UNIT_PRICE},
    )  # fmt: skip
    with world.client(kim) as client:
        handle = client.jobs.submit(spec)
        handle.wait(PATIENCE_S)
        ended = _ended(kim, handle)
    return ended, world.escrow.counted(ref_of(ended.lease))


def failed_story(world: World) -> Seen:
    """A job that ends with an exit code of its own: commands end with 8, or with that code."""
    lou = world.buyer("lou")
    job_file = lou.home / "job.yaml"
    job_file.write_text(json.dumps(job_in("mill", "echo no >&2; sleep 3; exit 3")))
    receipt = world.cli(lou, "job", "run", str(job_file), "--yes", code=8)
    told = world.cli(lou, "job", "wait", receipt["job_id"], "--propagate", code=3)
    with world.client(lou) as client:
        handle = client.jobs.get(receipt["job_id"])
        lease = handle.lease()
        assert lease is not None
        return Seen(receipt=receipt, told=told, job=handle.job, lease=lease)


def unmatched_story(world: World) -> Seen:
    """A limit below every ask; and a buyer without money."""
    may, poor = world.buyer("may"), world.party("poor", ("buyer",))
    spec = job_in("mill", "true", pricing={"max_gpu_hour": "1.00"})
    job_file = may.home / "job.yaml"
    job_file.write_text(json.dumps(spec))
    with world.client(may) as client:
        job = client.jobs.submit(spec).wait(PATIENCE_S)
    stdout = world.cli_text(may, "job", "run", str(job_file), "--yes", code=7)
    with world.client(poor) as client, pytest.raises(InsufficientBalance) as caught:
        client.jobs.submit(job_in("mill", "true"))
    balance = world.escrow.balance_of(may.address)
    return Seen(job=job, stdout=stdout, balance=balance, shortfall=caught.value)


# -- a provider that lies -------------------------------------------------------------------------


def _answer(lie: Callable[[], Any]) -> str:
    """The code that a lie is refused with; of attestations, the reason."""
    try:
        lie()
    except ApiError as error:
        return error.problem.reason or error.code
    return "accepted"


def attacked_story(world: World) -> Seen:
    """State too much, too early, again, with another key, for another's lease; then be honest."""
    rex, thief, ned = (
        world.party("rex", ("provider",)), world.party("thief", ("provider",)), world.buyer("ned"),
    )  # fmt: skip
    meter = LocalSigner.create()
    terms = {"meter": meter.address, "prices": {"gpu_hour": "2.50"}, "start_limit": "30s"}
    with (
        world.client(rex) as lying,
        world.client(thief) as stealing,
        world.client(ned) as buying,
        ThreadPoolExecutor(1) as pool,
    ):
        lying.asks.offer(lying.nodes.register(bare_node(world, "rex")).id, terms)
        handle = buying.jobs.submit(job_in("rex", "true"))
        waiting = pool.submit(handle.wait, PATIENCE_S)
        liar = Liar(lying, meter, until_opened(world, buying.jobs.get(handle.id)))
        stealing.market.config()
        theft = Liar(stealing, meter, liar.lease)
        answers = {
            "other key": _answer(lambda: liar.says(0, 0, LocalSigner.create())),
            "usage before ready": _answer(lambda: liar.says(0, 5_000)),
            "someone else's lease": _answer(lambda: theft.says(0, 0)),
            "ready": _answer(lambda: liar.says(0, 0)),
            "longer than the lease is open": _answer(lambda: liar.says(1, 60_000)),
            "observed in the future": _answer(lambda: liar.says(1, 1_000, ahead_ms=60_000)),
        }
        ready = time.monotonic()
        time.sleep(1.5)
        honest_ms = int((time.monotonic() - ready) * 1000)
        answers["honest"] = _answer(lambda: liar.says(1, honest_ms))
        answers["backwards"] = _answer(lambda: liar.says(2, honest_ms - 1_000))
        answers["sequence again"] = _answer(lambda: liar.says(1, honest_ms + 200))
        answers["close above usage"] = _answer(lambda: liar.finish(2, honest_ms, honest_ms + 2_000))
        answers["honest end"] = _answer(lambda: liar.finish(2, honest_ms, honest_ms))
        waiting.result()
        recorded = list(buying.leases.attestations(liar.lease.id))
        return Seen(
            answers=answers, recorded=recorded, ended=_ended(ned, handle), honest_ms=honest_ms,
            provider=rex.address,
        )  # fmt: skip


STORIES = [
    cancelled_story, over_budget_story, counted_story, failed_story, unmatched_story,
    attacked_story,
]  # fmt: skip


def _assert_settled(world: World, seen: Seen) -> None:
    assert_receipt_adds_up(seen.receipt, FEE_BPS)
    view = on_chain(world, seen.lease)
    assert view.status is LeaseStatus.CLOSED
    assert seen.receipt.used_ms == view.used_ms
    assert seen.receipt.released.atoms == view.released
    assert world.escrow.balance_of(seen.buyer.address) == DEPOSIT - view.released


def test_cancelled_job_saves_its_work_and_pays_what_ran(stories: Stories, world: World) -> None:
    seen = stories.outcome(cancelled_story)
    assert seen.job.state == "cancelled"
    assert seen.result is not None
    assert (seen.result / "state").read_text() == "saved\n"
    _assert_settled(world, seen)
    assert seen.receipt.used_ms >= world.interval_ms
    assert seen.receipt.refunded.atoms > 10 * seen.receipt.released.atoms


def test_job_over_its_budget_ends_there_and_costs_no_more(stories: Stories, world: World) -> None:
    seen = stories.outcome(over_budget_story)
    assert (seen.job.state, seen.job.reason) == ("over_budget", "budget")
    _assert_settled(world, seen)
    budget = int(Decimal(BUDGET) * ONE)
    assert seen.receipt.released.atoms <= seen.receipt.locked.atoms <= budget
    lease = on_chain(world, seen.lease)
    assert lease.funded - lease.start_seconds == 9  # whole seconds that the budget affords
    assert seen.receipt.used_ms <= 9_000


def test_units_are_billed_as_counted(stories: Stories, world: World) -> None:
    seen, counted = stories.outcome(counted_story)
    assert seen.job.state == "succeeded"
    assert counted.units == 7
    lines = {line.resource: line for line in seen.receipt.lines}
    price_nano = int(Decimal(UNIT_PRICE) * 10**9)
    assert counted.unit == price_nano
    assert lines["units"].cost.atoms == counted_cost(0, price_nano, 0, 7)
    view = on_chain(world, seen.lease)
    assert lines["gpu"].cost.atoms == cost(view.rate, view.used_ms)
    _assert_settled(world, seen)


def test_failing_job_is_told_by_exit_codes_and_pays_what_ran(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(failed_story)
    assert (seen.job.state, seen.job.reason, seen.job.exit_code) == ("failed", "exit_code", 3)
    assert seen.told["exit_code"] == 3
    view = on_chain(world, seen.lease)
    assert view.status is LeaseStatus.CLOSED
    assert 900 <= view.used_ms == seen.receipt["used_ms"]
    assert int(seen.receipt["released"]["atoms"]) == cost(view.rate, view.used_ms)


def test_job_that_matches_nothing_is_told_why_and_buys_nothing(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(unmatched_story)
    assert seen.job.state == "no_match"
    assert seen.job.no_match is not None
    cheapest = seen.job.no_match.relaxations[0]
    changes = [(change.reason, change.pointer, change.value) for change in cheapest.changes]
    assert ("rate_above_limit", "/pricing/max_gpu_hour", "2.5") in changes
    assert seen.balance == DEPOSIT


def test_buyer_without_money_is_told_what_is_missing(stories: Stories, world: World) -> None:
    seen = stories.outcome(unmatched_story)
    shortfall = seen.shortfall.problem.shortfall
    assert shortfall is not None
    assert shortfall.atoms > 0


def test_lying_provider_is_refused_and_every_lie_is_recorded(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(attacked_story)
    assert seen.answers == {
        "other key": "invalid_signature",
        "usage before ready": "not_ready",
        "someone else's lease": "not_found",
        "ready": "accepted",
        "longer than the lease is open": "outside_lease",
        "observed in the future": "ahead_of_clock",
        "honest": "accepted",
        "backwards": "backwards",
        "sequence again": "sequence_used",
        "close above usage": "invalid_request",
        "honest end": "accepted",
    }
    refused = [a.code for a in seen.recorded if a.state == "refused"]
    assert sorted(code or "" for code in refused) == [
        "ahead_of_clock", "backwards", "invalid_signature", "not_ready", "outside_lease",
        "sequence_used",
    ]  # fmt: skip


def test_lying_provider_is_paid_its_honest_usage(stories: Stories, world: World) -> None:
    seen = stories.outcome(attacked_story)
    assert seen.ended.job.state == "succeeded"
    _assert_settled(world, seen.ended)
    assert seen.ended.receipt.used_ms == seen.honest_ms
    assert world.escrow.balance_of(seen.provider) == seen.ended.receipt.net.atoms


def test_every_lease_is_closed_and_the_books_balance(stories: Stories, world: World) -> None:
    stories.all()
    state = assert_books_balance(world)
    assert len(state.leases) == 5
    assert {lease.status for lease in state.leases.values()} == {LeaseStatus.CLOSED}
    assert not any(state.capacity.values())
