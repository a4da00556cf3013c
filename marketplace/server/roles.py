"""Puts the market together and runs its roles: the only package that sees every layer.

`build` opens database and chain and wires the services, `app_of` is the HTTP application over them,
`run_roles` runs them as a process.
"""

import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
import uvicorn

from marketplace.api.app import MarketApi, create_api
from marketplace.data import load_tiers
from marketplace.db.blob_files import BlobFolder
from marketplace.db.chain_events import SqlEventStore
from marketplace.db.changes import CHAIN, ORDERS, OUTBOX, UNTOLD_S, Listener
from marketplace.db.outbox import SqlOutbox
from marketplace.db.store import Database
from marketplace.db.upgrade import upgrade
from marketplace.domain.pricing import CURRENCY, DECIMALS, to_scaled
from marketplace.sdk.errors import ConfigError
from marketplace.sdk.keyring import read_password
from marketplace.server.loops import Loop
from marketplace.server.settings import Settings
from marketplace.services.catalog import Catalog
from marketplace.services.ports import Market
from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow, Token
from settlement.chain.deploy import check_deployment, load_deployment
from settlement.eip712 import ZERO_ADDRESS
from settlement.errors import KeystoreError
from settlement.indexer import Indexer
from settlement.keystore import load
from settlement.ports import BlockRef, Intent
from settlement.relayer import Relayer, RelayerSettings
from settlement.signing import TransactionSigner
from settlement.vetting import NOTHING_TO_FREE, NOTHING_TO_SETTLE

WATCH_S = 2.0
SNAPSHOTS_S = 30.0
FORGET_S = 600.0
log = structlog.get_logger("market")


@dataclass(slots=True)
class MarketProcess:
    """One process of the market: services, database and the loops of its roles."""

    settings: Settings
    database: Database
    catalog: Catalog
    listener: Listener
    loops: dict[str, Loop] = field(default_factory=dict)

    def add(self, loop: Loop, *topics: str) -> None:
        """Run a loop, woken by what is committed under these topics."""
        self.loops[loop.name] = loop
        self.database.changes.subscribe(loop.wake, *topics)

    def start(self) -> None:
        """Start the loops of the roles."""
        self.listener.start()
        for loop in self.loops.values():
            loop.start()

    @property
    def broken(self) -> bool:
        """Whether a fault ended a loop."""
        return any(loop.broken and not loop.is_alive() for loop in self.loops.values())

    def stop(self) -> None:
        """End every loop, then give the database back."""
        for loop in self.loops.values():
            loop.stop()
        self.listener.stop()
        self.database.close()


def _relayer_signer(settings: Settings) -> TransactionSigner | None:
    """The relayer's key from its keystore; None if none is named. Raises ConfigError."""
    keystore, file = settings.relayer_keystore, settings.relayer_password
    if keystore is None:
        if "relayer" not in settings.roles:
            return None
        raise ConfigError(
            "COULOMB_RELAYER_KEYSTORE is not set, and the role relayer needs it",
            fix="set it to the relayer's keystore; `coulomb wallet new relayer` makes one",
        )
    if file is None:
        raise ConfigError(
            "COULOMB_RELAYER_PASSWORD is not set, and COULOMB_RELAYER_KEYSTORE is",
            fix="set it to a file that holds the keystore's password",
        )
    try:
        return load(keystore.expanduser(), read_password(str(file)))
    except (KeystoreError, ConfigError) as error:
        fix = "correct COULOMB_RELAYER_KEYSTORE, or the file that COULOMB_RELAYER_PASSWORD names"
        raise ConfigError(f"the relayer's key is locked: {error}", fix) from None


def _market(settings: Settings, escrow: Escrow, token: Token, opener: str) -> Market:
    """What the deployment and the operator fix for everyone."""
    fixed, decimals = escrow.config(), token.decimals()
    if decimals != DECIMALS:
        raise ConfigError(f"the escrow's token has {decimals} decimals; a market needs {DECIMALS}")
    fee = settings.relay_fee
    return Market(
        domain=escrow.domain(),
        token=fixed.token,
        currency=CURRENCY,
        decimals=decimals,
        fee_bps=fixed.fee_bps,
        settle_window_s=fixed.settle_window,
        opener=opener,
        interval_ms=settings.interval_ms,
        confirmations=settings.confirmations,
        settle_every_s=settings.settle_every_s,
        operators=settings.operators,
        rpc_url=settings.public_rpc_url,
        relay_fee=None if fee is None else to_scaled(fee, decimals),
        early_stops_max=settings.early_stops_max,
    )


