"""Every service of the market over one set of ports, and what the market tells of itself."""

from dataclasses import dataclass

from marketplace.db.store import Database
from marketplace.domain.tier import TierRegistry
from marketplace.services.accounts import Accounts
from marketplace.services.asks import Asks
from marketplace.services.attestations import Attestations
from marketplace.services.blobs import Blobs
from marketplace.services.bookkeeper import Bookkeeper
from marketplace.services.cancels import Cancels
from marketplace.services.ends import Ends
from marketplace.services.jobs import Jobs
from marketplace.services.leases import Leases
from marketplace.services.lives import Lives
from marketplace.services.matcher import Matcher
from marketplace.services.nodes import Nodes
from marketplace.services.ports import BlobFiles, Clock, EscrowReads, Market
from marketplace.services.projection import Projection
from marketplace.services.quotes import Quotes
from marketplace.services.receipts import Receipts
from marketplace.services.settling import Settling
from marketplace.services.streams import Streams
from marketplace.services.topups import TopUps
from marketplace.services.watchdog import Watchdog
from marketplace.services.witnessing import Witnessing
from settlement.chain.calls import EscrowCalls


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
    receipts = Receipts(market, clock)
    lives = Lives(market, clock, tiers, receipts.write)
    attestations = Attestations(market, clock, lives)
    books = Bookkeeper(market, database)
    quotes = Quotes(market, clock, tiers, books)
    leases = Leases(market)
    asks, jobs = Asks(market, clock, reads), Jobs(market, clock, reads, quotes, lives)
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
        ends=Ends(market, clock, attestations, calls, lives),
        blobs=Blobs(files, clock),
        streams=Streams(clock),
        receipts=receipts,
        matcher=Matcher(market, clock, database, books, quotes, calls, lives),
        projection=Projection(market, clock, lives),
        settling=Settling(market, clock, database, calls, lives),
        watchdog=Watchdog(market, clock, database, lives, since_ms=clock()),
        topups=TopUps(market, calls),
        cancels=Cancels(market, clock, reads, calls, asks, jobs),
    )
