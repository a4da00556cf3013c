"""The buyer's client against real processes: a killed witness, asyncio, streams, exit codes."""

import asyncio
import json
import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace as Seen
from typing import Any

import pytest

from marketplace.sdk import AsyncCoulomb, Attestation, Coulomb
from marketplace.sdk.session import Session
from tests.e2e.conftest import Stories
from tests.e2e.jobs import COUNTING, counted, tell_to_end
from tests.e2e.world import ONE, Party, World, job_of
from tests.programs import PATIENCE_S, wait_for

SIGNED = r'"kind": "countersign", "ms": [1-9]\d*, "sequence": (\d+),'


@pytest.fixture(scope="module", autouse=True)
def seller(world: World) -> None:
    """One node with room for every story and everyone's accounts, before any of them begins."""
    with ThreadPoolExecutor() as pool:
        made: list[Future[Any]] = [pool.submit(world.provider, "north", "8xH100")]
        made += [pool.submit(world.buyer, name) for name in ("killed", "async", "cancels")]
        made.append(pool.submit(world.buyer, "codes", deposit=ONE // 10))
        made.append(pool.submit(world.party, "wallet", ("buyer",), 10 * ONE))
    for each in made:
        each.result()


def killed_witness_story(world: World) -> Seen:
    """Buy detached, witness from a program of its own, kill that twice."""
    buyer = world.parties["killed"]
    spec = world.folder / "killed.json"
    spec.write_text(json.dumps(job_of(COUNTING, max_duration="10m")))
    placed = world.cli(buyer, "job", "run", str(spec), "--yes", "--detach")
    witness = world.start_cli(buyer, "witness", "witness", "run", "-o", "jsonl")
    marks = []
    with world.client(buyer) as client:
        handle = client.jobs.get(placed["id"])
        handle.witnessed = False
        for kept in (0, 1):  # first as soon as it signed, then when the server has it
            witness.says(SIGNED)
            until_stored(client, handle.refresh().lease_id or "", kept)
            witness.kill()
            marks.append(max(vouchers_of(buyer)))
            witness.start()
        witness.says(SIGNED)
        lease = handle.lease()
        assert lease is not None
        tell_to_end(world.providers["north"], lease)
        job = handle.wait(PATIENCE_S)
        receipt = handle.receipt()
        logs = "".join(piece.text for piece in handle.logs() if piece.stream == "stdout")
        attestations = stored_of(client, job.lease_id or "")
    witness.stop()
    return Seen(
        job=job, marks=marks, vouchers=vouchers_of(buyer), attestations=attestations,
        receipt=receipt, ticks=counted(logs),
    )  # fmt: skip


def stored_of(client: Coulomb, lease_id: str) -> list[Attestation]:
    """The attestations of a lease whose vouchers the server has."""
    return [a for a in client.leases.attestations(lease_id) if a.voucher is not None]


def until_stored(client: Coulomb, lease_id: str, count: int) -> None:
    """Wait until the server has that many vouchers of a lease."""
    wait_for(f"{count} vouchers at the server", lambda: len(stored_of(client, lease_id)) >= count)


def vouchers_of(buyer: Party) -> dict[int, dict[str, Any]]:
    """What the journal of a buyer's only witness holds, by sequence."""
    (path,) = (buyer.home / "state" / "coulomb" / "witness").glob("*.db")
    with closing(sqlite3.connect(path)) as db:
        return {
            n: json.loads(text) for n, text in db.execute("SELECT sequence, message FROM voucher")
        }


def async_story(world: World) -> Seen:
    """Buy, wait, follow and fetch with the async client, all at once."""
    return asyncio.run(_async_story(world, world.parties["async"]))


async def _async_story(world: World, buyer: Party) -> Seen:
    session = Session(lambda: buyer.signer, lambda: buyer.witness, state=buyer.home / "sdk")
    async with AsyncCoulomb(world.api_url, buyer.api_key, session=session) as client:
        command = "echo one; sleep 2; echo two; echo result > $COULOMB_OUT/r"
        handle = await client.jobs.submit(job_of(command, outputs=[{"path": "/out"}]))
        events = []

        async def follow() -> None:
            async for event in handle.events():
                events.append(event)

        job, _ = await asyncio.gather(handle.wait(PATIENCE_S), follow())
        middle = len(events) // 2
        resumed = [event async for event in handle.events(last_id=events[middle].id)]
        return Seen(
            job=job,
            receipt=await handle.receipt(),
            events=[event.type for event in events],
            ids=[event.id for event in events],
            resumed=[event.id for event in resumed],
            logs="".join([p.text async for p in handle.logs() if p.stream == "stdout"]),
            files=await handle.result(buyer.home / "result"),
        )


def cancel_story(world: World) -> tuple[int, dict[str, Any]]:
    """Buy in one terminal, cancel from another."""
    buyer = world.parties["cancels"]
    spec = world.folder / "cancels.json"
    spec.write_text(json.dumps(job_of("sleep 100")))
    first = world.start_cli(buyer, "cancelled", "job", "run", str(spec), "--yes", "-o", "json")
    job_id = first.says(r"(job_\w+) running")
    world.cli(buyer, "job", "cancel", job_id, "--yes")
    code = first.ends()
    return code, world.cli(buyer, "receipt", "show", job_id)


def codes_story(world: World) -> dict[str, int]:
    """What goes wrong and the exit code that says so: each checked by `cli_text` itself."""
    buyer = world.parties["codes"]
    specs = {
        "failing": job_of("exit 3", max_duration="1m"),
        "cheap": job_of("true", pricing={"max_gpu_hour": "0.01"}),
        "dear": job_of("true", max_duration="10h"),
    }
    files = {}
    for name, spec in specs.items():
        files[name] = str(world.folder / f"{name}.json")
        Path(files[name]).write_text(json.dumps(spec))
    world.cli_text(buyer, "job", "run", files["failing"], "--yes", code=8)
    failed = world.cli(buyer, "job", "list")[0]["id"]
    world.cli_text(buyer, "job", "wait", failed, "--propagate", code=3)
    world.cli_text(buyer, "job", "run", files["cheap"], "--yes", code=7)
    world.cli_text(buyer, "job", "run", files["dear"], "--yes", code=6)
    world.cli_text(buyer, "job", "show", "job_nope", code=4)
    world.cli_text(buyer, "job", "cancel", failed, "--yes", code=5)
    world.cli_text(buyer, "job", "run", files["failing"], code=2)
    world.cli_text(buyer, "wallet", "withdraw", "1000", "--yes", code=6)
    world.cli_text(buyer, "job", "list", code=3, env={"COULOMB_API_KEY": "coul_x"})
    world.cli_text(buyer, "job", "list", code=75, env={"COULOMB_API_URL": "http://127.0.0.1:9"})
    world.cli_text(buyer, "wallet", "show", code=9, env={"ETH_RPC_URL": "http://127.0.0.1:9"})
    return {job["name"] + job["state"]: 1 for job in world.cli(buyer, "job", "list")}


def wallet_story(world: World) -> tuple[int, int]:
    """In by approval and by permit, all out again: (free, outside) at the end."""
    party = world.parties["wallet"]
    world.cli(party, "wallet", "deposit", "2.5", "--approve", "--yes")
    world.cli(party, "wallet", "deposit", "1.25", "--yes")
    held = world.cli(party, "wallet", "show")
    assert (held["free_atoms"], held["tokens_atoms"]) == (
        str(375 * ONE // 100),
        str(625 * ONE // 100),
    )
    world.cli(party, "wallet", "withdraw", "all", "--yes")
    return world.escrow.balance_of(party.address), world.token.balance_of(party.address)


STORIES = [killed_witness_story, async_story, cancel_story, codes_story, wallet_story]


def test_killed_witness_goes_on_from_its_mark(stories: Stories) -> None:
    seen = stories.outcome(killed_witness_story)
    assert seen.job.state == "succeeded"
    assert seen.marks == sorted(seen.marks)
    assert seen.marks[0] >= 1
    assert seen.receipt.conserved
    assert seen.receipt.used_ms >= 500 * seen.ticks - 500  # from a little after its start


def test_killed_witness_never_signed_two_values_for_one_sequence(stories: Stories) -> None:
    seen = stories.outcome(killed_witness_story)
    stored = {a.sequence: a.voucher.message for a in seen.attestations if a.voucher is not None}
    assert len(seen.vouchers) >= 3  # one before each kill, and the last
    assert len(stored) >= 2  # of a voucher signed just before a kill the server may never hear
    assert {n: message.to_message() for n, message in stored.items()} == {
        n: seen.vouchers[n] for n in stored
    }


def test_async_client_buys_and_follows_on_one_loop(stories: Stories) -> None:
    seen = stories.outcome(async_story)
    assert seen.job.state == "succeeded"
    assert seen.logs == "one\ntwo\n"
    assert seen.files == ["r"]
    assert {"status", "log", "metric", "cost", "receipt"} <= set(seen.events)
    assert seen.receipt.conserved


def test_event_stream_resumes_after_the_last_id(stories: Stories) -> None:
    seen = stories.outcome(async_story)
    assert seen.ids == sorted(set(seen.ids))
    assert seen.resumed == seen.ids[len(seen.ids) // 2 + 1 :]


def test_cancelled_job_pays_for_what_ran(stories: Stories) -> None:
    code, receipt = stories.outcome(cancel_story)
    assert code == 8
    assert receipt["conserved"] is True
    assert int(receipt["refunded"]["atoms"]) > int(receipt["released"]["atoms"]) > 0


def test_exit_codes_say_what_went_wrong(stories: Stories) -> None:
    assert stories.outcome(codes_story) == {"jobfailed": 1}


def test_tokens_go_in_and_out_of_the_escrow(stories: Stories) -> None:
    assert stories.outcome(wallet_story) == (0, 10 * ONE)
