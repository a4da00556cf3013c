"""Jobs without a GPU, and nodes that are taken back, on real processes and a real chain."""

import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from types import SimpleNamespace as Seen
from typing import Any

import yaml

from marketplace.sdk import Lease
from settlement.leases import LeaseStatus
from settlement.units import cost
from tests.e2e.chain import (
    assert_books_balance,
    assert_paid_for_usage,
    assert_receipt_adds_up,
    on_chain,
    ref_of,
)
from tests.e2e.conftest import Stories
from tests.e2e.jobs import tell_to_end, until_running
from tests.e2e.world import FEE_BPS, ONE, Provider, World, job_of
from tests.programs import PATIENCE_S

DEPOSIT = 3 * ONE
CORES = {"gpu_hour": "0", "cpu_hour": "0.05", "memory_gib_hour": "0.01"}
CORES_RATE = 22 * 10**10  # 4 cores and 2 GiB, in 1e-12 token per hour
NOTICE_S = 4
UNTIL_TOLD = """
while [ ! -e /work/end ]; do
  if [ -e "$COULOMB_NOTICE" ] && [ -z "$told" ]; then told=1; echo "told $(cat $COULOMB_NOTICE)"; fi
  sleep 0.2
done; echo over
"""
ON_INTERRUPTION = {"on_events": ["interruption"], "duration": "5m"}


def prepare(world: World) -> None:
    """A node without GPUs; two that may be taken back after a moment, one after an hour, and one
    that may not."""
    world.provider("cora", None, region="cora", tier="CPU", terms={"prices": CORES})
    world.provider("stan", "1xH100", region="stan")
    for name, region, price, notice in (
        ("west", "coast-west", "2.00", f"{NOTICE_S}s"),
        ("east", "coast-east", "2.60", f"{NOTICE_S}s"),
        ("ida", "ida", "2.50", "1h"),
    ):
        prices = {"gpu_hour": price}
        on_notice = {"interruptible": True, "notice": notice, "prices": prices}
        world.provider(name, "1xH100", region=region, terms=on_notice)


def cpu_story(world: World) -> Seen:
    """A job without a GPU, bought, followed and paid for from the command line."""
    buyer = world.buyer("cy", DEPOSIT)
    job = {
        **job_of("echo on $(nproc) cores; sleep 2.5", placement={"regions": ["cora"]}),
        "resources": {"gpu": 0, "cpu": 4, "memory": "2GB", "disk": "1GB"},
        "pricing": {"max_hour": "0.30"},
    }
    job_file = buyer.home / "job.yaml"
    job_file.write_text(yaml.safe_dump(job))
    receipt = world.cli(buyer, "job", "run", str(job_file), "--yes")
    text = world.cli_text(buyer, "receipt", "show", receipt["job_id"])
    with world.client(buyer) as client:
        handle = client.jobs.get(receipt["job_id"])
        lease = handle.lease()
        assert lease is not None
        shown = handle.receipt()
    return Seen(
        buyer=buyer, provider=world.providers["cora"], lease=lease, receipt=shown, text=text
    )


def _reliability(world: World, provider: Provider) -> Decimal:
    with world.client(provider.party) as client:
        return client.nodes.get(provider.node_id).reliability


def _job_on_notice(region: str, **more: Any) -> dict[str, Any]:
    placement = {"regions": [region], "interruptible": True}
    return job_of(UNTIL_TOLD, placement=placement, **more)


def kept_story(world: World) -> Seen:
    """A node is taken back after its notice; the job goes on on another node."""
    buyer, west, east = (
        world.buyer("kim", DEPOSIT),
        world.providers["west"],
        world.providers["east"],
    )
    with world.client(buyer) as client, ThreadPoolExecutor(1) as pool:
        handle = client.jobs.submit(_job_on_notice("coast", retry=ON_INTERRUPTION))
        waiting = pool.submit(handle.wait, PATIENCE_S)
        first = until_running(world, handle)
        given = time.time()
        world.cli(west.party, "provider", "drain", west.node_id, "--interrupt", "--yes")

        def moved() -> Lease | None:
            lease = handle.refresh() and handle.lease()
            return lease if lease and lease.id != first.id and lease.ready_at else None

        second = world.wait_for("the job runs on another node", moved)
        tell_to_end(east, second)
        job = waiting.result()
        ended = client.leases.get(first.id)
        receipt = handle.receipt()
        stdout = "".join(piece.text for piece in handle.logs() if piece.stream == "stdout")
    return Seen(
        buyer=buyer, west=west, east=east, job=job, first=ended, second=second, given=given,
        receipt=receipt, stdout=stdout, reliability=_reliability(world, west),
    )  # fmt: skip


def broken_story(world: World) -> Seen:
    """A provider that promised an hour's notice stops its agent at once."""
    buyer, ida = world.buyer("bo", DEPOSIT), world.providers["ida"]
    before = _reliability(world, ida)
    with world.client(buyer) as client, ThreadPoolExecutor(1) as pool:
        handle = client.jobs.submit(_job_on_notice("ida"))
        waiting = pool.submit(handle.wait, PATIENCE_S)
        lease = until_running(world, handle)
        world.cli(ida.party, "provider", "drain", ida.node_id, "--interrupt", "--yes")
        ida.agent.stop()
        job = waiting.result()
        ended = client.leases.get(lease.id)
    after = world.wait_for("its reliability falls", lambda: _below(world, ida, before))
    return Seen(job=job, lease=ended, before=before, after=after)


