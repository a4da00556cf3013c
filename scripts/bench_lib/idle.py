"""What an unused market costs: CPU of `coulomb dev up` over a quiet minute, Anvil not counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from scripts.bench_lib.rows import Row

SETTLING_S = 5.0
MEASURED_S = 60.0
START_S_MAX = 120.0


def rows() -> list[Row]:
    """One row: percent of one core."""
    with tempfile.TemporaryDirectory(prefix="coulomb-idle-") as folder:
        return [Row("idle_cpu_percent", round(_measured(Path(folder)), 2), "%", gate=2.0, aim=1.0)]


def _measured(folder: Path) -> float:
    names = ("CONFIG", "STATE", "DATA", "CACHE")
    homes = {f"XDG_{name}_HOME": str(folder / name.lower()) for name in names}
    command = [sys.executable, "-m", "marketplace.cli.main", "-y", "dev", "up"]
    ports = ["--port", "0", "--rpc-port", "0", "--folder", str(folder / "market")]
    market = subprocess.Popen(
        [*command, *ports],
        env={**os.environ, **homes},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        _await_ready(market)
        time.sleep(SETTLING_S)
        process = psutil.Process(market.pid)  # without its children: Anvil is one
        before, began = _cpu_seconds(process), time.monotonic()
        time.sleep(MEASURED_S)
        return 100 * (_cpu_seconds(process) - before) / (time.monotonic() - began)
    finally:
        market.send_signal(signal.SIGTERM)
        market.wait(30)


def _await_ready(market: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_S_MAX
    for line in market.stdout or ():
        if line.startswith("export ETH_RPC_URL"):
            return
        if time.monotonic() > deadline:
            break
    raise RuntimeError("`coulomb dev up` did not become ready")


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
