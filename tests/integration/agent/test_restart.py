"""Agents as processes of their own, killed at any moment: what was signed stays the only truth."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog

from marketplace.agent.config import AgentConfig, NodeConfig, save_config
from marketplace.agent.journal import AgentJournal, running_pid
from marketplace.agent.main import run_agent
from settlement import keystore
from settlement.attestation import Close
from settlement.signing import LocalSigner
from tests.fakes_agent import FakeMarket
from tests.sandboxes import PATIENCE_S, processes_with, until

ROOT = Path(__file__).resolve().parents[3]
MAIN = """
import sys
from pathlib import Path
from typing import Any
from marketplace.agent.config import load_config
from marketplace.agent.main import run_agent
sys.exit(run_agent(load_config(Path(sys.argv[1]))))
"""
API_KEY = "coul_canary_api_key_5f1d"
PASSWORD = "canary password 77"
KEY = bytes.fromhex("c0ffee" * 10 + "1234")


class AgentProcess:
    """A node's configuration and keys, and the agent that runs on them from time to time."""

    process: subprocess.Popen[bytes] | None = None  # the agent that was started last

    def __init__(self, folder: Path, url: str, **changes: Any) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.output = folder / "agent.log"
        keystore.create(folder / "meter.json", PASSWORD, LocalSigner(KEY), "pbkdf2", 1)
        for name, text in (("key", API_KEY), ("password", PASSWORD)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
        node = NodeConfig(1, "box", "eu", "H100-80GB-SXM", "2xH100", memory_mib=4096, shared=True)
        files = (folder / "meter.json", folder / "password", self.state)
        changes = {"poll_ms": 100, "stop_grace_ms": 500, **changes}
        self.config = AgentConfig(url, folder / "key", node, *files, **changes)
        save_config(self.config, folder / "agent.yaml")

    def start(self, path: str | None = None) -> None:
        self.process = self.spawn(path)

    def spawn(self, path: str | None = None) -> subprocess.Popen[bytes]:
        """One more agent on this node's configuration."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COULOMB_API_KEY": API_KEY}
        if path is not None:
            environment["PATH"] = path
        command = [sys.executable, "-c", MAIN, str(self.folder / "agent.yaml")]
        with self.output.open("ab") as output:
            return subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def lose_journal(self) -> None:
        for file in self.state.glob("journal.db*"):
            file.unlink()


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket(LocalSigner(KEY), interval_ms=100)


@pytest.fixture
def agent(
    market: FakeMarket, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[AgentProcess]:
    with market.serve() as url:
        agent = AgentProcess(tmp_path, url, **getattr(request, "param", {}))
        yield agent
        agent.kill()


def sleeper(market: FakeMarket, marker: str, **changes: str) -> str:
    command = ["sh", "-c", f"while :; do sleep 0.05; done # {marker}"]
    return market.open_lease(command, gpu_milli=500, **changes)


def assert_one_value_each(market: FakeMarket) -> None:
    assert market.signed
    assert {key: len(values) for key, values in market.signed.items() if len(values) != 1} == {}


def assert_ended_at_the_last_signed(market: FakeMarket, lease_id: str) -> None:
    report = market.finished[lease_id]
    assert (report["outcome"], report["reason"]) == ("failed", "agent_restarted")
    close = Close.from_message(report["close"]["message"])
    taken = market.taken(lease_id)
    assert close.ms == taken[-1].ms
    assert [a.sequence for a in taken] == list(range(len(taken)))


def test_an_agent_killed_again_and_again_never_signs_two_values(
    market: FakeMarket, agent: AgentProcess
) -> None:
    chance = random.Random(4)  # noqa: S311 - moments to kill at
    leases = []
    for number in range(3):
        marker = f"restart-{uuid4()}"
        lease_id = sleeper(market, marker, lease_id=f"lease_{os.getpid()}_{number}")
        leases.append(lease_id)
        agent.start()
        until(lambda one=lease_id: len(market.taken(one)) >= 2, what="attestations")
        time.sleep(chance.random() * 0.3)
        agent.kill()
        until(lambda m=marker: processes_with(m) == [], what="the job outlives its agent")
    agent.start()
    until(lambda: set(market.finished) == set(leases), what="reports")
    until(lambda: list((agent.state / "jobs").iterdir()) == [], what="folders left")
    assert agent.terminate() == 0
    assert_one_value_each(market)
    journal = AgentJournal(agent.state / "journal.db")
    groups = [journal.lease(lease_id).process["cgroup"] for lease_id in leases]  # type: ignore[union-attr, index]
    journal.close()
    assert [group for group in groups if group is not None and Path(group).exists()] == []
    for lease_id in leases:
        assert_ended_at_the_last_signed(market, lease_id)


def test_a_restored_old_journal_signs_no_second_value(
    market: FakeMarket, agent: AgentProcess
) -> None:
    marker = f"restore-{uuid4()}"
    lease_id = sleeper(market, marker)
    agent.start()
    until(lambda: len(market.taken(lease_id)) >= 2)
    old = sqlite3.connect(agent.folder / "old.db")
    with sqlite3.connect(agent.state / "journal.db") as now:
        now.backup(old)
    now.close()
    old.close()
    kept = len(market.taken(lease_id))
    until(lambda: len(market.taken(lease_id)) >= kept + 3)
    agent.kill()
    agent.lose_journal()
    shutil.copy(agent.folder / "old.db", agent.state / "journal.db")
    agent.start()
    until(lambda: lease_id in market.finished)
    agent.kill()
    agent.lose_journal()  # and now altogether
    market.leases[lease_id]["state"] = "active"
    other = sleeper(market, marker)
    agent.start()
    until(lambda: len(market.taken(other)) >= 1)
    assert agent.terminate() == 0
    assert_one_value_each(market)
    assert_ended_at_the_last_signed(market, lease_id)


@pytest.mark.parametrize("agent", [{"allow_unsandboxed": True}], indirect=True, ids=["bare"])
def test_a_bare_job_and_its_daemon_are_ended_by_the_next_agent(
    market: FakeMarket, agent: AgentProcess
) -> None:
    """Without bubblewrap nothing dies with the agent: its successor has to find the rest."""
    marker = f"orphan-{uuid4()}"
    daemon = f"(while :; do sleep 0.05; done # {marker}\n) & wait"
    lease_id = market.open_lease(["sh", "-c", daemon])
    nowhere = agent.folder / "bin"
    nowhere.mkdir()
    agent.start(path=str(nowhere))
    until(lambda: len(market.taken(lease_id)) >= 1)
    agent.kill()
    assert processes_with(marker) != []
    agent.start(path=str(nowhere))
    until(lambda: processes_with(marker) == [])
    until(lambda: lease_id in market.finished)
    assert agent.terminate() == 0
    assert_ended_at_the_last_signed(market, lease_id)
    assert "no_sandbox" in agent.output.read_text()


def test_keys_are_nowhere_but_in_their_files(market: FakeMarket, agent: AgentProcess) -> None:
    """A canary for each: journal, logs, command lines, environments, and what the job sees."""
    snoop = (
        "env; cat /proc/*/cmdline /proc/*/environ 2>/dev/null | tr '\\0' '\\n';"
        " find / -xdev -name 'meter.json' -o -xdev -name agent.yaml 2>/dev/null; sleep 0.3"
    )
    lease_id = market.open_lease(["sh", "-c", snoop])
    agent.start()
    until(lambda: market.taken(lease_id))
    assert agent.process is not None
    pid = agent.process.pid
    assert running_pid(agent.state) == pid
    command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert agent.spawn().wait(20) == 1  # a second one would sign with the same journal
    until(lambda: lease_id in market.finished)
    assert agent.terminate() == 0
    assert running_pid(agent.state) is None
    written = [path.read_bytes() for path in agent.state.rglob("*") if path.is_file()]
    seen = [bytes(log) for log in market.logs.values()]
    everything = b"\n".join([command_line, *written, *seen, agent.output.read_bytes()])
    assert b"node_ready" in everything
    assert b"state_locked" in everything
    assert b"COULOMB_JOB_ID" in everything
    for canary in (API_KEY.encode(), PASSWORD.encode(), KEY, KEY.hex().encode()):
        assert canary not in everything


@pytest.fixture
def quiet_logs() -> Iterator[None]:
    """`run_agent` sets logging up for its process; here it is ours."""
    structlog.configure(processors=[structlog.testing.LogCapture()])
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("quiet_logs")
@pytest.mark.parametrize(("wrong", "code"), [("API key", 3), ("password", 1)])
def test_a_wrong_secret_ends_the_agent(
    market: FakeMarket, agent: AgentProcess, wrong: str, code: int
) -> None:
    market.unauthorized = wrong == "API key"
    if wrong == "password":
        (agent.folder / "password").write_text("another")
    assert run_agent(agent.config) == code
    assert market.nodes == []


@pytest.mark.usefixtures("quiet_logs")
def test_a_server_that_comes_late_is_waited_for(
    market: FakeMarket, agent: AgentProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.agent.main._AGAIN_S", 0.1)
    market.down = True
    stop = threading.Event()
    with ThreadPoolExecutor() as pool:
        code = pool.submit(run_agent, agent.config, stop)
        until(lambda: market.refused_calls >= 2)
        market.down = False
        until(lambda: market.node_beats)
        stop.set()
        assert code.result(20) == 0
    assert market.nodes[0]["gpus"][0]["simulated"] is True
    assert market.nodes[0]["runtime"] == "process"
