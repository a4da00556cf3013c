"""Settings come from the environment, are checked as a whole, and name the variable at fault."""

import importlib.util
from pathlib import Path

import pytest
from pydantic import ValidationError

from marketplace.server.settings import ROLES, Settings, variable_of


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable of this machine, but the two that every market needs."""
    for name in Settings.model_fields:
        monkeypatch.delenv(variable_of(name), raising=False)
    monkeypatch.setenv("ETH_RPC_URL", "http://node")
    monkeypatch.setenv("COULOMB_CHAIN_ID", "31337")
    return monkeypatch


def test_settings_come_from_the_environment(env: pytest.MonkeyPatch) -> None:
    env.setenv("COULOMB_ROLES", "api,matcher")
    env.setenv("COULOMB_PORT", "0")
    env.setenv("COULOMB_RELAYER_KEYSTORE", "/keys/relayer")
    first, second = "0x" + "01" * 20, "0x" + "02" * 20
    env.setenv("COULOMB_OPERATORS", f"{first},{second}")
    settings = Settings()
    assert (settings.rpc_url, settings.chain_id, settings.port) == ("http://node", 31337, 0)
    assert settings.roles == ("api", "matcher")
    assert settings.relayer_keystore == Path("/keys/relayer")
    assert settings.operators == (first, second)


def test_settings_unset_or_empty_have_defaults(env: pytest.MonkeyPatch) -> None:
    env.setenv("COULOMB_OPENER", "")
    settings = Settings()
    assert (settings.roles, settings.operators, settings.opener) == (ROLES, (), None)
    assert settings.interval_ms == 10_000


@pytest.mark.parametrize("roles", [",", "api,relay"])
def test_settings_with_unknown_roles_are_refused(env: pytest.MonkeyPatch, roles: str) -> None:
    env.setenv("COULOMB_ROLES", roles)
    with pytest.raises(ValidationError, match="roles are"):
        Settings()


def test_settings_without_a_chain_are_refused(env: pytest.MonkeyPatch) -> None:
    env.delenv("ETH_RPC_URL")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert variable_of(str(caught.value.errors()[0]["loc"][0])) == "ETH_RPC_URL"


def test_settings_changed_are_checked_again(env: pytest.MonkeyPatch) -> None:
    settings = Settings(port=1)
    assert settings.but(roles=("api",)).roles == ("api",)
    assert settings.but(roles=("api",)).port == 1
    with pytest.raises(ValidationError, match="roles are"):
        settings.but(roles=("nothing",))


def test_operators_page_lists_every_setting() -> None:
    place = Path(__file__).resolve().parents[3] / "scripts" / "lib" / "settings_page.py"
    spec = importlib.util.spec_from_file_location("settings_page", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run scripts/docs"
