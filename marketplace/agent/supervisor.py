"""The node's one loop: stay listed, take up leases, pass on what the server says, end cleanly."""

import threading
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import partial

import structlog

from marketplace.agent.courier import Courier
from marketplace.agent.errors import KEY_FIX, JournalError, NotOurs, NotShown
from marketplace.agent.folders import make_folders, remove_tree
from marketplace.agent.inventory import Capacity
from marketplace.agent.journal import Ending, Phase
from marketplace.agent.node import Halt, HeldLease, ThisNode
from marketplace.agent.run import Assignment, JobRun, assign
from marketplace.domain.life import LeaseState, Outcome
from marketplace.sdk.errors import AuthError, CoulombError
from marketplace.wire.leases import AttestationState, Lease

log = structlog.get_logger("coulomb.agent")
_BEAT_S = 5.0
_LEAVE_S = 10.0


@dataclass(slots=True)
class _Work:
    """A lease in hand, its courier, and the threads that work on it."""

    lease: HeldLease
    courier: Courier
    carrying: threading.Thread
    job: threading.Thread | None = None
    undecided: Ending | None = None  # how it ends, until the journal has that

    @property
    def runs(self) -> bool:
        return self.job is not None and self.job.is_alive()


class Supervisor:
    def __init__(self, node: ThisNode) -> None:
        self._node = node
        self._capacity = Capacity(node.inventory, node.shared)
        self._work: dict[str, _Work] = {}
        self._ignored: set[str] = set()
        self._unshown: set[str] = set()  # on our own node of the chain, and said so
        self._beat_at_s = 0.0
        self._leave_at_s: float | None = None

    def recover(self) -> None:
        """End what an agent before us left: its processes now, its leases at the last signed ms."""
        for entry in self._node.journal.leases(but=Phase.DONE):
            if entry.process is not None and entry.phase is Phase.RUNNING:
                self._node.runtime.reap(entry.process)
                log.info("orphan_ended", lease=entry.lease_id)
            lease = HeldLease(self._node, entry)
            reported = entry.phase is Phase.REPORTED
            if not reported:
                lease.open_logs()
            self._carry(lease, recovered=not reported)
        if self._node.jobs_folder.is_dir():
            for folder in self._node.jobs_folder.iterdir():
                if folder.name not in self._work:
                    remove_tree(folder)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then end the jobs that run and leave."""
        failed = 0
        while not stop.is_set():
            try:
                self.tick()
                failed = 0
            except (CoulombError, JournalError) as error:
                failed += 1
                if failed & (failed - 1) == 0:  # the 1st, 2nd, 4th, 8th… time in a row
                    kind = type(error).__name__
                    fix = {"fix": KEY_FIX} if isinstance(error, AuthError) else {}
                    log.warning("will_try_again", kind=kind, error=str(error), failed=failed, **fix)
            stop.wait(self._node.poll_s)
        self.leave()

    def tick(self) -> None:
        """One round. Raises CoulombError, JournalError."""
        api, node_id = self._node.api, self._node.node_id
        self._sweep()
        if time.monotonic() >= self._beat_at_s:
            api.nodes.heartbeat(node_id)
            self._beat_at_s = time.monotonic() + _BEAT_S
        active = list(api.leases.list(role="provider", state=LeaseState.ACTIVE, node_id=node_id))
        seen = {lease.id for lease in active}
        for lease in active:
            if lease.id in self._work:
                self._work[lease.id].lease.observe(lease)
            elif lease.id not in self._ignored:
                self._take_up(lease, seen)
        for lease_id, work in self._work.items():
            if lease_id not in seen and work.runs:
                work.lease.observe(api.leases.get(lease_id))

    def leave(self) -> None:
        """Leave the book, stop the jobs, and report their ends if the server answers."""
        try:
            self._node.api.nodes.leave(self._node.node_id)
        except CoulombError as error:  # the jobs end all the same
            log.warning("leave_not_told", error=str(error))
        self._leave_at_s = time.monotonic() + _LEAVE_S + self._node.stop_grace_s
        for work in self._work.values():
            work.lease.stop(Halt(Outcome.FAILED, "agent_stopped"))
        for work in self._work.values():
            if work.job is not None:
                work.job.join()
            work.lease.tell()
            work.carrying.join()

    def _take_up(self, lease: Lease, active: Collection[str]) -> None:
        api = self._node.api
        if self._node.journal.lease(lease.id) is not None:
            self._ignored.add(lease.id)  # done with it: it only waits for its end on chain
            return
        if lease.terms is None or lease.job is None:
            return
        ask, bid = api.asks.get(lease.ask_id).ask, api.leases.bid(lease.bid_id).bid
        try:
            job = assign(self._node, lease, ask, bid)
        except NotShown as error:
            if lease.id not in self._unshown:
                self._unshown.add(lease.id)
                log.warning("lease_not_shown", lease=lease.id, why=str(error))
            return
        except NotOurs as error:
            log.error("lease_ignored", lease=lease.id, why=str(error))
            self._ignored.add(lease.id)
            return
        held = HeldLease(self._node, job.entry, notice_s=job.notice_s, shown=job.shown)
        held.heed(lease)
        known = list(api.leases.attestations(lease.id))
        recovered = lease.final or any(one.state is not AttestationState.REFUSED for one in known)
        if not recovered and self._waits_for_room(job, active):
            return
        self._node.journal.begin(job.entry)
        if recovered:
            # Our key has signed for it, our journal does not know: it was lost or is an old copy.
            self._carry(held, recovered=True)
        else:
            self._start(held, job)

    def _waits_for_room(self, job: Assignment, active: Collection[str]) -> bool:
        """Whether its place is still held by a job whose lease is over. The chain gives a node away
        as soon as a lease is stopped; this node ends the job that was on it first."""
        held = (lease_id for lease_id, work in self._work.items() if work.job is not None)
        ending = any(lease_id not in active for lease_id in held)
        return ending and self._capacity.take(job.entry.lease_id, job.sizes, job.gpus) is None

    def _start(self, lease: HeldLease, job: Assignment) -> None:
        grant = self._capacity.take(lease.id, job.sizes, job.gpus)
        if grant is None:
            log.error("no_capacity", lease=lease.id, **asdict(job.sizes))
            self._carry(lease, ending=Ending(Outcome.FAILED, "no_capacity"))
            return
        try:
            make_folders(lease.folders)
            logs = lease.open_logs()
        except OSError as error:  # the disk is full, most likely: only this lease ends for it
            log.error("job_not_prepared", lease=lease.id, error=str(error))
            self._capacity.release(lease.id)
            self._carry(lease, ending=Ending(Outcome.FAILED, "node_error"))
            return
        work = self._carry(lease)
        run = JobRun(lease, job, grant, logs).run
        # bubblewrap ends with the thread that started it: this one lives as long as the job.
        work.job = threading.Thread(target=run, name=f"job-{lease.id}", daemon=True)
        work.job.start()
        log.info("job_taken_up", lease=lease.id, gpus=[gpu.uuid for gpu in grant.gpus])

    def _conclude(self, work: _Work) -> None:
        """Journal an ending that is decided here. Raises JournalError: try again."""
        if work.undecided is not None:
            work.lease.attestor.conclude(work.undecided)
            work.undecided = None
            work.lease.tell()

    def _carry(
        self, lease: HeldLease, recovered: bool = False, ending: Ending | None = None
    ) -> _Work:
        """Take a lease in hand. `ending`: it never gets a job, and the sweep may come again."""
        courier = Courier(lease, recovered)
        carrying = self._start_courier(courier, lease)
        work = self._work[lease.id] = _Work(lease, courier, carrying, undecided=ending)
        self._conclude(work)
        return work

    def _start_courier(self, courier: Courier, lease: HeldLease) -> threading.Thread:
        run = partial(courier.run, partial(self._may_leave, lease))
        thread = threading.Thread(target=run, name=f"courier-{lease.id}", daemon=True)
        thread.start()
        return thread

    def _sweep(self) -> None:
        """Free what ended jobs held, and make up for threads that died too early."""
        for lease_id, work in list(self._work.items()):
            if work.job is not None and not work.runs:
                self._capacity.release(lease_id)
                if work.lease.now.ending is None:
                    log.error("job_thread_died", lease=lease_id)
                    work.undecided = Ending(Outcome.FAILED, "agent_error")
                work.job = None
            self._conclude(work)
            if work.job is None and not work.carrying.is_alive():
                if work.courier.done:
                    del self._work[lease_id]
                else:
                    log.error("courier_died", lease=lease_id)
                    work.carrying = self._start_courier(work.courier, work.lease)

    def _may_leave(self, lease: HeldLease) -> bool:
        if self._leave_at_s is None:
            return False
        return lease.now.is_reported or time.monotonic() > self._leave_at_s
