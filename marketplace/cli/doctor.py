"""What `coulomb provider doctor` looks at: each finding has a code, evidence and the fix."""

import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from marketplace.agent.config import AgentConfig, load_config, read_secret
from marketplace.agent.errors import AgentConfigError, InventoryError, RuntimeUnavailable
from marketplace.agent.inventory import Nvml
from marketplace.agent.main import load_meter
from marketplace.agent.runtime.process import ProcessRuntime
from marketplace.cli.context import Cli
from marketplace.cli.output import counted
from marketplace.cli.provider import node_problem
from marketplace.domain.pricing import from_scaled
from marketplace.sdk import NO_RETRIES, Coulomb
from marketplace.sdk.errors import ConfigError, CoulombError
from marketplace.sdk.profile import state_dir
from marketplace.wire.market import MarketConfig
from settlement.chain.client import ChainClient
from settlement.errors import SettlementError, host_of

DISK_FREE_BYTES_MIN = 10 * 1024**3
CLOCK_SKEW_SECONDS_MAX = 2.0
BLOCK_AGE_SECONDS_MAX = 120
GAS_WEI_MIN = 10**15


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """One thing looked at. `status`: ok, warn or fail; all but ok come with a fix."""

    code: str
    status: str
    evidence: str
    fix: str = ""


def examine(cli: Cli, config_path: Path) -> list[DoctorFinding]:
    """Look at everything; a check that cannot be made is a finding, too."""
    config: AgentConfig | None = None
    try:
        config = load_config(config_path)
        found = [_ok("config", str(config_path))]
    except AgentConfigError as error:
        fix = "correct the file" if config_path.exists() else "run `coulomb provider init`"
        found = [_fail("config", error, fix)]
    found += [_gpu(config), _sandbox(config), _disk(config)]
    if config is not None:
        found.append(_meter(config))
    return [*found, *_market(cli, config)]


def _ok(code: str, evidence: str) -> DoctorFinding:
    return DoctorFinding(code, "ok", evidence)


def _warn(code: str, evidence: object, fix: str) -> DoctorFinding:
    return DoctorFinding(code, "warn", str(evidence), fix)


def _fail(code: str, evidence: object, fix: str) -> DoctorFinding:
    return DoctorFinding(code, "fail", str(evidence), fix)


def _gpu(config: AgentConfig | None) -> DoctorFinding:
    if config and config.node.simulated:
        evidence = f"simulated: {config.node.simulated}"
        return _warn("gpu", evidence, "remove `simulated` to sell GPUs")
    if config and not config.node.sells_gpus:
        return _ok("gpu", f"none needed: the tier {config.node.tier} sells no GPUs")
    fix = "install NVIDIA's driver, or set `simulated` to try things out"
    nvml = Nvml.open()
    if nvml is None:
        return _fail("gpu", "no NVIDIA driver answers", fix)
    try:
        gpus = nvml.gpus()
    except InventoryError as error:
        return _fail("gpu", error, fix)
    shown = ", ".join(f"{gpu.model} {gpu.memory_mib} MiB" for gpu in gpus)
    return _ok("gpu", shown) if gpus else _fail("gpu", "the driver shows no GPU", fix)


def _sandbox(config: AgentConfig | None) -> DoctorFinding:
    fix = "install bubblewrap (Debian: apt-get install bubblewrap) and allow user namespaces"
    try:
        runtime = ProcessRuntime.open(
            config.allow_unsandboxed if config else False,
            config.python_prefix if config else None,
            config.private_folders if config else (),
        )
    except RuntimeUnavailable as error:
        return _fail("sandbox", error, fix)
    if not runtime.sandboxed:
        return _warn("sandbox", "jobs run bare: they may do anything here", fix)
    return _ok("sandbox", "jobs run in bubblewrap")


def _disk(config: AgentConfig | None) -> DoctorFinding:
    folder = config.state_dir if config else state_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    evidence = f"{free // 1024**3} GiB free at {folder}"
    if free < DISK_FREE_BYTES_MIN:
        return _warn("disk", evidence, "free space, or point state_dir elsewhere")
    return _ok("disk", evidence)


def _meter(config: AgentConfig) -> DoctorFinding:
    try:
        return _ok("meter_key", load_meter(config).address)
    except AgentConfigError as error:
        fix = "check the files; or remove them and run `coulomb provider init --replace`"
        return _fail("meter_key", error, fix)


