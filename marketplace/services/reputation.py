"""Reliability of providers, from how their leases ended; matching goes by it."""

from marketplace.db.store import Store
from marketplace.domain.reliability import reliability_milli
from marketplace.services.liferows import lease_life
from marketplace.services.orderlog import log_node

LEASES_COUNTED = 200  # the latest ones: who has become better, or worse, shows it


def judge(store: Store, provider: str, now_ms: int) -> None:
    """Count a provider's latest leases again; its nodes change where the share does."""
    ended = store.leases.last_ended(provider, LEASES_COUNTED)
    milli = reliability_milli(len(ended), sum(lease_life(lease).is_broken for lease in ended))
    for node in store.nodes.lock_of(provider):
        if node.reliability_milli != milli:
            node.reliability_milli = milli
            log_node(store, node, now_ms)
