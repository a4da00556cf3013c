"""Puts the market together and runs its roles: the only package that sees every layer.

`build(settings)` opens database and chain and wires the services, `app_of(runtime)` is the HTTP
application over them, `run_roles(settings)` runs them as a process. Roles: api, matcher, relayer,
indexer.
"""

import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol

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
from marketplace.domain.pricing import CURRENCY
from marketplace.server.loops import Loop
from marketplace.server.settings import Settings
from marketplace.services.catalog import Catalog
from marketplace.services.ports import Market
from settlement.chain.client import ChainClient
from settlement.chain.contracts import Token
from settlement.chain.deploy import Deployment, check_deployment, load_deployment
from settlement.eip712 import ZERO_ADDRESS
from settlement.indexer import Indexer
from settlement.keystore import load
from settlement.ports import BlockRef, Intent
from settlement.relayer import Relayer, RelayerSettings
from settlement.signing import TransactionSigner
from settlement.vetting import NOTHING_TO_SETTLE

WATCH_S = 2.0
SNAPSHOTS_S = 30.0
FORGET_S = 600.0
log = structlog.get_logger("market")


class Alarm(Protocol):
    """Who is told of what a person has to look at."""

    def __call__(self, intent: Intent | None, reason: str) -> None:
        """One thing that went wrong for good."""
        ...


def _log_alarm(intent: Intent | None, reason: str) -> None:
    key = intent.key if intent else None
    if NOTHING_TO_SETTLE in reason:  # every voucher in it had been paid by a later one
        log.info("settlement was not needed", intent=key)
        return
    log.error("intent needs attention", intent=key, reason=reason)


@dataclass(slots=True)
class MarketProcess:
    """One process of the market: services, database and the loops of its roles."""

    settings: Settings
    database: Database
    catalog: Catalog
    listener: Listener
    loops: dict[str, Loop] = field(default_factory=dict)

    def start(self) -> None:
        """Start the loops of the roles."""
        self.listener.start()
        for loop in self.loops.values():
            loop.start()

    @property
    def broken(self) -> list[str]:
        """Loops that ended by a fault."""
        return [name for name, loop in self.loops.items() if loop.broken and not loop.is_alive()]

    def stop(self) -> None:
        """End every loop, then give the database back."""
        for loop in self.loops.values():
            loop.stop()
        self.listener.stop()
        self.database.close()


def now_ms() -> int:
    """Unix time in ms."""
    return time.time_ns() // 1_000_000


def relayer_signer(settings: Settings) -> TransactionSigner | None:
    """The relayer's key from its keystore; None where none is named. Raises KeystoreError."""
    if settings.relayer_keystore is None:
        return None
    password = ""
    if settings.relayer_password is not None:
        password = settings.relayer_password.read_text(encoding="utf-8").rstrip("\n")
    return load(settings.relayer_keystore, password)


def market_of(
    settings: Settings, client: ChainClient, deployment: Deployment, opener: str
) -> Market:
    """What the deployment and the operator fix for everyone."""
    escrow, token = deployment.open(client)
    fixed = escrow.config()
    return Market(
        domain=escrow.domain(),
        token=Token(client, fixed.token).address,
        currency=CURRENCY,
        decimals=token.decimals(),
        fee_bps=fixed.fee_bps,
        settle_window_s=fixed.settle_window,
        opener=opener,
        interval_ms=settings.interval_ms,
        confirmations=settings.confirmations,
        settle_every_s=settings.settle_every_s,
        operators=settings.operators,
        rpc_url=settings.rpc_url,
    )


def build(
    settings: Settings,
    signer: TransactionSigner | None = None,
    client: ChainClient | None = None,
    deployment: Deployment | None = None,
    alarm: Alarm = _log_alarm,
) -> MarketProcess:
    """Open database and chain, check the deployment, put the roles together; starts nothing.

    `signer`, `client` and `deployment` stand in for what the settings name. Raises ChainError,
    DeploymentError, KeystoreError, ValueError.
    """
    signer = signer or relayer_signer(settings)
    client = client or ChainClient(settings.rpc_url, settings.chain_id)
    deployment = deployment or load_deployment(settings.deployments, settings.chain_id)
    check_deployment(client, deployment)
    if "relayer" in settings.roles and signer is None:
        raise ValueError("the role relayer needs a keystore")
    opener = settings.opener or (signer.address if signer else ZERO_ADDRESS)
    upgrade(settings.database_url)
    database = Database(settings.database_url)
    escrow, _ = deployment.open(client)
    market = market_of(settings, client, deployment, opener)
    files = BlobFolder(settings.blobs)
    catalog = Catalog(market, now_ms, load_tiers(), database, escrow, files)
    listener = Listener(settings.database_url, database.changes)
    runtime = MarketProcess(settings, database, catalog, listener)
    if "matcher" in settings.roles:
        _add_matcher(runtime)
    if "indexer" in settings.roles:
        events = SqlEventStore(database, catalog.projection)
        indexer = Indexer(events, escrow, deployment.block, settings.confirmations)
        _add(runtime, Loop("indexer", lambda: _read_on(indexer), UNTOLD_S), CHAIN)
    if "relayer" in settings.roles and signer is not None:
        relaying = RelayerSettings(confirmations=settings.confirmations)
        relayer = Relayer(SqlOutbox(database), escrow, signer, relaying, alarm)
        _add_relayer(runtime, relayer)
        settle = Loop("settling", lambda: _settle(catalog), settings.settle_every_s)
        _add(runtime, settle)
    if {"indexer", "relayer"} & set(settings.roles):
        head = _HeadWatch(client, database)
        _add(runtime, Loop("head", head.tick, settings.poll_s))
    return runtime


