"""Starting the agent: what `coulomb provider start` runs."""

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, TypeVar

import structlog
from structlog.processors import JSONRenderer, TimeStamper, add_log_level

from marketplace.agent.config import AgentConfig, read_secret
from marketplace.agent.errors import KEY_FIX, SERVER_AWAY, AgentConfigError, AgentError
from marketplace.agent.inventory import LISTED, Inventory, Nvml, take_inventory
from marketplace.agent.journal import JOURNAL, AgentJournal, locked
from marketplace.agent.node import ThisNode
from marketplace.agent.runtime.process import ProcessRuntime
from marketplace.agent.supervisor import Supervisor
from marketplace.sdk import NO_RETRIES, Coulomb
from marketplace.sdk.errors import AuthError, CoulombError
from settlement.eip712 import Domain, checksum
from settlement.errors import KeystoreError
from settlement.keystore import load
from settlement.leases import Shows
from settlement.signing import Signer

T = TypeVar("T")
log = structlog.get_logger("coulomb.agent")
EXIT_OK, EXIT_ERROR, EXIT_AUTH = 0, 1, 3
_AGAIN_S = 2.0
_TIMEOUT_S = 10.0


def run_agent(config: AgentConfig, stop: threading.Event | None = None) -> int:
    """Run a node until SIGTERM, SIGINT or `stop`; return the process's exit code."""
    if not structlog.is_configured():
        structlog.configure(
            [add_log_level, TimeStamper(fmt="iso", utc=True), JSONRenderer()],
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    try:
        _run(config, stop)
    except AuthError as error:
        log.error("not_authorized", detail=str(error), fix=KEY_FIX)
        return EXIT_AUTH
    except (AgentError, CoulombError) as error:
        log.error(getattr(error, "code", "refused"), detail=str(error))
        return EXIT_ERROR
    return EXIT_OK


def load_meter(config: AgentConfig) -> Signer:
    """Unlock the meter key. Raises AgentConfigError."""
    try:
        return load(config.meter_keystore, read_secret(config.meter_password_file))
    except KeystoreError as error:
        raise AgentConfigError(str(error)) from error


def _run(config: AgentConfig, stop: threading.Event) -> None:
    with ExitStack() as stack:
        stack.enter_context(locked(config.state_dir))
        key = read_secret(config.api_key_file)
        # It retries nothing: the agent's own loops come again.
        api = stack.enter_context(
            Coulomb(config.api_url, key, retry=NO_RETRIES, timeout=_TIMEOUT_S)
        )
        journal = stack.enter_context(closing(AgentJournal(config.state_dir / JOURNAL)))
        node = _registered(config, api, journal, stop)
        if node is not None:
            supervisor = Supervisor(node)
            supervisor.recover()
            log.info("node_ready", node=node.node_id, meter=node.signer.address)
            supervisor.run(stop)
            log.info("agent_stopped")


def _registered(
    config: AgentConfig, api: Coulomb, journal: AgentJournal, stop: threading.Event
) -> ThisNode | None:
    """This node, listed on the market; None if `stop` comes before the server answers."""
    signer = load_meter(config)
    runtime = ProcessRuntime.open(
        config.allow_unsandboxed, config.python_prefix, config.private_folders
    )
    real = config.node.sells_gpus and not config.node.simulated
    nvml = Nvml.open() if real else None
    inventory = take_inventory(config.node, config.state_dir, signer.address, nvml)
    if not runtime.sandboxed:
        log.warning("no_sandbox", detail="jobs run bare on this machine and may do anything to it")
    if inventory.simulated:
        log.warning("simulated_gpus", gpus=[gpu.uuid for gpu in inventory.gpus])
    market = _patiently(api.market.config, stop)
    document = _document(config, inventory, runtime.name, signer.address)
    listed = _patiently(lambda: api.nodes.register(document), stop)
    if market is None or listed is None:
        return None
    domain = Domain(market.chain_id, market.contracts.escrow)
    if config.escrow and checksum(config.escrow) != checksum(domain.verifying_contract):
        raise AgentConfigError(
            f"the market's escrow is {domain.verifying_contract}, the agent's file says "
            f"{config.escrow}: if the market has moved, run `coulomb provider init --replace`"
        )
    interval_ms = config.interval_ms or market.interval_ms
    return ThisNode(
        api=api, journal=journal, runtime=runtime, signer=signer, inventory=inventory, nvml=nvml,
        domain=domain, node_id=listed.id, shows=_own_node(config, domain, market.confirmations),
        jobs_folder=config.state_dir / "jobs", shared=config.node.shared, pids_max=config.pids_max,
        stop_grace_s=config.stop_grace_ms / 1000,
        poll_s=min(config.poll_ms, max(100, interval_ms // 3)) / 1000,
    )  # fmt: skip


def _own_node(config: AgentConfig, domain: Domain, confirmations: int) -> Shows | None:
    """Shows leases on a node of the chain that the provider chose, if there is one."""
    if config.rpc_url is None:
        log.warning("trusts_market", detail="leases are not looked up on chain: set rpc_url")
        return None
    from settlement.chain.contracts import OwnNode

    return OwnNode(config.rpc_url, domain, confirmations).lease


def _patiently(ask: Callable[[], T], stop: threading.Event) -> T | None:
    """Ask the server until it answers; None if `stop` comes first. Raises AuthError."""
    while not stop.is_set():
        try:
            return ask()
        except AuthError:
            raise
        except SERVER_AWAY as error:
            log.warning("server_away", error=str(error))
            stop.wait(_AGAIN_S)
    return None


def _document(
    config: AgentConfig, inventory: Inventory, runtime: str, meter: str
) -> dict[str, Any]:
    """The body of `POST /v1/nodes`."""
    listed = {name: getattr(config.node, name) for name in LISTED}
    sizes = {name: getattr(inventory, name) for name in ("cpu_milli", "memory_mib", "storage_mib")}
    gpus = [gpu.to_json() for gpu in inventory.gpus]
    told = {"runtime": runtime, "interval_ms": config.interval_ms, "meter": meter}
    return {**listed, **sizes, "gpus": gpus, **told}
