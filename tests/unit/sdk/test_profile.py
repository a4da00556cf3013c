"""Profiles come from the file, the environment overrides, secrets stay with their owner."""

from pathlib import Path

import pytest

from marketplace.sdk.errors import ConfigError
from marketplace.sdk.keyring import find_keystore, unlock, witness_key
from marketplace.sdk.profile import DEFAULT_API_URL, Profile, ProfileFile, config_dir, state_dir
from settlement import keystore


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return tmp_path


@pytest.fixture
def file(tmp_path: Path) -> ProfileFile:
    return ProfileFile(tmp_path / "coulomb" / "config.yaml")


def test_folders_follow_xdg() -> None:
    assert config_dir({"XDG_CONFIG_HOME": "/c"}) == Path("/c/coulomb")
    assert state_dir({"XDG_STATE_HOME": "/s"}) == Path("/s/coulomb")
    assert config_dir({"HOME": "/h"}) == Path("/h/.config/coulomb")
    assert state_dir({"HOME": "/h", "XDG_STATE_HOME": "relative"}) == Path(
        "/h/.local/state/coulomb"
    )


def test_no_file_is_the_default_profile(file: ProfileFile) -> None:
    assert file.get(env={}) == Profile(api_url=DEFAULT_API_URL)
    assert file.names() == []


def test_saved_profile_is_read_back_and_private(file: ProfileFile) -> None:
    profile = Profile("dev", "http://x", api_key="coul_k", chain_id=31337, escrow="0x" + "1" * 40)
    file.save(profile)
    file.save(Profile("other", "http://y"))
    assert file.get("dev", {}) == profile
    assert file.names() == ["dev", "other"]
    assert file.current() == "dev"
    assert file.get(env={}).name == "dev"
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert "coul_k" not in repr(profile)


def test_environment_overrides_the_file_but_is_not_saved(file: ProfileFile) -> None:
    file.save(Profile("dev", "http://x", api_key="coul_k"))
    env = {"COULOMB_API_URL": "http://e", "COULOMB_API_KEY": "coul_e", "ETH_RPC_URL": "http://r"}
    read = file.get("dev", env)
    assert (read.api_url, read.api_key, read.rpc_url) == ("http://e", "coul_e", "http://r")
    file.update("dev", chain_id=1)
    assert file.get("dev", {}) == Profile("dev", "http://x", api_key="coul_k", chain_id=1)
    file.update("new", api_url="http://n")
    assert file.get("new", {}) == Profile("new", "http://n")


def test_environment_names_the_profile(file: ProfileFile) -> None:
    file.save(Profile("dev", "http://x"))
    file.save(Profile("other", "http://y"))
    assert file.get(env={"COULOMB_PROFILE": "other"}).api_url == "http://y"
    with pytest.raises(ConfigError, match="no profile 'nope'"):
        file.get(env={"COULOMB_PROFILE": "nope"})


@pytest.mark.parametrize(
    "text",
    [
        "[1]", "profiles: [1]", "a: [", "profiles: {default: 5}",
        "profiles: {default: {apiurl: x}}", "profiles: {default: {api_url: 5}}",
        "profiles: {default: {chain_id: x}}",
    ],
)  # fmt: skip
def test_malformed_file_is_refused_with_its_place(file: ProfileFile, text: str) -> None:
    file.path.parent.mkdir()
    file.path.write_text(text)
    with pytest.raises(ConfigError, match=str(file.path)):
        file.get(env={})


def test_keystore_is_found_by_name_in_both_folders(home: Path) -> None:
    ours = keystore.create(
        home / ".config/coulomb/keystores/ours", "pw", kdf="pbkdf2", iterations=1
    )
    cast = keystore.create(home / ".foundry/keystores/cast", "pw", kdf="pbkdf2", iterations=1)
    (home / "pw").write_text("pw\nignored\n")
    assert unlock("ours", str(home / "pw")).address == ours.address
    assert unlock("cast", prompt=lambda _: "pw").address == cast.address
    assert find_keystore(str(home / ".foundry/keystores/cast")).name == "cast"


@pytest.mark.parametrize("name", ["nobody", "./nobody.json", "/nowhere/k"])
def test_missing_keystore_is_refused(home: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no keystore"):
        find_keystore(name)


def test_password_without_terminal_is_refused(home: Path) -> None:
    keystore.create(home / ".config/coulomb/keystores/k", "pw", kdf="pbkdf2", iterations=1)
    with pytest.raises(ConfigError, match="no terminal"):
        unlock("k")
    with pytest.raises(ConfigError, match="no password"):
        unlock("k", str(home / "missing"))


def test_witness_key_is_made_once_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "witness"
    first = witness_key(folder)
    assert witness_key(folder).address == first.address
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir()} == {
        "key.json": 0o600,
        "key.password": 0o600,
    }
    assert first.secret().hex() not in (folder / "key.json").read_text()