def build(settings: Settings, signer: TransactionSigner | None = None) -> MarketProcess:
    """Open database and chain, check the deployment, put the roles together; starts nothing.

    `signer` stands in for the keystore of the settings. Raises ConfigError, ChainError,
    DeploymentError, Unavailable.
    """
    signer = signer or _relayer_signer(settings)
    opener = settings.opener or (signer.address if signer else ZERO_ADDRESS)
    if opener == ZERO_ADDRESS and "matcher" in settings.roles:
        raise _no_opener("matcher")  # it would match no bid
    client = ChainClient(settings.rpc_url, settings.chain_id)
    deployment = load_deployment(settings.deployments, settings.chain_id)
    check_deployment(client, deployment)
    upgrade(settings.database_url)
    database = Database(settings.database_url)
    escrow, token = deployment.open(client)
    market = _market(settings, escrow, token, opener)
    files = BlobFolder(settings.blobs)
    catalog = Catalog(market, _now_ms, load_tiers(), database, escrow, files)
    process = MarketProcess(
        settings, database, catalog, Listener(settings.database_url, database.changes)
    )
    if "matcher" in settings.roles:
        _add_matcher(process)
    if "indexer" in settings.roles:
        events = SqlEventStore(database, catalog.projection)
        indexer = Indexer(events, escrow, deployment.block, settings.confirmations)
        process.add(Loop("indexer", lambda: _read_on(indexer), UNTOLD_S), CHAIN)
        # Every stop frees capacity, which adds a row to the order log: ORDERS wakes this loop.
        process.add(Loop("stops", catalog.stops.judge, WATCH_S), ORDERS)
    if "relayer" in settings.roles and signer is not None:
        warn_without_gas(client, signer.address)
        relaying = RelayerSettings(confirmations=settings.confirmations)
        _add_relayer(process, Relayer(SqlOutbox(database), escrow, signer, relaying, _alarm))
    if {"indexer", "relayer"} & set(settings.roles):
        _add_head(process, client)
    return process


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _alarm(intent: Intent | None, reason: str) -> None:
    key = intent.key if intent else None
    if NOTHING_TO_SETTLE in reason:  # every voucher in it had been paid by a later one
        log.info("settlement was not needed", intent=key)
    elif NOTHING_TO_FREE in reason:  # its parties ended it while this waited
        log.info("lease was freed already", intent=key)
    else:
        log.error("intent needs attention", intent=key, reason=reason)


def warn_without_gas(client: ChainClient, address: str) -> None:
    """Log once that the relayer cannot pay for any transaction."""
    if not client.balance(address):
        log.warning("the relayer has no ETH for gas: send it some", address=address)


def _add_matcher(process: MarketProcess) -> None:
    catalog = process.catalog
    matcher, watchdog = catalog.matcher, catalog.watchdog

    def watch() -> None:
        catalog.settling.failed_opens()
        watchdog.tick()
        watchdog.rest_silent()
        watchdog.give_up_retries()

    process.add(Loop("matcher", lambda: matcher.tick() > 0, UNTOLD_S, due=matcher.due_s), ORDERS)
    process.add(Loop("watchdog", watch, WATCH_S))
    process.add(Loop("snapshots", matcher.books.save, SNAPSHOTS_S))
    process.add(Loop("forgetting", watchdog.forget, FORGET_S))


def _add_relayer(process: MarketProcess, relayer: Relayer) -> None:
    settling = process.catalog.settling
    loop = Loop("relayer", relayer.tick, UNTOLD_S)

    def new_block() -> None:
        if relayer.busy:
            loop.wake()

    def settle() -> None:
        settling.settle()
        settling.free_ended()
        settling.refund()

    process.add(loop, OUTBOX)
    process.database.changes.subscribe(new_block, CHAIN)
    process.add(Loop("settling", settle, process.settings.settle_every_s))


def _add_head(process: MarketProcess, client: ChainClient) -> None:
    """Look at the chain's head; when it has moved, tell whoever waits for the chain."""
    seen: BlockRef | None = None

    def look() -> None:
        nonlocal seen
        if (head := client.head()) != seen:
            seen = head
            process.database.changes.tell([CHAIN])

    process.add(Loop("head", look, process.settings.poll_s))


def _read_on(indexer: Indexer) -> bool:
    """Run one tick; return whether blocks are left for the next one."""
    read = indexer.tick()
    return read.blocks > 0 and read.behind > 0


def _no_opener(role: str) -> ConfigError:
    return ConfigError(
        f"COULOMB_OPENER is not set, and the role {role} needs it",
        fix="set it to the relayer's address, which bids name",
    )


def app_of(process: MarketProcess) -> MarketApi:
    """The HTTP application over a process; it starts and stops the process's loops with itself.

    Raises ConfigError if no opener is known: bids are not taken that anyone may open.
    """
    if process.catalog.market.opener == ZERO_ADDRESS:
        raise _no_opener("api")
    app = create_api(process.catalog, process.database, process.settings.limits)

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        process.start()
        try:
            yield
        finally:
            process.stop()

    app.router.lifespan_context = lifespan
    return app


def server_config(app: MarketApi, proxies: str) -> uvicorn.Config:
    """How the API is served: only a proxy that the operator named speaks for an address."""
    return uvicorn.Config(
        app,
        log_level="warning",
        timeout_graceful_shutdown=3,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
    )


def run_roles(
    settings: Settings,
    signer: TransactionSigner | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> int:
    """Run the roles until SIGTERM or SIGINT; returns the exit code.

    `ready` is called with the API's URL once it listens, or with "" if the role api is not among
    the roles.
    """
    process = build(settings, signer)
    if "api" not in settings.roles:
        return _run_loops(process, ready)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.create_server((settings.host, settings.port), family=family)
    host = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
    server = uvicorn.Server(server_config(app_of(process), settings.proxies))

    def end(*_: object) -> None:
        server.should_exit = True

    for loop in process.loops.values():
        loop.on_fault = end
    # uvicorn raises the signal it was stopped by once more; the default would end the process
    # before its callers could stop what they had started.
    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    ready(f"http://{host}:{listener.getsockname()[1]}")
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return int(process.broken)


def _run_loops(process: MarketProcess, ready: Callable[[str], None]) -> int:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    process.start()
    ready("")
    while not stop.wait(1.0) and not process.broken:
        continue
    broken = process.broken
    process.stop()
    return int(broken)