def _trust(config: AgentConfig | None, market: MarketConfig | None = None) -> list[DoctorFinding]:
    """Whose word the agent takes for a lease and its paid time; the chain is asked if it is known
    which one it is."""
    if config is None:
        return []
    fix = "set rpc_url in the agent's file to a node of the chain that you trust"
    if config.rpc_url is None:
        evidence = "the market's word counts for each lease and its paid time"
        return [_warn("chain_checks", evidence, fix)]
    try:
        if market is not None:
            ChainClient(config.rpc_url, market.chain_id, timeout_seconds=5.0).check()
    except SettlementError as error:
        return [_fail("chain_checks", error, fix)]
    return [_ok("chain_checks", f"leases are looked up at {host_of(config.rpc_url)}")]


def _market(cli: Cli, config: AgentConfig | None) -> list[DoctorFinding]:
    """Checks that need the server; without it one finding says so."""
    try:
        with cli.client() as client:
            began = time.time()
            market = client.market.config()
            skew = (began + time.time()) / 2 - market.server_time.timestamp()
            found = [_ok("server", host_of(cli.profile().api_url)), _clock(skew), _api_key(config)]
            found += [*_node(config, client), *_trust(config, market)]
            return [*found, _chain(client, market), _gas(cli, client)]
    except CoulombError as error:
        fix = "check api_url, or COULOMB_API_URL, and the network"
        away = _fail("server", error, error.fix if isinstance(error, ConfigError) else fix)
        return [away, *_node(config), *_trust(config)]


def _node(config: AgentConfig | None, client: Coulomb | None = None) -> list[DoctorFinding]:
    """Whether the market takes the node as it is set up; the server's tiers count, if it is up."""
    if config is None:
        return []
    tiers = [tier.name for tier in client.market.tiers()] if client else ()
    if problem := node_problem(config.node, tiers):
        return [_fail("node", problem, "correct the agent's file; see `coulomb tier list`")]
    return [_ok("node", f"{config.node.name}, {config.node.tier} in {config.node.region}")]


def _clock(skew: float) -> DoctorFinding:
    evidence = f"{skew:+.1f} s from the server"
    if abs(skew) > CLOCK_SKEW_SECONDS_MAX:
        return _fail("clock", evidence, "switch on NTP (timedatectl set-ntp true)")
    return _ok("clock", evidence)


def _api_key(config: AgentConfig | None) -> DoctorFinding:
    if config is None:
        return _fail("api_key", "no agent configuration names one", "see the finding `config`")
    name = f"node-{config.node.name}"[:32]
    to = shlex.quote(str(config.api_key_file))
    try:
        key = read_secret(config.api_key_file)
        with Coulomb(config.api_url, key, retry=NO_RETRIES) as agent:
            count = len(list(agent.nodes.list()))
    except (AgentConfigError, CoulombError) as error:
        # The old key ran out, or its market began anew.
        fix = f"`coulomb --yes key create {name} --scope provider --to {to}`; restart the agent"
        return _fail("api_key", error, fix)
    return _ok("api_key", f"valid; {counted(count, 'node')} listed")


def _chain(client: Coulomb, market: MarketConfig) -> DoctorFinding:
    url = client.session.rpc_url or market.rpc_url or ""
    try:
        chain = ChainClient(url, market.chain_id, timeout_seconds=5.0)
        chain.check()
        age = int(time.time()) - chain.timestamp()
    except SettlementError as error:
        return _fail("rpc", error, "set ETH_RPC_URL to a node of this chain")
    evidence = f"chain {market.chain_id} at {host_of(url)}, newest block {age} s old"
    if age >= BLOCK_AGE_SECONDS_MAX:
        return _warn("rpc", evidence, "the node lags behind; use another")
    return _ok("rpc", evidence)


def _gas(cli: Cli, client: Coulomb) -> DoctorFinding:
    fix = "send some ETH to the account; without it earnings cannot be withdrawn"
    try:
        wei = client.wallet.funds(cli.account()).wei
    except (CoulombError, SettlementError) as error:
        return _warn("gas", error, fix)
    evidence = f"{from_scaled(wei, 18)} ETH at {cli.account()}"
    return _ok("gas", evidence) if wei >= GAS_WEI_MIN else _warn("gas", evidence, fix)
