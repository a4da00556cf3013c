"""What `coulomb provider doctor` looks at: each finding has a code, evidence and the fix."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marketplace.agent.config import AgentConfig
    from marketplace.cli.context import Cli
    from marketplace.sdk import Coulomb
    from marketplace.wire.market import MarketConfig

DISK_FREE_BYTES_MIN = 10 * 1024**3
CLOCK_SKEW_SECONDS_MAX = 2.0
BLOCK_AGE_SECONDS_MAX = 120
GAS_WEI_MIN = 10**15


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """One thing looked at. `status`: ok, warn or fail."""

    code: str
    status: str
    evidence: str
    fix: str = ""


def ok(code: str, evidence: str) -> DoctorFinding:
    """All is well."""
    return DoctorFinding(code, "ok", evidence)


def examine(cli: Cli, config_path: Path) -> list[DoctorFinding]:
    """Look at everything; a check that cannot be made is a finding, too."""
    from marketplace.agent.config import load_config
    from marketplace.agent.errors import AgentConfigError

    config: AgentConfig | None = None
    try:
        config = load_config(config_path)
        found = [ok("config", str(config_path))]
    except AgentConfigError as error:
        fix = "correct the file" if config_path.exists() else "run `coulomb provider init`"
        found = [DoctorFinding("config", "fail", str(error), fix)]
    found += [_gpu(config), _sandbox(config), _disk(config)]
    if config is not None:
        found += [_meter(config)]
    return [*found, *_market(cli, config)]


def _gpu(config: AgentConfig | None) -> DoctorFinding:
    from marketplace.agent.errors import InventoryError
    from marketplace.agent.inventory import Nvml

    simulated = config.node.simulated if config else None
    if simulated:
        return DoctorFinding(
            "gpu", "warn", f"simulated: {simulated}", "remove `simulated` to sell GPUs"
        )
    nvml = Nvml.open()
    fix = "install NVIDIA's driver, or set `simulated` to try things out"
    if nvml is None:
        return DoctorFinding("gpu", "fail", "no NVIDIA driver answers", fix)
    try:
        gpus = nvml.gpus()
    except InventoryError as error:
        return DoctorFinding("gpu", "fail", str(error), fix)
    shown = ", ".join(f"{gpu.model} {gpu.memory_mib} MiB" for gpu in gpus)
    return (
        ok("gpu", shown) if gpus else DoctorFinding("gpu", "fail", "the driver shows no GPU", fix)
    )


def _sandbox(config: AgentConfig | None) -> DoctorFinding:
    from marketplace.agent.errors import RuntimeUnavailable
    from marketplace.agent.runtime.process import ProcessRuntime

    allowed = config.allow_unsandboxed if config else False
    fix = "install bubblewrap (Debian: apt-get install bubblewrap) and allow user namespaces"
    try:
        runtime = ProcessRuntime.open(
            allowed,
            config.python_prefix if config else None,
            config.private_folders if config else (),
        )
    except RuntimeUnavailable as error:
        return DoctorFinding("sandbox", "fail", str(error), fix)
    if not runtime.sandboxed:
        return DoctorFinding("sandbox", "warn", "jobs run bare: they may do anything here", fix)
    return ok("sandbox", "jobs run in bubblewrap")


def _disk(config: AgentConfig | None) -> DoctorFinding:
    from marketplace.sdk.profile import state_dir

    folder = config.state_dir if config else state_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    evidence = f"{free // 1024**3} GiB free at {folder}"
    if free < DISK_FREE_BYTES_MIN:
        return DoctorFinding("disk", "warn", evidence, "free space, or point state_dir elsewhere")
    return ok("disk", evidence)


def _meter(config: AgentConfig) -> DoctorFinding:
    from marketplace.agent.errors import AgentConfigError
    from marketplace.agent.main import load_meter

    try:
        return ok("meter_key", load_meter(config).address)
    except AgentConfigError as error:
        fix = "check the files; to begin anew, remove them and the agent's file, and run init"
        return DoctorFinding("meter_key", "fail", str(error), fix)


def _market(cli: Cli, config: AgentConfig | None) -> list[DoctorFinding]:
    """Checks that need the server; without it one finding says so."""
    from marketplace.sdk.errors import ConfigError, CoulombError

    try:
        with cli.client() as client:
            began = time.time()
            market = client.market.config()
            now = (began + time.time()) / 2
            checks: list[Callable[[], DoctorFinding]] = [
                lambda: _clock(market, now),
                lambda: _api_key(config),
                lambda: _chain(client, market),
                lambda: _gas(cli, client),
            ]
            return [ok("server", cli.profile().api_url), *(check() for check in checks)]
    except ConfigError as error:
        return [DoctorFinding("server", "fail", str(error), error.fix)]
    except CoulombError as error:
        fix = "check api_url, or COULOMB_API_URL, and the network"
        return [DoctorFinding("server", "fail", str(error), fix)]


def _clock(market: MarketConfig, now: float) -> DoctorFinding:
    skew = now - market.server_time.timestamp()
    evidence = f"{skew:+.1f} s from the server"
    if abs(skew) > CLOCK_SKEW_SECONDS_MAX:
        return DoctorFinding("clock", "fail", evidence, "switch on NTP (timedatectl set-ntp true)")
    return ok("clock", evidence)


def _api_key(config: AgentConfig | None) -> DoctorFinding:
    from marketplace.agent.config import read_secret
    from marketplace.agent.errors import AgentConfigError
    from marketplace.sdk import NO_RETRIES, Coulomb
    from marketplace.sdk.errors import CoulombError

    if config is None:
        fix = "see the finding `config`"
        return DoctorFinding("api_key", "fail", "no agent configuration names one", fix)
    fix = new_key_fix(config)
    try:
        key = read_secret(config.api_key_file)
        with Coulomb(config.api_url, key, retry=NO_RETRIES) as agent:
            count = len(list(agent.nodes.list()))
    except (AgentConfigError, CoulombError) as error:
        return DoctorFinding("api_key", "fail", str(error), fix)
    return ok("api_key", f"valid; {count} nodes are listed")


def new_key_fix(config: AgentConfig) -> str:
    """How an agent gets another API key: the old one ran out, or its market began anew."""
    name = f"node-{config.node.name}"[:32]
    to = shlex.quote(str(config.api_key_file))
    return f"`coulomb key create {name} --scope provider --to {to}`, then restart the agent"


def _chain(client: Coulomb, market: MarketConfig) -> DoctorFinding:
    from settlement.chain.client import ChainClient
    from settlement.errors import SettlementError

    url = client.session.rpc_url or market.rpc_url or ""
    fix = "set ETH_RPC_URL to a node of this chain"
    try:
        chain = ChainClient(url, market.chain_id, timeout_seconds=5.0)
        chain.check()
        age = int(time.time()) - chain.timestamp()
    except SettlementError as error:
        return DoctorFinding("rpc", "fail", str(error), fix)
    evidence = f"chain {market.chain_id} at {url}, newest block {age} s old"
    return (
        ok("rpc", evidence)
        if age < BLOCK_AGE_SECONDS_MAX
        else DoctorFinding("rpc", "warn", evidence, "the node lags behind; use another")
    )


def _gas(cli: Cli, client: Coulomb) -> DoctorFinding:
    from marketplace.domain.pricing import from_scaled
    from marketplace.sdk.errors import CoulombError
    from settlement.errors import SettlementError

    fix = "send some ETH to the account; without it earnings cannot be withdrawn"
    try:
        wei = client.wallet.funds(cli.account()).wei
    except (CoulombError, SettlementError) as error:
        return DoctorFinding("gas", "warn", str(error), fix)
    evidence = f"{from_scaled(wei, 18)} ETH at {cli.account()}"
    return (
        ok("gas", evidence) if wei >= GAS_WEI_MIN else DoctorFinding("gas", "warn", evidence, fix)
    )
