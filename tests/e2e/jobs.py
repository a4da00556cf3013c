"""Jobs on their way: where they are to run, and waiting for them to get somewhere."""

from contextlib import suppress
from typing import Any

from marketplace.sdk import Attestation, Coulomb, JobHandle, Lease
from tests.e2e.world import Provider, World, job_of

# Counts twice a second until a file appears in its working folder: see `tell_to_end`.
COUNTING = "i=0; while [ ! -e /work/end ]; do i=$((i+1)); echo tick $i; sleep 0.5; done; echo over"


def job_in(region: str, command: str, **more: Any) -> dict[str, Any]:
    """A job for the one provider of a region."""
    return job_of(command, placement={"regions": [region]}, **more)


def tell_to_end(provider: Provider, lease: Lease) -> None:
    """Let a COUNTING job end by itself, whatever the machine's pace; nothing where it is over."""
    with suppress(FileNotFoundError):
        (provider.state_dir / "jobs" / lease.id / "work" / "end").touch()


def counted(output: str) -> int:
    """How far a COUNTING job came; fails if a line is missing, doubled or out of order."""
    lines = output.splitlines()
    assert lines[-1] == "over", output
    assert lines[:-1] == [f"tick {i + 1}" for i in range(len(lines) - 1)], output
    return len(lines) - 1


def until_running(world: World, handle: JobHandle) -> Lease:
    """Wait until a job runs; its lease."""

    def running() -> bool:
        job = handle.refresh()
        assert not job.is_final, job
        return job.state == "running"

    world.wait_for(f"{handle.id} runs", running)
    lease = handle.lease()
    assert lease is not None
    return lease


def until_opened(world: World, handle: JobHandle) -> Lease:
    """Wait until a job's lease is open on chain; the lease."""

    def opened() -> Lease | None:
        lease = handle.lease()
        return lease if lease is not None and lease.terms is not None else None

    found: Lease = world.wait_for(f"the lease of {handle.id} opens", opened)
    return found


def until_countersigned(
    world: World, client: Coulomb, lease_id: str, count: int
) -> list[Attestation]:
    """Wait until so many attestations of a lease are countersigned; these."""

    def enough() -> list[Attestation] | None:
        found = [a for a in client.leases.attestations(lease_id) if a.voucher is not None]
        return found if len(found) >= count else None

    found: list[Attestation] = world.wait_for(f"{count} vouchers of {lease_id}", enough)
    return found


def vouchers_ms(client: Coulomb, lease_id: str) -> list[int]:
    """The ms of every voucher of a lease, in the order of their attestations."""
    found = client.leases.attestations(lease_id)
    return [a.voucher.message.ms for a in found if a.voucher is not None]
