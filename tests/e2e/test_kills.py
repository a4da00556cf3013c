"""SIGKILL to agent and witness in the middle of jobs: both sides lose two intervals at most."""

import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace as Seen

from settlement.attestation import UsageAttestation
from settlement.leases import LeaseStatus
from settlement.silence import silence_ms, unseen_ms
from settlement.units import cost
from tests.e2e.chain import (
    assert_books_balance,
    assert_paid_for_usage,
    assert_receipt_adds_up,
    on_chain,
)
from tests.e2e.conftest import Stories
from tests.e2e.jobs import (
    COUNTING,
    counted,
    job_in,
    tell_to_end,
    until_countersigned,
    until_running,
    vouchers_ms,
)
from tests.e2e.world import FEE_BPS, SETTLE_WINDOW, Provider, World, job_of
from tests.programs import PATIENCE_S
from tests.sandboxes import marked_seconds, processes_with

GRACE_MS = unseen_ms(1_000)
HEARING_MS = 5_000  # from a reading to its agent hearing that it was countersigned, at most
SILENCE_MS = silence_ms(1_000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# -- the agent ------------------------------------------------------------------------------------


def _last_signed(provider: Provider) -> UsageAttestation:
    """The newest attestation in an agent's journal."""
    with closing(sqlite3.connect(f"file:{provider.state_dir}/journal.db?mode=ro", uri=True)) as db:
        query = "SELECT message FROM attestations ORDER BY sequence DESC LIMIT 1"
        (message,) = db.execute(query).fetchone()
    return UsageAttestation.from_message(json.loads(message))


def prepare(world: World) -> None:
    """A node that stays, dearer than those that are killed."""
    prices = {"gpu_hour": "2.75"}
    world.provider("calm", "4xH100", region="calm", terms={"prices": prices})


def agent_story(world: World) -> Seen:
    """Kill an agent while its job runs, start it again, and use the node once more."""
    provider = world.provider("west", "1xH100", region="west")
    carl = world.buyer("carl")
    nap = f"sleep {(marker := marked_seconds())}"
    with world.client(carl) as client, ThreadPoolExecutor(1) as pool:
        handle = client.jobs.submit(job_in("west", f"{nap} & {nap}"))
        waiting = pool.submit(handle.wait, PATIENCE_S)
        lease = until_running(world, client.jobs.get(handle.id))
        until_countersigned(world, client, lease.id, 3)
        before = processes_with(marker)
        provider.agent.kill()
        killed_ms = _now_ms()
        last_signed = _last_signed(provider)
        world.wait_for("orphans end", lambda: not processes_with(marker))
        provider.agent.start().says(r"(node_ready)")
        job = waiting.result()
        closed = handle.lease()
        assert closed is not None
        receipt = handle.receipt()
        countersigned = max(vouchers_ms(client, lease.id))
        orphans = processes_with(marker)
        again = client.jobs.submit(job_in("west", "echo again; sleep 1"))
        next_job = again.wait(PATIENCE_S)
    left_over = [folder.name for folder in (provider.state_dir / "jobs").iterdir()]
    return Seen(
        job=job, lease=closed, receipt=receipt, before=before, orphans=orphans,
        killed_ms=killed_ms, last_signed=last_signed, countersigned_ms=countersigned,
        left_over=left_over, next_job=next_job,
    )  # fmt: skip


def lost_story(world: World) -> Seen:
    """Kill an agent for good: the job goes to the next ask with what is left of its budget."""
    first = world.provider("cheap", "1xH100", region="lost")
    carol = world.buyer("carol")
    command = "sleep 6; echo made it > /out/result"
    spec = job_of(
        command,
        placement={"regions": ["lost", "calm"]},
        retry={"on_events": ["interruption"], "duration": "5m"},
        outputs=[{"path": "/out"}],
        max_duration="1m",
    )
    with world.client(carol) as client, ThreadPoolExecutor(1) as pool:
        handle = client.jobs.submit(spec)
        waiting = pool.submit(handle.wait, PATIENCE_S)
        lease = until_running(world, client.jobs.get(handle.id))
        until_countersigned(world, client, lease.id, 2)
        first.agent.kill()
        killed_ms = _now_ms()
        job = waiting.result()
        receipt = handle.receipt()
        leases = [x for x in client.leases.list(role="buyer") if x.job_id == handle.id]
        countersigned = max(vouchers_ms(client, lease.id))
        budget = client.leases.bid(lease.bid_id).bid.budget
    leases.sort(key=lambda x: str(x.created_at))
    return Seen(
        job=job, leases=leases, receipt=receipt, killed_ms=killed_ms,
        countersigned_ms=countersigned, first=first, budget=budget,
    )  # fmt: skip


# -- the witness ----------------------------------------------------------------------------------


def client_story(world: World) -> Seen:
    """Kill `job run`, then go on with `job wait` on the same machine."""
    dora = world.buyer("dora")
    job_file = dora.home / "job.yaml"
    job_file.write_text(json.dumps(job_in("calm", COUNTING)))
    run = world.start_cli(dora, "run-dora", "job", "run", str(job_file), "--yes")
    job_id = run.says(r"job (job_\w+)")
    with world.client(dora) as client:
        handle = client.jobs.get(job_id)
        lease = until_running(world, handle)
        seen = until_countersigned(world, client, lease.id, 2)
        run.kill()
        wait = world.start_cli(dora, "wait-dora", "job", "wait", job_id, "--propagate")
        until_countersigned(world, client, lease.id, len(seen) + 2)
        tell_to_end(world.providers["calm"], lease)
        code = wait.ends()
        job, closed, receipt = handle.refresh(), handle.lease(), handle.receipt()
        assert closed is not None
        logs = "".join(piece.text for piece in handle.logs() if piece.stream == "stdout")
        vouchers = vouchers_ms(client, lease.id)
        return Seen(job=job, lease=closed, receipt=receipt, code=code, vouchers=vouchers, logs=logs)


def abandoned_story(world: World) -> Seen:
    """Kill a buyer's client for good."""
    evan = world.buyer("evan")
    job_file = evan.home / "job.yaml"
    nap = f"sleep {(marker := marked_seconds())}"
    job_file.write_text(json.dumps(job_in("calm", nap)))
    run = world.start_cli(evan, "run-evan", "job", "run", str(job_file), "--yes")
    job_id = run.says(r"job (job_\w+)")
    with world.client(evan) as client:
        handle = client.jobs.get(job_id)
        lease = until_running(world, handle)
        until_countersigned(world, client, lease.id, 2)
        run.kill()
        killed_ms = _now_ms()
        world.wait_for("the agent stops the job", lambda: not processes_with(marker))
        ran_ms = _now_ms() - killed_ms
        world.wait_for("the job's end", lambda: handle.refresh().is_final)
        found = list(client.leases.attestations(lease.id))
        signed = [a for a in found if a.voucher is not None][-1]
        world.wait_for(
            "the last voucher is settled",
            lambda: on_chain(world, lease).used_ms == signed.message.ms,
        )
        return Seen(
            job=handle.job, view=on_chain(world, lease), countersigned=signed, last=found[-1],
            processes=processes_with(marker), ran_ms=ran_ms,
        )  # fmt: skip


STORIES = [agent_story, lost_story, client_story, abandoned_story]


# -- what must hold -------------------------------------------------------------------------------


def test_agent_killed_ends_the_lease_at_the_last_signed_reading(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(agent_story)
    assert (seen.job.state, seen.job.reason) == ("failed", "agent_restarted")
    view = on_chain(world, seen.lease)
    assert view.status is LeaseStatus.CLOSED
    assert view.used_ms == seen.last_signed.ms
    assert seen.last_signed.observed_at_ms <= seen.killed_ms
    assert seen.lease.final is not None
    assert view.used_ms == seen.lease.final.message.ms  # both keys signed that Close


def test_agent_killed_is_paid_once_and_only_what_was_countersigned(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(agent_story)
    assert_receipt_adds_up(seen.receipt, FEE_BPS)
    view = on_chain(world, seen.lease)
    assert_paid_for_usage(view, seen.receipt)
    # The Close is the last countersignature; no voucher says more, and it adds one reading at most.
    assert seen.countersigned_ms <= view.used_ms
    assert view.used_ms <= seen.countersigned_ms + 2 * world.interval_ms + 1_000


def test_agent_killed_leaves_no_process_and_its_node_works_again(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(agent_story)
    assert len(seen.before) >= 2
    assert seen.orphans == []
    assert seen.left_over == []
    assert seen.next_job.state == "succeeded"


def test_provider_that_vanishes_is_stopped_and_the_job_goes_to_the_next_ask(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(lost_story)
    assert seen.job.state == "succeeded"
    gone, taken = seen.leases
    assert gone.provider == seen.first.address
    assert taken.provider != seen.first.address
    before, after = on_chain(world, gone), on_chain(world, taken)
    assert before.status is LeaseStatus.STOPPED
    assert after.status is LeaseStatus.CLOSED
    assert before.end * 1000 <= seen.killed_ms + SILENCE_MS + 10_000
    assert_receipt_adds_up(seen.receipt, FEE_BPS)


def test_provider_that_vanishes_is_paid_what_was_countersigned_and_the_budget_holds(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(lost_story)
    gone, taken = (on_chain(world, lease) for lease in seen.leases)
    assert gone.used_ms == seen.countersigned_ms
    assert gone.released == cost(gone.rate, gone.used_ms)
    assert gone.released + gone.locked + taken.released <= seen.budget


def test_client_killed_and_restarted_goes_on_witnessing_the_same_job(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(client_story)
    assert (seen.job.state, seen.job.exit_code) == ("succeeded", 0)
    assert seen.code == 0
    assert seen.receipt.used_ms >= 500 * counted(seen.logs) - 500
    assert seen.vouchers == sorted(set(seen.vouchers))
    assert_receipt_adds_up(seen.receipt, FEE_BPS)
    assert_paid_for_usage(on_chain(world, seen.lease), seen.receipt)


def test_witness_that_never_returns_makes_the_agent_stop_within_its_grace(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(abandoned_story)
    assert (seen.job.state, seen.job.reason) == ("failed", "witness_silent")
    assert seen.processes == []
    uncovered = seen.last.message.ms - seen.countersigned.message.ms
    # The agent's clock runs from when it hears of a countersignature, not from the reading.
    assert GRACE_MS // 2 <= uncovered <= GRACE_MS + 2 * world.interval_ms + HEARING_MS
    assert seen.ran_ms <= GRACE_MS + 1_000 + HEARING_MS
    assert seen.view.status is LeaseStatus.STOPPED
    assert seen.view.used_ms == seen.countersigned.message.ms
    assert seen.view.released == cost(seen.view.rate, seen.countersigned.message.ms)


def test_lease_that_nobody_closed_is_refunded_after_its_window(
    stories: Stories, world: World
) -> None:
    stories.all()
    open_before = [
        lease
        for lease in assert_books_balance(world).leases.values()
        if lease.status is not LeaseStatus.CLOSED
    ]
    assert len(open_before) == 2  # the vanished provider's and the vanished witness's
    world.chain_client.rpc("evm_increaseTime", SETTLE_WINDOW + 5)

    def closed() -> bool:
        leases = assert_books_balance(world).leases
        return all(lease.status is LeaseStatus.CLOSED for lease in leases.values())

    world.wait_for("refunds", closed)
    state = assert_books_balance(world)
    for before in open_before:
        after = state.leases[before.lease_no]
        assert after.released(state.params) == before.released(state.params)
        assert after.refunded == before.locked(state.params)
    assert not any(state.capacity.values())
