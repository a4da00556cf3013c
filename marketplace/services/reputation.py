"""Reliability of providers, from how their leases ended; matching goes by it."""

from __future__ import annotations

from marketplace.db.store import Store
from marketplace.db.tables import LeaseRow
from marketplace.domain.reliability import reliability_milli
from marketplace.services.orderlog import log_node

LEASES_COUNTED = 200  # the latest ones: who has become better, or worse, shows it
BROKEN_STOPS = ("lost", "start_limit")
# What an agent admits; of a job's own faults, and of its buyer's, it is not to blame.
BROKEN_REASONS = (
    "agent_error", "agent_restarted", "agent_stopped", "no_capacity", "node_error",
    "sandbox_failed", "start_limit",
)  # fmt: skip


def is_broken(lease: LeaseRow) -> bool:
    """Whether an ended lease failed by its provider's fault."""
    report = lease.outcome or {}
    admitted = report.get("outcome") == "failed" and report.get("reason") in BROKEN_REASONS
    return lease.stop_requested in BROKEN_STOPS or admitted


def judge(store: Store, provider: str, now_ms: int) -> None:
    """Count a provider's latest leases again; its nodes change where the share does."""
    ended = store.leases.last_ended(provider, LEASES_COUNTED)
    milli = reliability_milli(len(ended), sum(is_broken(lease) for lease in ended))
    for node in store.nodes.lock_of(provider):
        if node.reliability_milli != milli:
            node.reliability_milli = milli
            log_node(store, node, now_ms)
