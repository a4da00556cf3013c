"""Reliability of providers, from how their leases ended; matching goes by it."""

from __future__ import annotations

from dataclasses import replace

from marketplace.domain.life import BROKEN_REASONS
from marketplace.domain.reliability import reliability_milli
from marketplace.services.orderlog import log_node
from marketplace.services.ports import Store
from marketplace.services.records import LeaseRecord

LEASES_COUNTED = 200  # the latest ones: who has become better, or worse, shows it
BROKEN_STOPS = ("lost", "start_limit")


def is_broken(lease: LeaseRecord) -> bool:
    """Whether an ended lease failed by its provider's fault."""
    report = lease.outcome or {}
    admitted = report.get("outcome") == "failed" and report.get("reason") in BROKEN_REASONS
    return lease.stop_requested in BROKEN_STOPS or admitted


def judge(store: Store, provider: str, now_ms: int) -> None:
    """Count a provider's latest leases again; its nodes change where the share does."""
    ended = store.leases.find(
        provider=provider, state=("stopped", "closed"), newest=True, limit=LEASES_COUNTED
    )
    milli = reliability_milli(len(ended), sum(is_broken(lease) for lease in ended))
    for found in store.nodes.find(provider=provider):
        node = store.nodes.get(found.id, lock=True)
        if node is not None and node.reliability_milli != milli:
            node = replace(node, reliability_milli=milli)
            store.nodes.put(node)
            log_node(store, node, now_ms)
