"""Wires the market together: the only place that sees every layer.

`build(settings)` opens database and chain and puts the roles together, `app_of(runtime)` is the
HTTP application over them, `run_roles(settings)` runs them as a process. Roles: api, matcher,
relayer, indexer.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Protocol

import structlog
import uvicorn

from marketplace.api.app import MarketApi, create_api
from marketplace.api.limits import Limits
from marketplace.data import load_tiers
from marketplace.db.blob_files import BlobFolder
from marketplace.db.chain_events import SqlEventStore
from marketplace.db.outbox import SqlOutbox
from marketplace.db.store import Database
from marketplace.db.upgrade import upgrade
from marketplace.domain.pricing import CURRENCY
from marketplace.errors import Unavailable
from marketplace.services.catalog import Catalog, catalog_of
from marketplace.services.ports import Market
from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow, Token
from settlement.chain.deploy import Deployment, check_deployment, load_deployment
from settlement.chain.wallets import accepts
from settlement.eip712 import ZERO_ADDRESS
from settlement.errors import ChainError, OutboxConflict
from settlement.indexer import Indexer
from settlement.keystore import load
from settlement.leases import OrderState
from settlement.ports import Intent
from settlement.reconcile import Reconciliation, reconcile, stuck_intents
from settlement.relayer import Relayer, RelayerSettings
from settlement.signing import TransactionSigner
from settlement.vetting import NOTHING_TO_SETTLE, Vetting

ROLES = ("api", "matcher", "relayer", "indexer")
STUCK_AFTER = timedelta(minutes=10)
INTENTS_COMPARED = 10_000
log = structlog.get_logger("market")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator chooses. Relative paths are relative to the working folder.

    `deployments` is the folder with <chainId>.json. `relayer_password` is a file. Without a relayer
    key the role relayer cannot run. `poll_s`: how often the chain is looked at. `host`, `port`:
    where the API listens; port 0 picks one. `opener`: who alone opens the bids of this market; the
    relayer unless said, so an API that runs without the relayer's key has to be told. `proxies`:
    addresses, separated by commas, whose X-Forwarded-For says where requests come from.
    """

    database_url: str
    rpc_url: str
    chain_id: int
    deployments: Path = Path("deployments")
    blobs: Path = Path("blobs")
    relayer_keystore: Path | None = None
    relayer_password: Path | None = None
    roles: tuple[str, ...] = ROLES
    host: str = "127.0.0.1"
    port: int = 8420
    interval_ms: int = 10_000
    settle_every_s: int = 300
    confirmations: int = 12
    poll_s: float = 1.0
    opener: str | None = None
    operators: tuple[str, ...] = ()
    proxies: str = ""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        unknown = set(self.roles) - set(ROLES)
        if unknown or not self.roles:
            raise ValueError(f"roles are {', '.join(ROLES)}; not {', '.join(sorted(unknown))}")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Settings from COULOMB_… variables and ETH_RPC_URL. Raises ValueError, KeyError."""
        env = os.environ if env is None else env
        keystore = env.get("COULOMB_RELAYER_KEYSTORE")
        password = env.get("COULOMB_RELAYER_PASSWORD")
        return cls(
            database_url=env.get("COULOMB_DATABASE_URL", "sqlite:///coulomb.db"),
            rpc_url=env["ETH_RPC_URL"],
            chain_id=int(env["COULOMB_CHAIN_ID"]),
            deployments=Path(env.get("COULOMB_DEPLOYMENTS", "deployments")),
            blobs=Path(env.get("COULOMB_BLOBS", "blobs")),
            relayer_keystore=Path(keystore) if keystore else None,
            relayer_password=Path(password) if password else None,
            roles=tuple(env.get("COULOMB_ROLES", ",".join(ROLES)).split(",")),
            host=env.get("COULOMB_HOST", "127.0.0.1"),
            port=int(env.get("COULOMB_PORT", "8420")),
            interval_ms=int(env.get("COULOMB_INTERVAL_MS", "10000")),
            settle_every_s=int(env.get("COULOMB_SETTLE_EVERY_S", "300")),
            confirmations=int(env.get("COULOMB_CONFIRMATIONS", "12")),
            poll_s=float(env.get("COULOMB_POLL_S", "1")),
            opener=env.get("COULOMB_OPENER"),
            operators=tuple(a for a in env.get("COULOMB_OPERATORS", "").split(",") if a),
            proxies=env.get("COULOMB_PROXIES", ""),
        )


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


class Loop:
    """One thread that ticks until told to stop; faults of chain or database slow it down."""

    def __init__(self, name: str, tick: Callable[[], object], period_s: float) -> None:
        self.name = name
        self.on_fault: Callable[[], None] = lambda: None
        self._tick = tick
        self._period_s = period_s
        self._wake = threading.Event()
        self._stopping = False
        self.broken = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin ticking."""
        self._thread.start()

    def wake(self) -> None:
        """Tick now rather than at the end of the period."""
        self._wake.set()

    def is_alive(self) -> bool:
        """Whether the loop still ticks."""
        return self._thread.is_alive()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish the tick at hand and end."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        """Tick until stopped. A fault nobody foresaw ends the loop, and the process is told."""
        self.broken = True
        try:
            self._loop()
            self.broken = False
        finally:
            if self.broken:
                self.on_fault()

    def _loop(self) -> None:
        failures = 0
        while not self._stopping:
            self._wake.clear()
            try:
                self._tick()
                failures = 0
            except (ChainError, Unavailable, OutboxConflict) as error:
                failures += 1
                log.warning("tick failed", role=self.name, error=str(error), failures=failures)
            self._wake.wait(min(self._period_s * 2 ** min(failures, 20), max(self._period_s, 15.0)))


@dataclass(slots=True)
class Runtime:
    """One process of the market: services, database and the loops of its roles."""

    settings: Settings
    database: Database
    catalog: Catalog
    loops: dict[str, Loop]

    def start(self) -> None:
        """Start the loops of the roles."""
        for loop in self.loops.values():
            loop.start()

    def wake(self) -> None:
        """Something was written that the matcher or the relayer may want to see."""
        for name in ("matcher", "relayer"):
            if name in self.loops:
                self.loops[name].wake()

    @property
    def broken(self) -> list[str]:
        """Loops that ended by a fault."""
        return [name for name, loop in self.loops.items() if loop.broken and not loop.is_alive()]

    def stop(self) -> None:
        """End every loop, then give the database back."""
        for loop in self.loops.values():
            loop.stop()
        self.database.close()


def now_ms() -> int:
    """Unix time in ms."""
    return time.time_ns() // 1_000_000


class ChainReads:
    """The reads that services need, from the escrow. Implements `ports.EscrowReads`."""

    def __init__(self, escrow: Escrow) -> None:
        self._escrow = escrow

    def balance_of(self, account: str) -> int:
        """Free atoms of an account in the escrow."""
        return self._escrow.balance_of(account)

    def order_state(self, account: str, salt: int) -> OrderState:
        """Whether a bid of this account and salt has opened a lease; whether it is void."""
        return self._escrow.order_state(account, salt)

    def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        """Whether the contract at an account says the signature is its own (ERC-1271)."""
        return accepts(self._escrow.client, account, digest, signature)


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
) -> Runtime:
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
    catalog = catalog_of(
        market_of(settings, client, deployment, opener),
        now_ms,
        load_tiers(),
        database,
        ChainReads(escrow),
        BlobFolder(settings.blobs),
    )
    loops: dict[str, Loop] = {}
    if "matcher" in settings.roles:
        loops["matcher"] = Loop(
            "matcher", lambda: _match(catalog, loops), min(0.05, settings.poll_s)
        )
        loops["watchdog"] = Loop("watchdog", lambda: _watch(catalog), 1.0)
    if "indexer" in settings.roles:
        events = SqlEventStore(database, catalog.projection)
        indexer = Indexer(events, client, escrow, deployment.block, settings.confirmations)
        loops["indexer"] = Loop("indexer", indexer.tick, settings.poll_s)
    if "relayer" in settings.roles and signer is not None:
        relayer = Relayer(
            SqlOutbox(database),
            client,
            signer,
            Vetting(escrow, signer.address),
            RelayerSettings(confirmations=settings.confirmations),
            alarm,
        )
        loops["relayer"] = Loop("relayer", relayer.tick, settings.poll_s)
        loops["settling"] = Loop("settling", lambda: _settle(catalog), settings.settle_every_s)
    return Runtime(settings, database, catalog, loops)


def _match(catalog: Catalog, loops: Mapping[str, Loop]) -> None:
    if catalog.matcher.tick() and "relayer" in loops:
        loops["relayer"].wake()


def _watch(catalog: Catalog) -> None:
    catalog.settling.failed_opens()
    catalog.watchdog.tick()
    catalog.watchdog.rest_silent()
    catalog.watchdog.revive()
    catalog.watchdog.forget()


def _settle(catalog: Catalog) -> None:
    catalog.settling.settle()
    catalog.settling.refund()


def app_of(runtime: Runtime) -> MarketApi:
    """The HTTP application over a runtime; it starts and stops the runtime's loops with itself.

    Raises ValueError where no opener is known: bids are not taken that anyone may open.
    """
    if runtime.catalog.market.opener == ZERO_ADDRESS:
        raise ValueError("the role api needs COULOMB_OPENER, the address of the relayer")
    app = create_api(runtime.catalog, runtime.database, runtime.settings.limits, runtime.wake)

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


def _run_loops(runtime: Runtime, ready: Callable[[str], None]) -> int:
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


def migrate(database_url: str) -> None:
    """Bring a database's schema to this version; safe to call again."""
    upgrade(database_url)


def settle_now(settings: Settings) -> tuple[int, int]:
    """Put unpaid vouchers and due refunds into the outbox; returns how many of each."""
    runtime = build(replace(settings, roles=("api",)))
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
        running = [
            lease.lease_bytes for lease, job, _ in active if job.state in ("starting", "running")
        ]
        seen = reconcile(SqlEventStore(database), escrow, token, running, token.decimals())
        intents = SqlOutbox(database).unfinished(INTENTS_COMPARED)
        stuck = stuck_intents(intents, datetime.now(UTC), STUCK_AFTER)
        return replace(seen, findings=(*seen.findings, *stuck))
    finally:
        database.close()
