"""The command line against a real market in this process: `run` is one whole invocation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from marketplace.cli.context import Cli
from marketplace.cli.main import main
from marketplace.sdk import Coulomb
from marketplace.sdk.profile import Profile, ProfileFile
from marketplace.sdk.session import session_of
from settlement import keystore
from tests.market_world import key_of
from tests.sdk_app import ONCE, Served, served

BUYER = key_of("buyer")


@dataclass(frozen=True)
class Ran:
    """What one invocation left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "market") as opened:
        yield opened


@pytest.fixture
def home(tmp_path: Path, market: Served, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own with one profile and its keystore."""
    for name in ("API_URL", "API_KEY", "PROFILE", "PASSWORD_FILE"):
        monkeypatch.delenv(f"COULOMB_{name}", raising=False)
    for name in ("ETH_RPC_URL", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "config" / "coulomb" / "keystores"
    keystore.create(folder / "buyer", "pw", BUYER, kdf="pbkdf2", iterations=1)
    (tmp_path / "pw").write_text("pw\n")
    ProfileFile().save(
        Profile(
            api_url="http://market",
            api_key=market.api.key(BUYER, "buyer", "provider"),
            keystore="buyer",
            password_file=str(tmp_path / "pw"),
        )
    )
    return tmp_path


@pytest.fixture
def run(
    home: Path, market: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    def client(cli: Cli) -> Coulomb:
        profile = cli.profile()
        return Coulomb(
            profile.api_url,
            profile.api_key,
            session=session_of(profile, ProfileFile()),
            transport=market,
            retry=ONCE,
        )

    monkeypatch.setattr(Cli, "client", client)

    def invoke(*words: str) -> Ran:
        code = main(words)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return invoke


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: train\ncommand: [python, train.py]\nresources: {gpu: 'H100:1', cpu: 1}\n"
        "pricing: {max_gpu_hour: 2.50}\nmax_duration: 10m\n"
    )
    return str(path)
