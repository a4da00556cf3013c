"""Every service of the market over one set of ports, and what the market tells of itself."""

from marketplace.db.store import Database
from marketplace.domain.tier import TierRegistry
from marketplace.services.accounts import Accounts
from marketplace.services.attestations import Attestations
from marketplace.services.blobs import Blobs
from marketplace.services.bookkeeper import Bookkeeper
from marketplace.services.cancels import Cancels
from marketplace.services.ends import Ends
from marketplace.services.jobs import Jobs
from marketplace.services.leases import Leases
from marketplace.services.lives import Lives
from marketplace.services.matcher import Matcher
from marketplace.services.offers import Asks, Nodes
from marketplace.services.ports import BlobFiles, Clock, EscrowReads, Market
from marketplace.services.quotes import Quotes
from marketplace.services.receipts import Receipts
from marketplace.services.relays import Relays
from marketplace.services.settling import Projection, Settling
from marketplace.services.stops import Stops
from marketplace.services.watchdog import Watchdog
from settlement.chain.calls import EscrowCalls


class Catalog:
    """All services over one set of ports; nothing is opened or started."""

    def __init__(
        self,
        market: Market,
        clock: Clock,
        tiers: TierRegistry,
        database: Database,
        reads: EscrowReads,
        files: BlobFiles,
    ) -> None:
        calls = EscrowCalls(market.domain.verifying_contract)
        books = Bookkeeper(market, database)
        self.market, self.clock, self.tiers = market, clock, tiers
        self.receipts = Receipts(market, clock)
        self.lives = lives = Lives(market, clock, tiers, self.receipts.write)
        self.accounts = Accounts(market, clock, reads)
        self.nodes = Nodes(market, clock, tiers)
        self.asks = Asks(market, clock, reads)
        self.quotes = Quotes(market, clock, tiers, books)
        self.stops = Stops(market, clock, database, reads, lives.blame)
        self.jobs = Jobs(market, clock, reads, self.quotes, lives, calls, database, self.stops)
        self.leases = Leases(market, clock)
        self.attestations = Attestations(market, clock, lives)
        self.ends = Ends(market, clock, self.attestations, calls, lives)
        self.blobs = Blobs(files, clock)
        self.matcher = Matcher(market, clock, database, books, self.quotes, calls, lives)
        self.projection = Projection(market, clock, lives)
        self.settling = Settling(market, clock, database, calls, lives)
        self.watchdog = Watchdog(market, clock, database, lives, since_ms=clock())
        self.relays = Relays(market, clock, reads, calls, database)
        self.cancels = Cancels(market, clock, reads, calls, self.asks, self.jobs)
