"""The node's one loop: stay listed, take up leases, pass on what the server says, end cleanly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from marketplace.agent.assignment import Assignment, NotOurs, assign
from marketplace.agent.capacity import Capacity
from marketplace.agent.config import NodeConfig
from marketplace.agent.courier import Courier
from marketplace.agent.errors import ApiDown, JournalError
from marketplace.agent.folders import remove_tree
from marketplace.agent.inventory import Inventory
from marketplace.agent.journal import Ending, LeaseEntry
from marketplace.agent.logs import JobLogs
from marketplace.agent.node import Node
from marketplace.agent.progress import Order, Progress
from marketplace.agent.run import JobRun, prepare
from marketplace.agent.vouchers import Vouchers
from marketplace.sdk.errors import ApiError
from marketplace.wire.leases import Lease
from settlement.eip712 import Domain

log = structlog.get_logger("coulomb.agent")
_BEAT_S = 5.0
_LEAVE_S = 10.0


@dataclass(slots=True)
class _Held:
    """A lease in hand: its job's thread (None: there is none), its courier and its thread."""

    entry: LeaseEntry
    progress: Progress
    job: threading.Thread | None
    courier: Courier
    carrying: threading.Thread
    vouchers: Vouchers
    unended: Ending | None = None  # how it ends, until the journal has that

    def observe(self, lease: Lease) -> None:
        """Pass on what the server says, and what the witness verifiably signed.

        Raises ApiDown, ApiError, JournalError.
        """
        self.progress.observe(lease)
        # Also once the job has ended: the last voucher pays the most.
        self.progress.cover(self.vouchers.learn(lease))


