"""Silence: nodes and providers that are lost, late starters, witnesses that never close.

The server holds no key of any party: it asks witness or meter for a Stop and waits for the chain.
"""

from dataclasses import dataclass

from marketplace.db.store import Database, Store
from marketplace.db.tables import JobRow, LeaseRow, NodeRow
from marketplace.domain.advance import (
    CloseOverdue,
    Fact,
    ProviderSilent,
    RetryWindowPassed,
    StartLimitPassed,
    StopOverdue,
)
from marketplace.domain.drafts import NodeState
from marketplace.domain.life import GIVEN_UP
from marketplace.services.lives import Lives
from marketplace.services.offers import rest
from marketplace.services.ports import Clock, Market
from settlement.ports import IntentState
from settlement.silence import silence_ms

REPLIES_KEPT_MS = 48 * 3_600_000


@dataclass(frozen=True, slots=True)
class Watchdog:
    """Looks at every open lease once a tick. `since_ms`: when the market began to listen. A silence
    counts only from then on: nobody is blamed for a time when the market was away."""

    market: Market
    clock: Clock
    database: Database
    lives: Lives
    since_ms: int

    def tick(self) -> int:
        """Note what is overdue; returns how many leases changed."""
        with self.database.read() as store:
            suspects = [
                lease.id
                for lease, job, node in store.leases.active()
                if self._news(store, lease, job, node) is not None
            ]
        changed = 0
        for lease_id in suspects:
            with self.database.write() as store:  # looks again, now under the lock
                lease = store.leases.need(lease_id, lock=True)
                job = store.jobs.need(lease.job_id, lock=True)
                fact = self._news(store, lease, job, store.nodes.need(lease.node_id))
                if fact is not None:
                    self.lives.take(store, job, lease, fact)
                    changed += 1
        return changed

    def _news(self, store: Store, lease: LeaseRow, job: JobRow, node: NodeRow) -> Fact | None:
        """What is overdue about a lease, if it changes anything."""
        fact = self._overdue(store, lease, node)
        return fact if fact and self.lives.would_change(store, job, lease, fact) else None

    def _overdue(self, store: Store, lease: LeaseRow, node: NodeRow) -> Fact | None:
        now_ms = self.clock()
        grace_ms = silence_ms(lease.interval_ms)
        if lease.finished_ms is not None:
            if now_ms - max(lease.finished_ms, self.since_ms) <= grace_ms:
                return None
            close = store.intent(f"close:{lease.id}")  # None: the witness signed no Close
            return CloseOverdue() if close is None or close.state is IntentState.DEAD else None
        if lease.stop_requested in GIVEN_UP:
            return StopOverdue() if self._over_by_itself(lease, now_ms, grace_ms) else None
        if self._late(lease, now_ms):
            return StartLimitPassed()
        heard_ms = max(lease.seen_ms, self.since_ms)
        if lease.ready_ms is None:  # until the ready reading, the node's heartbeats count, too
            heard_ms = max(heard_ms, node.seen_ms)
        return ProviderSilent() if now_ms - heard_ms > grace_ms else None

    def _late(self, lease: LeaseRow, now_ms: int) -> bool:
        if lease.ready_ms is not None or lease.start_s is None:
            return False
        limit_ms = (lease.start_s + lease.start_limit_seconds) * 1000
        if self.since_ms > lease.start_s * 1000:  # the ready reading may still be on its way
            limit_ms = max(limit_ms, self.since_ms + silence_ms(lease.interval_ms))
        return now_ms > limit_ms

    def _over_by_itself(self, lease: LeaseRow, now_ms: int, grace_ms: int) -> bool:
        """A Stop was asked for and none came: the job is given up, or its lease ran out."""
        asked_ms = max(lease.stop_requested_ms or now_ms, self.since_ms)
        ended = lease.end_s is not None and now_ms > lease.end_s * 1000
        return lease.stop_signature is None and (ended or now_ms - asked_ms > grace_ms)

    def give_up_retries(self) -> int:
        """End jobs that wait for their bid to open again, past the time they may; returns how many.
        Without the witness no lease follows another."""
        now_ms = self.clock()
        with self.database.read() as store:
            waiting = [j.id for j in store.jobs.waiting_for_a_lease() if _is_past(j, now_ms)]
        for job_id in waiting:
            with self.database.write() as store:
                lease = store.leases.get(store.jobs.need(job_id).requeue_after, lock=True)
                job = store.jobs.need(job_id, lock=True)
                if _is_past(job, now_ms):
                    self.lives.take(store, job, lease, RetryWindowPassed())
        return len(waiting)

    def rest_silent(self) -> int:
        """Rest the asks of nodes that fell silent; returns how many nodes. A machine
        that was killed cannot leave, and whoever is matched to it waits for nothing."""
        with self.database.read() as store:
            unseen = store.nodes.active_unseen_since(self.clock() - silence_ms(0))
            silent = [node.id for node in unseen if self._is_silent(node)]
        rested = 0
        for node_id in silent:
            with self.database.write() as store:
                node = store.nodes.get(node_id, lock=True)
                if node is not None and node.state == NodeState.ACTIVE and self._is_silent(node):
                    rest(store, node, self.clock())
                    rested += 1
        return rested

    def _is_silent(self, node: NodeRow) -> bool:
        heard_ms = max(node.seen_ms, self.since_ms)
        return self.clock() - heard_ms > silence_ms(node.interval_ms)

    def forget(self) -> int:
        """Delete stored replies older than 48 h; returns how many."""
        with self.database.write() as store:
            return store.replies.forget(self.clock() - REPLIES_KEPT_MS)


def _is_past(job: JobRow, now_ms: int) -> bool:
    return job.retry_until_ms is not None and job.retry_until_ms < now_ms
