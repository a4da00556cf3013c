"""What every command shares: the global options, the profile, and clients made from them."""

import os
import sys
from contextvars import ContextVar
from dataclasses import dataclass, replace

import typer

from marketplace.cli import Format
from marketplace.domain.pricing import from_scaled, to_scaled
from marketplace.errors import InvalidInput
from marketplace.sdk import Coulomb, Unit
from marketplace.sdk.errors import ConfigError, InputError, input_errors
from marketplace.sdk.keyring import address_of, find_keystore, unlock
from marketplace.sdk.profile import Profile, ProfileFile
from marketplace.sdk.session import session_of
from marketplace.wire.market import MarketConfig
from settlement.signing import LocalSigner

TOKEN_DECIMALS_MAX = 36


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
        profile = self.profile()
        session = session_of(profile, ProfileFile())
        return Coulomb(profile.api_url, profile.api_key, session=session)

    def account(self) -> str:
        """The address that the profile acts for: its purse, or its key's account."""
        return self.profile().purse or self.own_account()

    def own_account(self) -> str:
        """The address of the profile's key, which is not unlocked for that."""
        profile = self.profile()
        if profile.keystore:
            return address_of(find_keystore(profile.keystore))
        if profile.account:
            return profile.account
        fix = "name a keystore with --account, or one in the profile"
        raise ConfigError("no account is set up", fix)

    def signer(self) -> LocalSigner:
        """The account's key, unlocked. Raises ConfigError if none is named."""
        profile = self.profile()
        if not profile.keystore:
            fix = "name a keystore with --account NAME or --keystore FILE"
            raise ConfigError("this needs a signature and no key is named", fix)
        return unlock(profile.keystore, profile.password_file)


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
        raise InputError(f"{question} There is no terminal to ask on", fix="say --yes to go on")
    typer.confirm(question, abort=True, err=True)


def would(what: str) -> None:
    """Say what a command would do without --dry-run."""
    typer.echo(f"would {what}; nothing was sent or changed", err=True)


def agreed(what: str, warning: str = "") -> bool:
    """Ask before something is done, as `confirm` does; with --dry-run say it and return False."""
    if current().dry_run:
        would(what)
        return False
    confirm(f"{what[0].upper()}{what[1:]}?{warning}")
    return True


def tokens(text: str) -> str:
    """An amount or a price as somebody typed it. Raises InputError."""
    try:
        to_scaled(text, TOKEN_DECIMALS_MAX)
    except InvalidInput:
        raise InputError(f"{text!r} is not a number of tokens, such as 12.5") from None
    return text


def atoms_of(text: str, unit: MarketConfig | Unit) -> int:
    """An amount as somebody typed it, in atoms. Raises InputError if that is not exact."""
    with input_errors(f"{tokens(text)} {unit.currency}"):
        return to_scaled(text, unit.decimals)


def money_text(atoms: int, unit: MarketConfig | Unit) -> str:
    """Atoms for people."""
    return f"{from_scaled(atoms, unit.decimals)} {unit.currency}"