class Supervisor:
    """Runs a registered node until it is told to stop."""

    def __init__(
        self,
        node: Node,
        node_id: str,
        domain: Domain,
        inventory: Inventory,
        shared: bool,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._node_id = node_id
        self._domain = domain
        self._inventory = inventory
        self._capacity = Capacity(inventory, shared)
        self._clock_s = clock_s
        self._held: dict[str, _Held] = {}
        self._ignored: set[str] = set()
        self._beat_at_s = 0.0
        self._leave_at_s: float | None = None

    def recover(self) -> None:
        """End what an agent before us left: its processes now, its leases at the last signed ms."""
        journal = self._node.journal
        for entry in journal.open_leases():
            record = journal.process(entry.lease_id)
            if record is not None and entry.phase == "running":
                self._node.runtime.reap(record)
                log.info("orphan_ended", lease=entry.lease_id)
            reported = entry.phase == "reported"
            logs = None if reported else JobLogs(self._node.folders(entry.lease_id).logs)
            self._carry(entry, Progress(), logs, recovered=not reported)
        known = {entry.lease_id for entry in journal.open_leases()}
        if self._node.jobs_folder.is_dir():
            for folder in self._node.jobs_folder.iterdir():
                if folder.name not in known:
                    remove_tree(folder)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then end the jobs that run and leave."""
        failed = 0
        while not stop.is_set():
            try:
                self.tick()
                failed = 0
            except (ApiDown, ApiError, JournalError) as error:
                failed += 1
                if failed & (failed - 1) == 0:  # the 1st, 2nd, 4th, 8th… time in a row
                    kind = type(error).__name__
                    log.warning("will_try_again", kind=kind, error=str(error), failed=failed)
            stop.wait(self._node.poll_s)
        self.leave()

    def tick(self) -> None:
        """One round. Raises ApiDown, ApiError, JournalError."""
        self._sweep()
        if self._clock_s() >= self._beat_at_s:
            self._node.api.beat(self._node_id)
            self._beat_at_s = self._clock_s() + _BEAT_S
        seen = set()
        for lease in self._node.api.active_leases(self._node_id):
            seen.add(lease.id)
            held = self._held.get(lease.id)
            if held is not None:
                held.observe(lease)
            elif lease.id not in self._ignored:
                self._take_up(lease)
        for lease_id, held in list(self._held.items()):
            if lease_id not in seen and held.job is not None and held.job.is_alive():
                held.observe(self._node.api.lease(lease_id))

    def leave(self) -> None:
        """Get off the book, stop the jobs, report their ends as far as the server listens."""
        try:
            self._node.api.leave(self._node_id)
        except (ApiDown, ApiError) as error:  # the jobs end all the same
            log.warning("leave_not_told", error=str(error))
        self._leave_at_s = self._clock_s() + _LEAVE_S + self._node.stop_grace_s
        for held in self._held.values():
            held.progress.stop(Order("failed", "agent_stopped"))
        for held in self._held.values():
            if held.job is not None:
                held.job.join()
        for held in self._held.values():
            held.progress.tell()
            held.carrying.join()

    @property
    def jobs(self) -> int:
        """How many jobs run now."""
        return sum(1 for h in self._held.values() if h.job is not None and h.job.is_alive())

    def _take_up(self, lease: Lease) -> None:
        if self._node.journal.lease(lease.id) is not None:
            self._ignored.add(lease.id)  # done with it: it only waits for its end on chain
            return
        if lease.terms is None or lease.job is None:
            return
        try:
            ask, bid = self._node.api.orders(lease)
            job = assign(lease, ask, bid, self._node.signer.address, self._inventory)
        except NotOurs as error:
            log.error("lease_ignored", lease=lease.id, why=str(error))
            self._ignored.add(lease.id)
            return
        entry = LeaseEntry(
            job.lease_id,
            job.job_id,
            job.buyer,
            job.provider,
            job.lease_no,
            self._domain,
            job.witness,
            job.metered,
            job.spec.outputs,
        )
        progress = Progress()
        progress.observe(lease)
        held = self._node.api.attestations(lease.id)
        if lease.final is not None or any(a.state != "refused" for a in held):
            # Our key has signed for it, our journal does not know: it was lost or is an old copy.
            self._node.journal.begin(entry)
            self._carry(entry, progress, None, recovered=True)
        else:
            self._start(entry, job, progress)

    def _start(self, entry: LeaseEntry, job: Assignment, progress: Progress) -> None:
        lease_id = entry.lease_id
        self._node.journal.begin(entry)
        grant = self._capacity.take(
            lease_id, job.gpu_milli, job.memory_mib, job.storage_mib, job.gpus
        )
        if grant is None:
            log.error("no_capacity", lease=lease_id, gpu_milli=job.gpu_milli)
            self._refuse(entry, progress, "no_capacity")
            return
        try:
            logs = prepare(self._node, lease_id)
        except OSError as error:  # the disk is full, most likely: it is this lease's end alone
            log.error("job_not_prepared", lease=lease_id, error=str(error))
            self._capacity.release(lease_id)
            self._refuse(entry, progress, "node_error")
            return
        run = JobRun(self._node, job, grant, entry, progress, logs)
        # bubblewrap ends with the thread that started it: this one lives as long as the job.
        thread = threading.Thread(target=run.run, name=f"job-{lease_id}", daemon=True)
        self._carry(entry, progress, logs, thread)
        thread.start()
        log.info("job_taken_up", lease=lease_id, gpus=[gpu.uuid for gpu in grant.gpus])

    def _refuse(self, entry: LeaseEntry, progress: Progress, reason: str) -> None:
        """End a lease that never gets a job; it is in hand first, so a sweep can come again."""
        self._carry(entry, progress, None)
        held = self._held[entry.lease_id]
        held.unended = Ending("failed", reason)
        self._conclude(held)

    def _conclude(self, held: _Held) -> None:
        """Journal an ending that is decided here. Raises JournalError; then it is tried again."""
        if held.unended is not None:
            self._node.attestor(held.entry).conclude(held.unended)
            held.unended = None
            held.progress.tell()

    def _carry(
        self,
        entry: LeaseEntry,
        progress: Progress,
        logs: JobLogs | None,
        job: threading.Thread | None = None,
        recovered: bool = False,
    ) -> None:
        vouchers = Vouchers(self._node, entry)
        courier = Courier(self._node, entry, progress, logs, vouchers, recovered)
        carrying = self._courier_thread(courier, entry.lease_id)
        self._held[entry.lease_id] = _Held(entry, progress, job, courier, carrying, vouchers)

    def _courier_thread(self, courier: Courier, lease_id: str) -> threading.Thread:
        thread = threading.Thread(
            target=courier.run,
            args=(lambda: self._may_leave(lease_id),),
            name=f"courier-{lease_id}",
            daemon=True,
        )
        thread.start()
        return thread

    def _sweep(self) -> None:
        """Free what ended jobs held, and go on where a thread died before its work was done."""
        for lease_id, held in list(self._held.items()):
            if held.job is not None and not held.job.is_alive():
                self._capacity.release(lease_id)
                if self._node.journal.ending(lease_id) is None:
                    log.error("job_thread_died", lease=lease_id)
                    held.unended = Ending("failed", "agent_error")
                held.job = None
            self._conclude(held)
            if held.job is None and not held.carrying.is_alive():
                if held.courier.done:
                    del self._held[lease_id]
                else:
                    log.error("courier_died", lease=lease_id)
                    held.carrying = self._courier_thread(held.courier, lease_id)

    def _may_leave(self, lease_id: str) -> bool:
        if self._leave_at_s is None:
            return False
        entry = self._node.journal.lease(lease_id)
        reported = entry is None or entry.phase in ("reported", "done")
        return reported or self._clock_s() > self._leave_at_s


def node_document(
    config: NodeConfig, inventory: Inventory, runtime: str, interval_ms: int | None
) -> dict[str, Any]:
    """The body of `POST /v1/nodes`."""
    document: dict[str, Any] = {
        "number": config.number,
        "name": config.name,
        "region": config.region,
        "tier": config.tier,
        "gpus": [
            {
                "uuid": gpu.uuid,
                "model": gpu.model,
                "memory_mib": gpu.memory_mib,
                "simulated": gpu.simulated,
            }
            for gpu in inventory.gpus
        ],
        "cpu_milli": inventory.cpu_milli,
        "memory_mib": inventory.memory_mib,
        "storage_mib": inventory.storage_mib,
        "runtime": runtime,
        "shared": config.shared,
    }
    if interval_ms is not None:
        document["interval_ms"] = interval_ms
    return document
