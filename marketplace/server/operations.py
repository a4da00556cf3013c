"""What operators run besides the roles: migrate, settle now, look at the outbox, reconcile."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from marketplace.db.chain_events import SqlEventStore
from marketplace.db.outbox import SqlOutbox
from marketplace.db.store import Database
from marketplace.db.upgrade import upgrade as migrate
from marketplace.domain.life import JOB_ON_NODE
from marketplace.server.roles import build
from marketplace.server.settings import Settings
from settlement.chain.client import ChainClient
from settlement.chain.deploy import check_deployment, load_deployment
from settlement.ports import Intent
from settlement.reconcile import Reconciliation, reconcile, stuck_intents

__all__ = ["compare", "migrate", "recent_intents", "settle_now"]
STUCK_AFTER = timedelta(minutes=10)
INTENTS_COMPARED = 10_000


def settle_now(settings: Settings) -> tuple[int, int]:
    """Put unpaid vouchers and due refunds into the outbox; returns how many of each."""
    runtime = build(settings.but(roles=("api",)))
    try:
        return runtime.catalog.settling.settle(), runtime.catalog.settling.refund()
    finally:
        runtime.stop()


def recent_intents(settings: Settings, limit: int) -> Sequence[Intent]:
    """The newest intents of the outbox, newest first."""
    database = Database(settings.database_url)
    try:
        return SqlOutbox(database).recent(limit)
    finally:
        database.close()


def compare(settings: Settings) -> Reconciliation:
    """Chain against database against running jobs, and intents that wait for too long."""
    client = ChainClient(settings.rpc_url, settings.chain_id)
    deployment = load_deployment(settings.deployments, settings.chain_id)
    check_deployment(client, deployment)
    escrow, token = deployment.open(client)
    database = Database(settings.database_url)
    try:
        with database.read() as store:
            active = store.leases.active()
        running = [lease.lease_bytes for lease, job, _ in active if job.state in JOB_ON_NODE]
        seen = reconcile(SqlEventStore(database), escrow, token, running, token.decimals())
        intents = SqlOutbox(database).unfinished(INTENTS_COMPARED)
        stuck = stuck_intents(intents, datetime.now(UTC), STUCK_AFTER)
        return replace(seen, findings=(*seen.findings, *stuck))
    finally:
        database.close()
