"""Profiles: where a market is and who is asking, from a file and the environment.

`$XDG_CONFIG_HOME/coulomb/config.yaml` holds the profiles (mode 0600: API keys are in it).
COULOMB_PROFILE names one; the variables of OVERRIDES say more than the file.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from marketplace.sdk.errors import ConfigError
from settlement.eip712 import checked_address
from settlement.errors import FieldError, host_of

DEFAULT_NAME = "default"
DEFAULT_API_URL = "http://127.0.0.1:8420"
OVERRIDES = {
    "api_url": "COULOMB_API_URL",
    "api_key": "COULOMB_API_KEY",
    "password_file": "COULOMB_PASSWORD_FILE",
    "purse": "COULOMB_PURSE",
    "rpc_url": "ETH_RPC_URL",
}


def _home(variable: str, default: str, env: Mapping[str, str]) -> Path:
    base = env.get(variable) or ""
    root = Path(base) if base.startswith("/") else Path(env.get("HOME") or Path.home()) / default
    return root / "coulomb"


def config_dir(env: Mapping[str, str] | None = None) -> Path:
    """$XDG_CONFIG_HOME/coulomb."""
    return _home("XDG_CONFIG_HOME", ".config", os.environ if env is None else env)


def state_dir(env: Mapping[str, str] | None = None) -> Path:
    """$XDG_STATE_HOME/coulomb."""
    return _home("XDG_STATE_HOME", ".local/state", os.environ if env is None else env)


@dataclass(frozen=True, slots=True)
class Profile:
    """One market and one identity on it.

    `keystore` and `witness_keystore` are names or files; `purse` is the account that the key buys
    for, if that is not its own; `chain_id`, `escrow` and `token` pin the
    contracts that this profile signs for, so that no server can point it at others later.
    """

    name: str = DEFAULT_NAME
    api_url: str = DEFAULT_API_URL
    api_key: str | None = None
    account: str | None = None
    purse: str | None = None
    keystore: str | None = None
    password_file: str | None = None
    witness_keystore: str | None = None
    witness_password_file: str | None = None
    rpc_url: str | None = None
    chain_id: int | None = None
    escrow: str | None = None
    token: str | None = None

    def __repr__(self) -> str:
        return f"Profile({self.name}, {host_of(self.api_url)})"


def write_secret(path: Path, secret: str) -> None:
    """Write a file that only its owner can read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secret + "\n")


class ProfileFile:
    """The file of profiles; a missing one holds none."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or config_dir() / "config.yaml"

    def names(self) -> list[str]:
        """Names of the profiles in the file."""
        return sorted(self._read().get("profiles", {}))

    def current(self) -> str:
        """The profile that is used if none is named."""
        return str(self._read().get("current", DEFAULT_NAME))

    def get(self, name: str | None = None, env: Mapping[str, str] | None = None) -> Profile:
        """A profile with the environment's overrides.

        Raises ConfigError if a profile was named that is not there, or holds unknown settings.
        """
        env = os.environ if env is None else env
        wanted = name or env.get("COULOMB_PROFILE")
        document = self._read()
        chosen = wanted or str(document.get("current", DEFAULT_NAME))
        stored = document.get("profiles", {}).get(chosen)
        if stored is None and wanted is not None:
            known = ", ".join(sorted(document.get("profiles", {}))) or "none"
            raise ConfigError(f"no profile {chosen!r} in {self.path} (known: {known})")
        profile = self._parse(chosen, stored or {})
        stated = {name: env.get(variable) for name, variable in OVERRIDES.items()}
        given: dict[str, Any] = {name: value for name, value in stated.items() if value}
        return replace(profile, **given)

    def save(self, profile: Profile, make_current: bool = False) -> None:
        """Write a profile, leaving the others alone; atomic, mode 0600."""
        document = self._read()
        values = {k: v for k, v in asdict(profile).items() if k != "name" and v is not None}
        document.setdefault("profiles", {})[profile.name] = values
        if make_current or "current" not in document:
            document["current"] = profile.name
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        write_secret(fresh, yaml.safe_dump(document).rstrip())
        fresh.replace(self.path)

    def update(self, name: str, **values: Any) -> None:
        """Change some settings of a stored profile, not those that came from the environment."""
        stored = self.get(name, {}) if name in self.names() else Profile(name=name)
        self.save(replace(stored, **values))

    def _parse(self, name: str, stored: Any) -> Profile:
        known = [field.name for field in fields(Profile) if field.name != "name"]
        if not isinstance(stored, dict):
            raise ConfigError(f"{self.path}: profile {name!r} is not a table of settings")
        for key, value in stored.items():
            if key not in known:
                raise ConfigError(
                    f"{self.path}: profile {name!r} has the unknown setting {key!r}",
                    fix=f"known settings are {', '.join(known)}",
                )
            wanted = int if key == "chain_id" else str
            if not isinstance(value, wanted):
                kind = "whole number" if wanted is int else "text"
                raise ConfigError(f"{self.path}: {name}/{key} must be a {kind}")
            if key in ("account", "escrow", "purse", "token"):
                try:
                    checked_address("", value)
                except FieldError as error:
                    raise ConfigError(f"{self.path}: {name}/{key} {error.detail}") from None
        return Profile(name=name, **stored)

    def _read(self) -> dict[str, Any]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from error
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{self.path} is not YAML: {error}") from error
        if document is None:
            return {}
        if not isinstance(document, dict) or not isinstance(document.get("profiles", {}), dict):
            raise ConfigError(f"{self.path} must be a table with `profiles`")
        return document
