"""Starting the agent: what `coulomb provider start` runs."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeVar

import structlog

from marketplace.agent.api import AgentApi
from marketplace.agent.config import AgentConfig, read_secret
from marketplace.agent.errors import AgentConfigError, AgentError, ApiDown
from marketplace.agent.inventory import Nvml, take_inventory
from marketplace.agent.journal import AgentJournal
from marketplace.agent.node import ThisNode
from marketplace.agent.runtime.process import ProcessRuntime
from marketplace.agent.state import StateFolder, journal_of
from marketplace.agent.supervisor import Supervisor, node_document
from marketplace.sdk.errors import AuthError, CoulombError
from settlement.eip712 import Domain
from settlement.errors import KeystoreError
from settlement.keystore import load
from settlement.signing import Signer

T = TypeVar("T")
log = structlog.get_logger("coulomb.agent")
EXIT_OK, EXIT_ERROR, EXIT_AUTH = 0, 1, 3
_AGAIN_S = 2.0


def run_agent(config: AgentConfig, stop: threading.Event | None = None) -> int:
    """Run a node until SIGTERM or SIGINT, or until `stop` is set; the process's exit code."""
    _configure_logging()
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    try:
        return _run(config, stop)
    except AuthError as error:
        log.error("not_authorized", detail=str(error))
        return EXIT_AUTH
    except (AgentError, CoulombError) as error:
        log.error(getattr(error, "code", "refused"), detail=str(error))
        return EXIT_ERROR


def load_meter(config: AgentConfig) -> Signer:
    """Unlock the meter key. Raises AgentConfigError."""
    try:
        return load(config.meter_keystore, read_secret(config.meter_password_file))
    except KeystoreError as error:
        raise AgentConfigError(str(error)) from error


def _run(config: AgentConfig, stop: threading.Event) -> int:
    with ExitStack() as stack:
        state = stack.enter_context(closing(StateFolder(config.state_dir)))
        api = stack.enter_context(
            closing(AgentApi(config.api_url, read_secret(config.api_key_file)))
        )
        journal = stack.enter_context(closing(AgentJournal(journal_of(config.state_dir))))
        node = _registered(config, state.jobs, api, journal, stop)
        if node is not None:
            supervisor = Supervisor(node)
            supervisor.recover()
            log.info("node_ready", node=node.node_id, meter=node.signer.address)
            supervisor.run(stop)
            log.info("agent_stopped")
    return EXIT_OK


def _registered(
    config: AgentConfig, jobs: Path, api: AgentApi, journal: AgentJournal, stop: threading.Event
) -> ThisNode | None:
    """This node, listed on the market; None if `stop` comes before the server answers."""
    signer = load_meter(config)
    runtime = ProcessRuntime.open(
        config.allow_unsandboxed, config.python_prefix, config.private_folders
    )
    nvml = None if config.node.simulated else Nvml.open()
    inventory = take_inventory(config.node, config.state_dir, signer.address, nvml)
    if not runtime.sandboxed:
        log.warning("no_sandbox", detail="jobs run bare on this machine and may do anything to it")
    if inventory.simulated:
        log.warning("simulated_gpus", gpus=[gpu.uuid for gpu in inventory.gpus])
    market = _patiently(api.market, stop)
    document = node_document(config.node, inventory, runtime.name, config.interval_ms)
    node_id = _patiently(lambda: api.register(document), stop)
    if market is None or node_id is None:
        return None
    interval_ms = config.interval_ms or market.interval_ms
    return ThisNode(
        api=api,
        journal=journal,
        runtime=runtime,
        signer=signer,
        domain=Domain(market.chain_id, market.contracts.escrow),
        inventory=inventory,
        jobs_folder=jobs,
        node_id=node_id,
        shared=config.node.shared,
        nvml=nvml,
        stop_grace_s=config.stop_grace_ms / 1000,
        pids_max=config.pids_max,
        poll_s=min(config.poll_ms, max(100, interval_ms // 3)) / 1000,
    )


def _patiently(ask: Callable[[], T], stop: threading.Event) -> T | None:
    """Ask the server until it answers; None if `stop` comes first."""
    while not stop.is_set():
        try:
            return ask()
        except ApiDown as error:
            log.warning("server_away", error=str(error))
            stop.wait(_AGAIN_S)
    return None


def _configure_logging() -> None:
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
