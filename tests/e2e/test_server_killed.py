"""SIGKILL to the server in the middle of jobs: no acknowledged voucher lost, nothing paid twice."""

import json
import sqlite3
import time
from contextlib import closing
from types import SimpleNamespace as Seen

from marketplace.sdk import Lease
from settlement.chain.devnet import dev_account
from settlement.events import Closed, Opened, Settled
from settlement.leases import LeaseStatus
from settlement.silence import unseen_ms
from tests.e2e.chain import (
    assert_books_balance,
    assert_paid_for_usage,
    assert_receipt_adds_up,
    events,
    on_chain,
)
from tests.e2e.conftest import Stories
from tests.e2e.jobs import COUNTING, counted, job_in, tell_to_end, until_running
from tests.e2e.world import FEE_BPS, RELAYER, Party, World
from tests.programs import PATIENCE_S, Program

INTERVALS_MS = (1_000, 20_000, 40_000)
"""Tried in turn: the longer a node's interval, the longer its agent bears with a server away."""


def _acknowledged(witness: Program, lease: Lease) -> dict[int, int]:
    """Vouchers of a lease that a witness was told had arrived: ms by sequence."""
    lines = witness.output().splitlines()
    acts = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return {
        act["sequence"]: act["ms"]
        for act in acts
        if act["lease_id"] == lease.id and act["kind"] == "countersign"
        if not act["refusal"] and not act["problem"]
    }


def _until_more_acknowledged(world: World, witness: Program, lease: Lease) -> None:
    """Wait until a witness was told that two more vouchers had arrived."""
    enough = len(_acknowledged(witness, lease)) + 2
    world.wait_for("more vouchers", lambda: len(_acknowledged(witness, lease)) >= enough)


def server_story(world: World) -> Seen:
    """Kill the server twice while two jobs run: one with a witness in a process of its own, the
    other followed and witnessed by `job run`.

    A server that is away for longer than the agents' grace stops jobs, rightly: on a machine so
    busy that it starts that slowly, it is tried again with a longer grace.
    """
    buyers = world.buyer("bob"), world.buyer("fay")
    away_ms = []
    for interval_ms in INTERVALS_MS:
        seen = _attempt(world, interval_ms, *buyers)
        if max(seen.away_ms) <= _away_ms_max(interval_ms):
            return seen
        away_ms += seen.away_ms
    raise AssertionError(f"the server never started fast enough here: {away_ms} ms")


def _away_ms_max(interval_ms: int) -> int:
    """Of the agents' grace, what leaves time to catch up in."""
    return unseen_ms(interval_ms) // 2 - 1_000


def _attempt(world: World, interval_ms: int, bob: Party, fay: Party) -> Seen:
    name = f"south-{interval_ms}"
    provider = world.provider(name, "2xH100", region=name, interval_ms=interval_ms)
    spec = job_in(name, COUNTING, max_duration="20m")
    witness = world.start_cli(bob, f"witness-bob-{name}", "witness", "run", "-o", "jsonl")
    job_file = fay.home / "job.yaml"
    job_file.write_text(json.dumps(spec))
    run = world.start_cli(fay, f"run-fay-{name}", "job", "run", str(job_file), "--yes")
    acknowledged: dict[int, int] = {}
    held: dict[int, int] = {}
    away_ms = []
    with world.client(bob) as client:
        handle = client.jobs.submit(spec, witness=bob.witness.address)
        lease = until_running(world, handle)
        run.says(r"job_\w+ (running)")
        for _ in range(2):
            _until_more_acknowledged(world, witness, lease)
            world.server.kill()
            since = time.monotonic()
            known = _acknowledged(witness, lease)
            world.restart_server()
            away_ms.append(int((time.monotonic() - since) * 1000))
            after = {a.sequence: a for a in client.leases.attestations(lease.id)}
            held |= {s: a.message.ms for s, a in after.items() if a.voucher and s in known}
            acknowledged |= known
            if away_ms[-1] > _away_ms_max(interval_ms):
                break
        for mine in world.leases_of(provider):
            tell_to_end(provider, mine)
        job = handle.wait(PATIENCE_S)
        closed = handle.lease()
        assert closed is not None
        receipt = handle.receipt()
        logs = "".join(piece.text for piece in handle.logs() if piece.stream == "stdout")
    code = run.ends()
    witness.stop()
    # By sequence: the ms of vouchers that the server had answered for, and that it knew afterwards.
    vouchers = {"acknowledged": acknowledged, "held": held}
    return Seen(
        job=job, lease=closed, receipt=receipt, logs=logs, provider=provider, away_ms=away_ms,
        client_code=code, client_said=run.output(), **vouchers,
    )  # fmt: skip


STORIES = [server_story]


def test_server_killed_twice_loses_no_acknowledged_voucher(stories: Stories, world: World) -> None:
    seen = stories.outcome(server_story)
    assert len(seen.acknowledged) >= 4
    assert seen.held == seen.acknowledged
    assert seen.receipt.used_ms >= max(seen.acknowledged.values())


def test_server_killed_twice_stops_no_job(stories: Stories, world: World) -> None:
    seen = stories.outcome(server_story)
    assert (seen.job.state, seen.job.exit_code) == ("succeeded", 0)
    ticks = counted(seen.logs)
    assert seen.receipt.used_ms >= 500 * ticks - 500
    assert seen.receipt.used_ms > sum(seen.away_ms)  # it ran on, and that is paid, too


def test_server_killed_twice_leaves_job_run_following_its_job(
    stories: Stories, world: World
) -> None:
    seen = stories.outcome(server_story)
    assert seen.client_code == 0
    said = [line for line in seen.client_said.splitlines() if line.startswith(("tick", "over"))]
    assert counted("\n".join(said)) > 4


def test_server_killed_twice_pays_nothing_twice(stories: Stories, world: World) -> None:
    seen = stories.outcome(server_story)
    assert_receipt_adds_up(seen.receipt, FEE_BPS)
    assert_paid_for_usage(on_chain(world, seen.lease), seen.receipt)
    number = seen.lease.lease_no
    found = events(world)
    assert sum(isinstance(e, Opened) and e.lease_no == number for e in found) == 1
    assert sum(isinstance(e, Closed) and e.lease_no == number for e in found) == 1
    settled = [
        entry.ms
        for event in found
        if isinstance(event, Settled)
        for entry in event.entries
        if entry.lease_no == number
    ]
    assert settled == sorted(set(settled))
    state = assert_books_balance(world)
    assert {lease.status for lease in state.leases.values()} == {LeaseStatus.CLOSED}
    provider = seen.provider.address
    sold = [lease for lease in state.leases.values() if lease.provider == provider]
    earned = sum(x.released(state.params) - x.fees(state.params) for x in sold)
    assert len(sold) == 2
    assert world.escrow.balance_of(provider) == earned


def test_relayer_killed_in_the_middle_uses_every_nonce_for_one_intent(
    stories: Stories, world: World
) -> None:
    stories.all()
    query = "SELECT key, state, nonce FROM intents WHERE nonce IS NOT NULL ORDER BY nonce"
    with closing(sqlite3.connect(f"file:{world.database}?mode=ro", uri=True)) as db:
        rows = db.execute(query).fetchall()
    assert [nonce for _, _, nonce in rows] == list(range(len(rows)))
    assert world.chain_client.nonce(dev_account(RELAYER).address) == len(rows)
    assert {state for _, state, _ in rows} <= {"confirmed", "final"}, rows
