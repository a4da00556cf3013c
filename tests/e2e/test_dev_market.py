"""`coulomb dev up` for real: one process to a folder, and what was there is there the next time."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import Program, Programs, clean_env, wait_for

PASSWORD_FILE = "dev.password"


@dataclass(slots=True)
class Dev:
    """A market in `folder`, on ports the system picks, and the commands of its buyer."""

    programs: Programs
    env: dict[str, str]
    folder: Path
    count: int = 0

    def up(self, *more: str) -> Program:
        """Start `dev up`."""
        words = ["dev", "up", "--folder", str(self.folder), "--port", "0", "--rpc-port", "0"]
        return self._start(*words, *more)

    def free(self) -> str:
        """What the buyer has in the escrow."""
        return str(json.loads(self.run("-o", "json", "wallet", "show"))["free"])

    def run(self, *words: str) -> str:
        """A command that ends well: what it said."""
        program = self._start(*words)
        assert program.ends() == 0, program.tail()
        return program.output()

    def _start(self, *words: str) -> Program:
        self.count += 1
        return self.programs.start(f"{self.count}-{words[0]}", words, self.env)


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    programs = Programs(tmp_path / "logs")
    yield Dev(programs, clean_env(tmp_path), tmp_path / "market")
    programs.stop()


def test_dev_up_gives_a_funded_market_and_leaves_nothing_behind(dev: Dev, tmp_path: Path) -> None:
    program = dev.up()
    rpc_url = program.says(r"export ETH_RPC_URL=(\S+)")
    assert "public" in program.output()
    assert dev.free() == "1000 CMP"
    keystores = tmp_path / "config" / "coulomb" / "keystores"
    assert {p.name for p in keystores.iterdir()} == {
        "dev-buyer", "dev-operator", "dev-provider", PASSWORD_FILE,
    }  # fmt: skip
    port = rpc_url.rpartition(":")[2]
    assert listens(port)
    os.kill(program.pid, signal.SIGTERM)
    assert program.ends() == 0
    wait_for("the chain's port is free", lambda: not listens(port))


def test_a_second_one_changes_nothing_and_a_killed_one_goes_on(dev: Dev) -> None:
    first = dev.up()
    first.says(r"export ETH_RPC_URL=(\S+)")
    for words in ((), ("--fresh", "--yes")):
        second = dev.up(*words)
        assert second.ends() == 2
        assert f"process {first.pid} runs a market in {dev.folder}" in second.output()
    dev.run("wallet", "deposit", "5", "--yes")
    assert dev.free() == "1005 CMP"
    first.kill()
    again = dev.up()
    again.says(r"export ETH_RPC_URL=(\S+)")
    assert dev.free() == "1005 CMP"
    os.kill(again.pid, signal.SIGTERM)
    assert again.ends() == 0
    fresh = dev.up("--fresh", "--yes")
    fresh.says(r"export ETH_RPC_URL=(\S+)")
    assert dev.free() == "1000 CMP"


def listens(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0