def cut_story(world: World) -> Seen:
    """A provider stops a lease on chain, although its ask is not interruptible."""
    buyer, stan = world.buyer("sue", DEPOSIT), world.providers["stan"]
    before = _reliability(world, stan)
    with world.client(buyer) as client, ThreadPoolExecutor(1) as pool:
        spec = job_of(UNTIL_TOLD, placement={"regions": ["stan"], "interruptible": True})
        handle = client.jobs.submit(spec)
        waiting = pool.submit(handle.wait, PATIENCE_S)
        lease = until_running(world, handle)
        escrow = world.escrow
        data = escrow.calls.stop(ref_of(lease), again=False)
        assert escrow.client.transact(stan.party.signer, escrow.address, data).succeeded
        job = waiting.result()
    after = world.wait_for("its reliability falls", lambda: _below(world, stan, before))
    return Seen(job=job, before=before, after=after)


def _below(world: World, provider: Provider, before: Decimal) -> Decimal | None:
    now = _reliability(world, provider)
    return now if now < before else None


STORIES = [cpu_story, kept_story, broken_story, cut_story]


def test_job_without_a_gpu_is_metered_and_paid_to_the_atom(stories: Stories, world: World) -> None:
    seen = stories.outcome(cpu_story)
    view = on_chain(world, seen.lease)
    assert (view.status, view.rate, view.gpu_milli) == (LeaseStatus.CLOSED, CORES_RATE, 0)
    assert_receipt_adds_up(seen.receipt, FEE_BPS)
    assert_paid_for_usage(view, seen.receipt)
    assert seen.receipt.used_ms >= 2_000
    assert world.escrow.balance_of(seen.provider.address) == seen.receipt.net.atoms
    assert world.escrow.balance_of(seen.buyer.address) == DEPOSIT - view.released


def test_receipt_of_a_job_without_a_gpu_speaks_of_cores_and_memory(stories: Stories) -> None:
    seen = stories.outcome(cpu_story)
    receipt = seen.receipt
    assert (receipt.tier, receipt.gpu_seconds) == ("CPU", 0)
    lines = {line.resource: line for line in receipt.lines}
    assert set(lines) == {"cpu", "memory"}
    parts = {"cpu": 20 * 10**10, "memory": 2 * 10**10}
    for name, rate in parts.items():
        assert abs(lines[name].cost.atoms - cost(rate, receipt.used_ms)) <= 1
    assert (lines["cpu"].unit, lines["cpu"].price) == ("core-seconds", Decimal("0.05"))
    assert "GPU" not in seen.text
    assert "cpu " in seen.text


def test_interrupted_job_is_told_ends_after_the_notice_and_goes_on_elsewhere(
    stories: Stories,
) -> None:
    seen = stories.outcome(kept_story)
    assert (seen.job.state, seen.second.provider) == ("succeeded", seen.east.address)
    assert (seen.first.outcome.outcome, seen.first.outcome.reason) == ("lost", "taken_back")
    told, over = seen.stdout.split()[1], seen.stdout.split()[-1]
    assert seen.given + NOTICE_S - 2 < int(told) < seen.given + NOTICE_S + 60
    assert over == "over"
    assert seen.first.notice_at is not None
    assert seen.first.closed_at is not None
    assert (seen.first.closed_at - seen.first.notice_at).total_seconds() >= NOTICE_S - 1


def test_both_nodes_are_paid_for_what_ran_there(stories: Stories, world: World) -> None:
    seen = stories.outcome(kept_story)
    views = [on_chain(world, lease) for lease in (seen.first, seen.second)]
    assert [view.status for view in views] == [LeaseStatus.CLOSED] * 2
    assert views[0].again
    (earlier,) = seen.receipt.earlier
    for view, receipt in zip(views, (earlier, seen.receipt), strict=True):
        assert_receipt_adds_up(receipt, FEE_BPS)
        assert_paid_for_usage(view, receipt)
    assert views[0].used_ms >= NOTICE_S * 1000 - 500
    spent = sum(view.released for view in views)
    assert world.escrow.balance_of(seen.buyer.address) == DEPOSIT - spent


def test_notice_that_was_kept_costs_no_reliability(stories: Stories) -> None:
    assert stories.outcome(kept_story).reliability == Decimal("0.952")


def test_stopping_without_the_promised_notice_costs_reliability(stories: Stories) -> None:
    seen = stories.outcome(broken_story)
    assert (seen.job.state, seen.job.reason) == ("failed", "agent_stopped")
    assert (seen.before, seen.after) == (Decimal("0.95"), Decimal("0.904"))


def test_stopping_a_lease_on_chain_costs_its_provider_reliability(stories: Stories) -> None:
    seen = stories.outcome(cut_story)
    assert seen.job.state == "cancelled"
    assert (seen.before, seen.after) == (Decimal("0.95"), Decimal("0.904"))


def test_the_books_balance_and_no_capacity_is_kept(stories: Stories, world: World) -> None:
    stories.all()
    state = assert_books_balance(world)
    assert len(state.leases) == 5
    assert not any(state.capacity.values())
