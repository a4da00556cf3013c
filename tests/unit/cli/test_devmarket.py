"""What `dev up` keeps, what it forgets and when: no process, no socket, a chain that is a file."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from marketplace.cli import dev
from marketplace.cli.dev import ASIDE, CHAIN, DATABASE, DEPLOYMENT, LOCK, DevMarket
from marketplace.sdk.errors import ConfigError
from settlement.chain.deploy import Deployed, Deployment
from settlement.chain.devnet import DEV_CHAIN_ID
from settlement.errors import ChainError, DeploymentError

HOLD = """
import sys, time
from pathlib import Path
from marketplace.cli.dev import _hold
with _hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


class FakeChain:
    """A devnet that writes into its state file what ran on it, when it ends."""

    def __init__(self, _seconds: int, port: int, state: Path, held_fd: int) -> None:
        self.state = state
        self.rpc_url = "http://chain"

    def __enter__(self) -> Self:
        self.story = self.state.read_text() if self.state.exists() else "new"
        return self

    def __exit__(self, *_error: object) -> None:
        self.state.write_text(self.story + " ran")

    def client(self) -> Any:
        return self

    def rpc(self, *_words: object) -> None:
        """Nothing to mine."""


ESCROW = SimpleNamespace(config=lambda: SimpleNamespace(fee_bps=100))
Made = list[Deployment]
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def deployed(monkeypatch: Patch, tmp_path: Path) -> Made:
    """Every deployment that was made; the server runs for no time, its database is a file."""
    made: Made = []

    def deploy(*_words: object) -> Deployment:
        at = Deployed("0x" + "11" * 20, "0x", "0x")
        made.append(Deployment(DEV_CHAIN_ID, len(made) + 1, at, at))
        return made[-1]

    def serve(settings: Any, ready: Callable[[str], None]) -> int:
        path = Path(settings.database_url.removeprefix("sqlite:///"))
        path.write_text((path.read_text() if path.exists() else "new") + " ran")
        return 0

    token = type("Token", (), {"address": "0x", "transfer": lambda *_: b""})
    monkeypatch.setattr(Deployment, "open", lambda *_: (ESCROW, token()))
    monkeypatch.setattr(FakeChain, "transact", lambda *_: None, raising=False)
    for name, fake in {"Devnet": FakeChain, "deploy": deploy, "run_roles": serve}.items():
        monkeypatch.setattr(dev, name, fake)
    for name in ("check_deployment", "require_free", "_deposit"):
        monkeypatch.setattr(dev, name, lambda *_: None)
    monkeypatch.setattr(DevMarket, "_write_keystores", lambda _: None)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "market"


def market(folder: Path) -> DevMarket:
    return DevMarket(folder, port=0, rpc_port=0, interval_ms=1_000, fee_bps=100)


def held(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.iterdir() if path.name not in (LOCK, DEPLOYMENT)]
    return {path.name: path.read_text() for path in paths}


ONCE = {CHAIN: "new ran", DATABASE: "new ran"}
TWICE = {CHAIN: "new ran ran", DATABASE: "new ran ran"}


def test_next_time_goes_on_with_chain_and_database(folder: Path, deployed: Made) -> None:
    assert market(folder).run() == 0
    assert held(folder) == ONCE
    assert market(folder).run() == 0
    assert held(folder) == TWICE
    assert len(deployed) == 1


def test_fresh_starts_anew_and_forgets_the_rest(folder: Path, deployed: Made) -> None:
    market(folder).run()
    (folder / "blobs").mkdir()
    (folder / "blobs" / "b").touch()
    (folder / f"{DATABASE}-wal").touch()
    assert market(folder).run(fresh=True) == 0
    assert held(folder) == ONCE
    assert len(deployed) == 2


@pytest.mark.parametrize("fails", ["require_free", "Devnet", "deploy", "_deposit"])
def test_fresh_that_fails_forgets_nothing(
    folder: Path, deployed: Made, monkeypatch: Patch, fails: str
) -> None:
    market(folder).run()
    with monkeypatch.context() as broken:
        broken.setattr(dev, fails, failing)
        with pytest.raises(ChainError):
            market(folder).run(fresh=True)
    market(folder).run()
    assert held(folder) == TWICE


def failing(*_words: object, **_more: object) -> Any:
    raise ChainError("no")


def test_first_start_that_fails_is_begun_again(
    folder: Path, deployed: Made, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(dev, "_deposit", failing)
        with pytest.raises(ChainError):
            market(folder).run()
    assert market(folder).run() == 0
    assert held(folder) == ONCE


def test_database_without_its_chain_is_not_started(folder: Path, deployed: Made) -> None:
    market(folder).run()
    (folder / CHAIN).unlink()
    with pytest.raises(ConfigError, match=r"chain\.json is missing") as refusal:
        market(folder).run()
    assert "--fresh" in refusal.value.fix
    assert held(folder) == {DATABASE: "new ran"}
    market(folder).run(fresh=True)
    assert held(folder) == ONCE


def test_chain_without_the_contracts_is_not_started(
    folder: Path, deployed: Made, monkeypatch: Patch
) -> None:
    market(folder).run()

    def check(*_words: object) -> None:
        raise DeploymentError("no contract at 0x11")

    monkeypatch.setattr(dev, "check_deployment", check)
    with pytest.raises(ConfigError, match="no contract at") as refusal:
        market(folder).run()
    assert "--fresh" in refusal.value.fix
    assert (folder / DATABASE).read_text() == "new ran"


def test_another_fee_than_the_kept_one_is_told(
    folder: Path, deployed: Made, capsys: Capture
) -> None:
    market(folder).run()
    DevMarket(folder, 0, 0, 1_000, fee_bps=50).run()
    assert "fee is 100 bps; only --fresh changes it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names", [("thesis.tex",), (DATABASE, "blobs"), (DEPLOYMENT,), (DATABASE, DEPLOYMENT, CHAIN)]
)
def test_folder_of_something_else_is_left_alone(
    folder: Path, deployed: Made, names: tuple[str, ...]
) -> None:
    """A real server's, or a person's."""
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    for fresh in (False, True):
        with pytest.raises(ConfigError, match=f"it holds {min(names)}"):
            market(folder).run(fresh)
    assert {path.name for path in folder.iterdir()} == set(names)


def test_lock_that_leads_elsewhere_is_not_written(
    folder: Path, deployed: Made, tmp_path: Path
) -> None:
    folder.mkdir()
    (tmp_path / "diary").write_text("dear")
    (folder / LOCK).symlink_to(tmp_path / "diary")
    with pytest.raises(ConfigError):
        market(folder).run()
    assert (tmp_path / "diary").read_text() == "dear"


def test_held_folder_is_refused_and_says_by_whom(folder: Path, deployed: Made) -> None:
    market(folder).run()
    words = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            for fresh in (False, True):
                with pytest.raises(ConfigError, match=f"process {holder.pid} runs a market"):
                    market(folder).run(fresh)
            assert held(folder) == ONCE
        finally:
            holder.kill()
    market(folder).run()
    assert held(folder) == TWICE
    assert not (folder / ASIDE).exists()
