"""`coulomb ask`: a provider's signed offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from marketplace.cli.context import confirm, current
from marketplace.cli.output import columns, note, show, show_rows

if TYPE_CHECKING:
    from marketplace.sdk import Coulomb
    from marketplace.wire.market import Node
    from marketplace.wire.orders import AskInfo
    from settlement.orders import Ask

app = typer.Typer(name="ask", help="A provider's signed offers.", no_args_is_help=True)
TABLE = columns(
    "id", "tier", "region", "state", "reason", "GPU-hour=prices.gpu_hour", "unit",
    "unit price=prices.unit", "shared", "simulated", "reliability",
    "expires=expires_at", "provider=ask.provider",
)  # fmt: skip
Price = Annotated[str | None, typer.Option(help="Tokens.")]


@app.command()
def create(
    gpu_hour: Annotated[str, typer.Option(help="Tokens per GPU and hour.")],
    node: Annotated[
        str | None, typer.Option(help="Node id or name; may be left out with one node.")
    ] = None,
    cpu_hour: Price = None,
    memory_gib_hour: Price = None,
    storage_gib_hour: Price = None,
    egress_gib: Price = None,
    unit_price: Price = None,
    unit: Annotated[str | None, typer.Option(help="What a unit is, such as request.")] = None,
    min_duration: Annotated[str | None, typer.Option(help="Such as 1m.")] = None,
    max_duration: Annotated[str | None, typer.Option(help="Such as 24h.")] = None,
    start_limit: Annotated[str | None, typer.Option(help="Time to become ready in.")] = None,
    expires_in: Annotated[str | None, typer.Option(help="Such as 30d.")] = None,
    meter: Annotated[
        str | None, typer.Option(help="Address of the meter key (default: this machine's).")
    ] = None,
) -> None:
    """Offer a node: write the ask out, check it, sign it, put it on the book."""
    from marketplace.cli.provider import meter_address

    prices = _prices(gpu_hour, cpu_hour, memory_gib_hour, storage_gib_hour, egress_gib, unit_price)
    terms: dict[str, Any] = {
        "meter": meter or meter_address(),
        "prices": prices,
        "unit": unit,
        "min_duration": min_duration,
        "max_duration": max_duration,
        "start_limit": start_limit,
        "expires_in": expires_in,
    }
    with current().client() as client:
        chosen = _node(client, node)
        _offer(client, chosen.id, terms, chosen.name)


@app.command(name="list")
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Everyone's, not only one's own.")] = False,
    tier: Annotated[str | None, typer.Option(help="Only this tier.")] = None,
    state: Annotated[str | None, typer.Option(help="open, cancelled, suspended, expired.")] = None,
) -> None:
    """One's own asks, or everyone's."""
    cli = current()
    provider = None if all_ else cli.account()
    with cli.client() as client:
        states = (state,) if state else ()
        show_rows(client.asks.list(provider=provider, tier=tier, states=states), TABLE)


@app.command()
def reprice(
    ask_id: Annotated[str, typer.Argument(help="The ask to replace.")],
    gpu_hour: Price = None,
    cpu_hour: Price = None,
    memory_gib_hour: Price = None,
    storage_gib_hour: Price = None,
    egress_gib: Price = None,
    unit_price: Price = None,
) -> None:
    """Sign the same ask at other prices and take the old one off the book."""
    from marketplace.domain.pricing import prices_to_json

    cli = current()
    prices = _prices(gpu_hour, cpu_hour, memory_gib_hour, storage_gib_hour, egress_gib, unit_price)
    with cli.client() as client:
        old = client.asks.own(ask_id, cli.account())
        terms = _terms_of(old.ask, {**prices_to_json(old.ask.floor), **prices})
        _offer(client, old.node_id, terms, f"the node of {ask_id}")
        if not cli.dry_run:
            client.asks.cancel(ask_id)
            note(f"{ask_id} is off the book")


@app.command()
def cancel(ask_id: Annotated[str, typer.Argument(help="The ask's id.")]) -> None:
    """Take an ask off the book; leases it opened go on."""
    if current().dry_run:
        note(f"would cancel {ask_id}")
        return
    confirm(f"Cancel {ask_id}?")
    with current().client() as client:
        show(client.asks.cancel(ask_id), TABLE)


def _prices(*texts: str | None) -> dict[str, str]:
    """Those of the prices that were named, by the API's names; the others are not sold, or stay."""
    names = ("gpu_hour", "cpu_hour", "memory_gib_hour", "storage_gib_hour", "egress_gib", "unit")
    named = zip(names, texts, strict=True)
    return {name: price for name, price in named if price is not None}


def _offer(client: Coulomb, node_id: str, terms: dict[str, Any], name: str) -> AskInfo | None:
    cli = current()
    priced = ", ".join(f"{k} {v}" for k, v in terms["prices"].items() if v not in ("0", ""))
    note(f"offer {name} ({node_id}) at {priced}; meter {terms['meter']}")
    if cli.dry_run:
        document = client.asks.prepare(node_id, terms).typed_data(client.session.domain())
        show(document, columns("primaryType", "message"))
        return None
    signer = cli.signer()
    confirm("Sign and offer?")
    made = client.asks.offer(node_id, terms, signer=signer)
    show(made, TABLE)
    return made


def _node(client: Coulomb, wanted: str | None) -> Node:
    from marketplace.sdk.errors import InputError

    nodes = list(client.nodes.list())
    found = [n for n in nodes if wanted in (None, n.id, n.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{n.name} ({n.id})" for n in nodes)
    if not nodes:
        raise InputError("no node is listed", fix="run `coulomb provider start` first")
    raise InputError(f"which node? {names}", fix="say --node")


def _terms_of(ask: Ask, prices: dict[str, str]) -> dict[str, Any]:
    """The terms from which the same ask at other prices is written out; it lives as long."""
    from marketplace.domain.reader import duration_text
    from settlement.eip712 import from_text32

    terms: dict[str, Any] = {
        "meter": ask.meter,
        "prices": prices,
        "min_duration": duration_text(ask.min_seconds),
        "max_duration": duration_text(ask.max_seconds),
        "start_limit": duration_text(ask.start_limit_seconds),
        "max_fee_bps": ask.max_fee_bps,
        "opener": ask.opener,
    }
    unit = from_text32(ask.unit)
    return {**terms, "unit": unit} if unit else terms
