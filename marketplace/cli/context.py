"""What every command shares: the global options, the profile, and clients made from them.

Nothing heavy is imported before a command needs it: `coulomb --help` is fast.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from marketplace.sdk import Coulomb
    from marketplace.sdk.onchain import Unit
    from marketplace.sdk.profile import Profile
    from marketplace.wire.market import MarketConfig
    from settlement.chain.client import ChainClient
    from settlement.signing import LocalSigner


class Format(StrEnum):
    """How data is written to stdout."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Cli:
    """The global options of one run."""

    output: Format = Format.TABLE
    profile_name: str | None = None
    keystore: str | None = None
    password_file: str | None = None
    yes: bool = False
    dry_run: bool = False

    def profile(self) -> Profile:
        """The profile with what the command line says instead."""
        from marketplace.sdk.profile import ProfileFile

        found = ProfileFile().get(self.profile_name)
        if self.keystore:
            # The profile's password is of the profile's key; one from the environment is of any.
            password_file = os.environ.get("COULOMB_PASSWORD_FILE")
            found = replace(found, keystore=self.keystore, password_file=password_file)
        if self.password_file:
            found = replace(found, password_file=self.password_file)
        return found

    def client(self) -> Coulomb:
        """A client of the profile's market."""
        from marketplace.sdk import Coulomb
        from marketplace.sdk.profile import ProfileFile
        from marketplace.sdk.session import session_of

        profile = self.profile()
        session = session_of(profile, ProfileFile())
        return Coulomb(profile.api_url, profile.api_key, session=session)

    def account(self) -> str:
        """The address that the profile acts for; its key is not unlocked for that."""
        from marketplace.sdk.errors import ConfigError
        from marketplace.sdk.keyring import address_of, find_keystore

        profile = self.profile()
        if profile.keystore:
            return address_of(find_keystore(profile.keystore))
        if profile.account:
            return profile.account
        raise ConfigError(
            "no account is set up", fix="name a keystore with --account, or one in the profile"
        )

    def signer(self) -> LocalSigner:
        """The account's key, unlocked. Raises ConfigError if none is named."""
        from marketplace.sdk.errors import ConfigError
        from marketplace.sdk.keyring import unlock

        profile = self.profile()
        if not profile.keystore:
            raise ConfigError(
                "this needs a signature and no key is named",
                fix="name a keystore with --account NAME or --keystore FILE",
            )
        return unlock(profile.keystore, profile.password_file)

    def chain(self, chain_id: int | None = None) -> ChainClient:
        """The chain that the profile or ETH_RPC_URL names."""
        from marketplace.sdk.errors import ConfigError
        from settlement.chain.client import ChainClient

        profile = self.profile()
        wanted = chain_id or profile.chain_id
        if not profile.rpc_url or not wanted:
            missing = "ETH_RPC_URL" if not profile.rpc_url else "--chain-id"
            raise ConfigError("no chain is known", fix=f"set {missing}, or use a profile with one")
        return ChainClient(profile.rpc_url, wanted)


_running: ContextVar[Cli] = ContextVar("options of the running command", default=Cli())  # noqa: B039 - frozen


def begin(options: Cli) -> None:
    """Set the options of the command that runs now."""
    _running.set(options)


def current() -> Cli:
    """The options of the running command."""
    return _running.get()


def confirm(question: str) -> None:
    """Go on only with a yes: --yes, or an answer on the terminal. Never asks through a pipe."""
    if current().yes:
        return
    if not sys.stdin.isatty():
        from marketplace.sdk.errors import InputError

        raise InputError(f"{question} There is no terminal to ask on", fix="say --yes to go on")
    typer.confirm(question, abort=True, err=True)


def agreed(what: str, warning: str = "") -> bool:
    """Ask before something is done, as `confirm` does; with --dry-run say it and return False."""
    if current().dry_run:
        typer.echo(f"would {what}", err=True)
        return False
    confirm(f"{what[0].upper()}{what[1:]}?{warning}")
    return True


def atoms_of(amount: str, unit: MarketConfig | Unit) -> int:
    """An amount such as "12.5" in atoms of the market's token."""
    from marketplace.domain.pricing import to_scaled

    return to_scaled(amount, unit.decimals)


def money_text(atoms: int, unit: MarketConfig | Unit) -> str:
    """Atoms for people."""
    from marketplace.domain.pricing import from_scaled

    return f"{from_scaled(atoms, unit.decimals)} {unit.currency}"
