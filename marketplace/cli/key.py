"""`coulomb key`: API keys, signed for by the account."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marketplace.cli.context import atoms_of, confirm, current
from marketplace.cli.output import columns, note, show, show_rows

if TYPE_CHECKING:
    from marketplace.cli.context import Cli
    from marketplace.wire.market import MarketConfig, NewApiKey

app = typer.Typer(name="key", help="API keys.", no_args_is_help=True)
TABLE = columns(
    "id", "name", "scopes", "account", "created=created_at", "expires=expires_at",
    "revoked=revoked_at", "spend cap=spend_cap",
)  # fmt: skip
MADE = columns("key", *("id", "name", "scopes", "account", "expires=expires_at"))


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="buyer, provider, operator.")] = None,
    expires_days: Annotated[int | None, typer.Option(min=1, help="Days until it expires.")] = None,
    spend_cap: Annotated[str | None, typer.Option(help="The most it may ever lock.")] = None,
    save: Annotated[bool, typer.Option(help="Keep the key in the profile.")] = True,
    to: Annotated[
        Path | None, typer.Option(help="Keep it in this file instead, such as an agent's.")
    ] = None,
) -> None:
    """Sign for a key. It is shown once; with --save (the default) the profile keeps it."""
    from marketplace.sdk.profile import write_secret

    cli = current()
    scopes = tuple(scope or ("buyer",))
    if cli.dry_run:
        note(f"would sign for a key {name!r} with scopes {', '.join(scopes)}")
        return
    expires = datetime.now(UTC) + timedelta(days=expires_days) if expires_days else None
    signer = cli.signer()
    with cli.client() as client:
        market = client.market.config()
        made = client.keys.create(
            name,
            scopes,
            signer=signer,
            expires_at=expires,
            spend_cap_atoms=atoms_of(spend_cap, market) if spend_cap else None,
        )
    if to is not None:
        write_secret(to, made.key)
        note(f"the key is in {to}")
    elif save:
        _keep(cli, made, market)
    show(made, MADE)


def _keep(cli: Cli, made: NewApiKey, market: MarketConfig) -> None:
    """Put a key and what it is for into the profile."""
    from marketplace.sdk.profile import ProfileFile

    profile = cli.profile()
    values: dict[str, str | None] = {}
    if cli.keystore:
        values = {"keystore": cli.keystore, "password_file": profile.password_file}
    ProfileFile().update(
        profile.name,
        api_url=profile.api_url,
        api_key=made.key,
        account=made.account,
        chain_id=market.chain_id,
        escrow=market.contracts.escrow,
        token=market.contracts.token,
        **values,
    )
    note(f"the key is in profile {profile.name!r} ({ProfileFile().path})")


@app.command(name="list")
def list_() -> None:
    """The account's keys; none shows its secret."""
    with current().client() as client:
        show_rows(client.keys.list(), TABLE)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The key's id.")]) -> None:
    """Make a key useless at once."""
    if current().dry_run:
        note(f"would revoke {key_id}")
        return
    confirm(f"Revoke {key_id}?")
    with current().client() as client:
        client.keys.revoke(key_id)
    note(f"{key_id} is revoked")
