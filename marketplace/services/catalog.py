"""Every service of the market over one set of ports, and what the market tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

from marketplace.db.store import Database, Store
from marketplace.db.tables import ReceiptRow
from marketplace.domain.tier import TierRegistry
from marketplace.errors import NotFound
from marketplace.services.accounts import Accounts
from marketplace.services.asks import Asks
from marketplace.services.attestations import Attestations
from marketplace.services.blobs import Blobs
from marketplace.services.bookkeeper import Bookkeeper
from marketplace.services.cancels import Cancels
from marketplace.services.common import Principal
from marketplace.services.conclude import Conclusions
from marketplace.services.ends import Ends
from marketplace.services.jobs import Jobs
from marketplace.services.leases import Leases
from marketplace.services.matcher import Matcher
from marketplace.services.nodes import Nodes
from marketplace.services.ports import BlobFiles, Clock, EscrowReads, Market
from marketplace.services.projection import Projection
from marketplace.services.quotes import Quotes
from marketplace.services.settling import Settling
from marketplace.services.streams import Streams
from marketplace.services.topups import TopUps
from marketplace.services.watchdog import Watchdog
from marketplace.services.witnessing import Witnessing
from settlement.chain.calls import EscrowCalls


@dataclass(frozen=True, slots=True)
class Receipts:
    """Receipts of closed leases."""

    market: Market

    def of_job(self, store: Store, caller: Principal, job_id: str) -> list[ReceiptRow]:
        """Receipts of a job's leases, oldest first: for its buyer and its providers."""
        rows = store.receipts.of_job(job_id)
        mine = [r for r in rows if caller.is_operator or caller.account in (r.buyer, r.provider)]
        if not mine:
            raise NotFound("no receipt yet: it is written when the lease is closed on chain")
        return mine


@dataclass(frozen=True, slots=True)
class Catalog:
    """All services, made by `catalog_of`."""

    market: Market
    clock: Clock
    tiers: TierRegistry
    accounts: Accounts
    nodes: Nodes
    asks: Asks
    quotes: Quotes
    jobs: Jobs
    leases: Leases
    attestations: Attestations
    witnessing: Witnessing
    ends: Ends
    blobs: Blobs
    streams: Streams
    receipts: Receipts
    matcher: Matcher
    projection: Projection
    settling: Settling
    watchdog: Watchdog
    topups: TopUps
    cancels: Cancels


def catalog_of(
    market: Market,
    clock: Clock,
    tiers: TierRegistry,
    database: Database,
    reads: EscrowReads,
    files: BlobFiles,
) -> Catalog:
    """Put the services together; nothing is opened or started."""
    calls = EscrowCalls(market.domain.verifying_contract)
    attestations = Attestations(market, clock)
    conclusions = Conclusions(market, clock, tiers)
    books = Bookkeeper(market, database)
    quotes = Quotes(market, clock, tiers, books)
    leases = Leases(market)
    asks, jobs = Asks(market, clock, reads), Jobs(market, clock, reads, quotes)
    return Catalog(
        market=market,
        clock=clock,
        tiers=tiers,
        accounts=Accounts(market, clock, reads),
        nodes=Nodes(market, clock, tiers),
        asks=asks,
        quotes=quotes,
        jobs=jobs,
        leases=leases,
        attestations=attestations,
        witnessing=Witnessing(market),
        ends=Ends(market, clock, attestations, calls),
        blobs=Blobs(files, clock),
        streams=Streams(clock),
        receipts=Receipts(market),
        matcher=Matcher(market, clock, database, books, quotes, calls),
        projection=Projection(market, clock, conclusions),
        settling=Settling(market, clock, database, calls, conclusions),
        watchdog=Watchdog(market, clock, database, conclusions, since_ms=clock()),
        topups=TopUps(market, calls),
        cancels=Cancels(market, clock, reads, calls, asks, jobs),
    )