def _add(runtime: MarketProcess, loop: Loop, *topics: str) -> None:
    runtime.loops[loop.name] = loop
    runtime.database.changes.subscribe(loop.wake, *topics)


def _add_relayer(runtime: MarketProcess, relayer: Relayer) -> None:
    loop = Loop("relayer", relayer.tick, UNTOLD_S)
    _add(runtime, loop, OUTBOX)

    def new_block() -> None:
        if relayer.busy:
            loop.wake()

    runtime.database.changes.subscribe(new_block, CHAIN)


def _add_matcher(runtime: MarketProcess) -> None:
    catalog = runtime.catalog
    take = catalog.matcher.tick
    matcher = Loop("matcher", lambda: take() > 0, UNTOLD_S, due=catalog.matcher.due_s)
    _add(runtime, matcher, ORDERS)
    _add(runtime, Loop("watchdog", lambda: _watch(catalog), WATCH_S))
    _add(runtime, Loop("snapshots", catalog.matcher.books.save, SNAPSHOTS_S))
    _add(runtime, Loop("forgetting", catalog.watchdog.forget, FORGET_S))


class _HeadWatch:
    """Looks at the chain's head and tells whoever waits for the chain when it has moved."""

    def __init__(self, client: ChainClient, database: Database) -> None:
        self._client = client
        self._database = database
        self._seen: BlockRef | None = None

    def tick(self) -> None:
        """One look."""
        head = self._client.head()
        if head != self._seen:
            self._seen = head
            self._database.changes.tell([CHAIN])


def _read_on(indexer: Indexer) -> bool:
    """One tick; whether blocks are left that the next could read."""
    read = indexer.tick()
    return read.blocks > 0 and read.behind > 0


def _watch(catalog: Catalog) -> None:
    catalog.settling.failed_opens()
    catalog.watchdog.tick()
    catalog.watchdog.rest_silent()
    catalog.watchdog.revive()


def _settle(catalog: Catalog) -> None:
    catalog.settling.settle()
    catalog.settling.refund()


def app_of(runtime: MarketProcess) -> MarketApi:
    """The HTTP application over a runtime; it starts and stops the runtime's loops with itself.

    Raises ValueError where no opener is known: bids are not taken that anyone may open.
    """
    if runtime.catalog.market.opener == ZERO_ADDRESS:
        raise ValueError("the role api needs COULOMB_OPENER, the address of the relayer")
    app = create_api(runtime.catalog, runtime.database, runtime.settings.limits)

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        runtime.start()
        try:
            yield
        finally:
            runtime.stop()

    app.router.lifespan_context = lifespan
    return app


def server_config(app: MarketApi, proxies: str) -> uvicorn.Config:
    """How the API is served: nobody but a proxy that the operator named speaks for an address."""
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

    `ready` is called with the API's URL once it listens (with "" where the role api is not among
    them).
    """
    runtime = build(settings, signer)
    if "api" not in settings.roles:
        return _run_loops(runtime, ready)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.create_server((settings.host, settings.port), family=family)
    host = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
    config = server_config(app_of(runtime), settings.proxies)
    server = uvicorn.Server(config)

    def end() -> None:
        server.should_exit = True

    for loop in runtime.loops.values():
        loop.on_fault = end
    # uvicorn raises the signal it was stopped by once more; the default would end the process
    # before its callers could stop what they had started.
    handlers = {n: signal.signal(n, lambda *_: end()) for n in (signal.SIGINT, signal.SIGTERM)}
    ready(f"http://{host}:{listener.getsockname()[1]}")
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 1 if runtime.broken else 0


def _run_loops(runtime: MarketProcess, ready: Callable[[str], None]) -> int:
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    runtime.start()
    ready("")
    while not stop.wait(1.0) and not runtime.broken:
        continue
    broken = runtime.broken
    runtime.stop()
    return 1 if broken else 0
