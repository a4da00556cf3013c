"""`coulomb profile` and `coulomb key`: which market, who you are on it, and its API keys."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from marketplace.cli.context import agreed, atoms_of, confirm, current, tokens, would
from marketplace.cli.output import columns, note, show, show_rows
from marketplace.sdk.errors import InputError
from marketplace.sdk.keyring import find_keystore, parse_address
from marketplace.sdk.profile import Profile, ProfileFile, write_secret
from marketplace.wire.market import MarketConfig, NewApiKey, Scope

app, key_app = typer.Typer(), typer.Typer()
FIELDS = (
    "name", "api_url", "account", "purse", "keystore", "chain_id", "escrow", "token", "rpc_url",
    "has_key",
)  # fmt: skip
KEYS = columns(
    "id", "name", "scopes", "account", "created=created_at", "expires=expires_at",
    "revoked=revoked_at", "spend cap=spend_cap",
)  # fmt: skip
Purse = Annotated[
    str | None,
    Option(
        parser=parse_address,
        metavar="ADDRESS",
        help="Act for this purse, whose operator the keystore is (COULOMB_PURSE).",
    ),
]
MADE = columns("key", "id", "name", "scopes", "account", "expires=expires_at")


@app.command(name="list")
def list_profiles() -> None:
    """List the profiles, without their API keys."""
    file = ProfileFile()
    rows = [{**_row(file.get(n, {})), "current": n == file.current()} for n in file.names()]
    show_rows(rows, columns("current", *FIELDS))


@app.command(name="show")
def show_profile() -> None:
    """Show the profile in use, as environment and command line change it."""
    show(_row(current().profile()), columns(*FIELDS))


@app.command()
def add(
    name: Annotated[str, Argument(help="Name of the new profile.")],
    api_url: Annotated[str, Option(help="Address of the market's API.")],
    rpc_url: Annotated[
        str | None,
        Option(help="A node of the market's chain that you trust, to check leases and withdraw."),
    ] = None,
    purse: Purse = None,
) -> None:
    """Add a profile for a market that somebody runs, and make it the current one.

    It signs with the keystore that --account names.

    The first command that asks the market, such as `coulomb key create`, pins its contracts.
    """
    cli = current()
    file = ProfileFile()
    if name in file.names():
        raise InputError(f"a profile {name!r} exists in {file.path}", fix="take another name")
    if cli.keystore:
        find_keystore(cli.keystore)  # a wrong name is told now, not when something is to be signed
    if cli.dry_run:
        would(f"add {name} at {api_url} to {file.path}")
        return
    profile = Profile(
        name=name,
        api_url=api_url,
        keystore=cli.keystore,
        password_file=cli.password_file,
        rpc_url=rpc_url,
        purse=purse,
    )
    file.save(profile, make_current=True)
    note(f"{name} is the current profile")
    note("next: `coulomb key create NAME`; to sell, with --scope provider")


@app.command()
def use(name: Annotated[str, Argument(help="The profile's name.")]) -> None:
    """Make a profile the current one, which is used if none is named."""
    file = ProfileFile()
    file.save(file.get(name, {}), make_current=True)
    note(f"{name} is the current profile")


@key_app.command()
def create(
    name: Annotated[str, Argument(help="Name of the key, to tell it from others.")],
    scope: Annotated[
        list[Scope] | None, Option(help="What the key may do; repeatable (default: buyer).")
    ] = None,
    expires_days: Annotated[
        int | None, Option(min=1, help="Days until the key expires (default: never).")
    ] = None,
    spend_cap: Annotated[
        str | None,
        Option(
            parser=tokens, metavar="TOKENS", help="The most tokens it may ever lock (default: any)."
        ),
    ] = None,
    save: Annotated[bool, Option(help="Keep the key in the profile, or only show it.")] = True,
    to: Annotated[
        Path | None, Option(help="Put the key into this file, e.g. an agent's, and do not show it.")
    ] = None,
    purse: Purse = None,
) -> None:
    """Sign for a new API key, which is shown this once and kept in the profile.

    With --to it goes into a file instead and is not shown. With --purse it is the purse's, and the
    profile buys for the purse from then on.
    """
    cli = current()
    scopes = tuple(scope or (Scope.BUYER,))
    purse = purse or cli.profile().purse
    if cli.dry_run:
        of_purse = f" of the purse {purse}" if purse else ""
        would(f"sign for a key {name!r}{of_purse} with scopes {', '.join(scopes)}")
        return
    if to is not None and to.exists():
        confirm(f"Replace what is in {to}?")
    signer = cli.signer()
    with cli.client() as client:
        client.session.purse = purse
        market = client.market.config()
        made = client.keys.create(
            name,
            scopes,
            signer=signer,
            expires_at=datetime.now(UTC) + timedelta(days=expires_days) if expires_days else None,
            spend_cap_atoms=atoms_of(spend_cap, market) if spend_cap else None,
        )
    if to is not None:
        write_secret(to, made.key)
        note(f"the key is in {to}")
        show({**made.to_json(), "key": None}, MADE[1:])
        return
    elif save:
        _keep(made, market, purse)
    show(made, MADE)


@key_app.command(name="list")
def list_keys() -> None:
    """List your API keys, without their secrets."""
    with current().client() as client:
        show_rows(client.keys.list(), KEYS)


@key_app.command()
def revoke(key_id: Annotated[str, Argument(help="The key's id.")]) -> None:
    """Revoke a key: it is refused from now on."""
    if agreed(f"revoke {key_id}"):
        with current().client() as client:
            client.keys.revoke(key_id)
        note(f"{key_id} is revoked")


def _row(profile: Profile) -> dict[str, object]:
    """A profile without its API key."""
    shown = {name: value for name, value in asdict(profile).items() if name != "api_key"}
    return {**shown, "has_key": profile.api_key is not None}


def _keep(made: NewApiKey, market: MarketConfig, purse: str | None) -> None:
    """Put a key and what it is for into the profile."""
    cli = current()
    profile = cli.profile()
    file = ProfileFile()
    values: dict[str, str | None] = {}
    if cli.keystore:
        values = {"keystore": cli.keystore, "password_file": profile.password_file}
    file.update(
        profile.name,
        api_url=profile.api_url,
        api_key=made.key,
        account=cli.own_account() if purse else made.account,
        purse=purse,
        chain_id=market.chain_id,
        escrow=market.contracts.escrow,
        token=market.contracts.token,
        **values,
    )
    note(f"the key is in profile {profile.name!r} ({file.path})")
