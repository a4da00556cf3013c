"""`coulomb ask` and `coulomb order`: a provider's signed offers, and orders made void."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from marketplace.cli.context import agreed, confirm, current, tokens
from marketplace.cli.output import columns, note, show, show_plan, show_rows, warn
from marketplace.data import load_tiers
from marketplace.domain.drafts import AskState
from marketplace.domain.pricing import prices_to_json
from marketplace.domain.reader import duration_text
from marketplace.errors import ExitCode
from marketplace.sdk import Coulomb
from marketplace.sdk.errors import InputError
from marketplace.sdk.keyring import parse_address
from marketplace.wire.market import Node
from settlement.eip712 import from_text32
from settlement.orders import Ask

app, order_app = typer.Typer(), typer.Typer()
TABLE = columns(
    "id", "tier", "region", "state", "reason", "GPU-hour=prices.gpu_hour?gpu_milli",
    "core-hour=prices.cpu_hour", "unit", "unit price=prices.unit", "shared",
    "notice s=notice_seconds", "simulated", "reliability",
    "expires=expires_at", "provider=ask.provider",
)  # fmt: skip
PLAN = columns(
    "node", "prices", "jobs", "start_limit", "notice", "meter", "opener", "most_fee", "expires"
)
TOKENS: dict[str, Any] = {"parser": tokens, "metavar": "TOKENS"}
CpuPrice = Annotated[str | None, Option(**TOKENS, help="Price of one CPU core for an hour.")]
MemoryPrice = Annotated[str | None, Option(**TOKENS, help="Price of 1 GiB of memory for an hour.")]
StoragePrice = Annotated[str | None, Option(**TOKENS, help="Price of 1 GiB of disk for an hour.")]
EgressPrice = Annotated[str | None, Option(**TOKENS, help="Price of 1 GiB sent out.")]
UnitPrice = Annotated[str | None, Option(**TOKENS, help="Price of one unit; --unit names it.")]


@app.command()
def create(
    gpu_hour: Annotated[
        str | None, Option(**TOKENS, help="Price of one GPU for an hour; needed to sell GPUs.")
    ] = None,
    node: Annotated[
        str | None, Option(help="The node's id or name; needed if you have several.")
    ] = None,
    cpu_hour: CpuPrice = None,
    memory_gib_hour: MemoryPrice = None,
    storage_gib_hour: StoragePrice = None,
    egress_gib: EgressPrice = None,
    unit_price: UnitPrice = None,
    unit: Annotated[str | None, Option(help="What --unit-price counts, e.g. request.")] = None,
    min_duration: Annotated[
        str | None, Option(help="Refuse jobs that are shorter (default: none).")
    ] = None,
    max_duration: Annotated[
        str | None, Option(help="Refuse jobs that are longer (default: 30d).")
    ] = None,
    start_limit: Annotated[
        str | None, Option(help="How long a job may take to start (default: 10m).")
    ] = None,
    expires_in: Annotated[
        str | None, Option(help="Take the ask off the book after this time (default: 30d).")
    ] = None,
    no_gpu: Annotated[
        bool, Option("--no-gpu", help="Sell processor, memory and disk without the GPUs.")
    ] = False,
    interruptible: Annotated[
        bool, Option("--interruptible", help="You may take the node back, after --notice.")
    ] = False,
    notice: Annotated[
        str | None, Option(help="How long before you take the node back you say so, e.g. 5m.")
    ] = None,
    meter: Annotated[
        str | None,
        Option(
            parser=parse_address,
            metavar="ADDRESS",
            help="The meter key's address (default: that of the agent's file).",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        Option(help="The node's agent's file (default: provider/agent.yaml next to the profiles)."),
    ] = None,
) -> None:
    """Offer a node at a price: show the ask, sign it, and put it on the book."""
    from marketplace.cli.provider import load_agent, meter_address  # imports what calls the chain

    agent = None if meter else load_agent(config)
    terms: dict[str, Any] = {
        "prices": _prices(
            gpu_hour, cpu_hour, memory_gib_hour, storage_gib_hour, egress_gib, unit_price
        ),
        "unit": unit,
        "min_duration": min_duration,
        "max_duration": max_duration,
        "start_limit": start_limit,
        "expires_in": expires_in,
        "interruptible": interruptible,
        "notice": notice,
    }
    with current().client() as client:
        chosen = _node(client, node)
        terms["meter"] = meter_address(agent, chosen) if agent else meter
        terms["no_gpu"] = no_gpu or not chosen.gpus
        _need_price(terms)
        _offer(client, chosen.id, terms, chosen.name)


@app.command(name="list")
def list_(
    all_: Annotated[bool, Option("--all", help="List everyone's asks.")] = False,
    tier: Annotated[str | None, Option(help="Only this tier.")] = None,
    state: Annotated[AskState | None, Option(help="Only asks in this state.")] = None,
) -> None:
    """List your asks, or everyone's."""
    cli = current()
    provider = None if all_ else cli.account()
    with cli.client() as client:
        states = (state,) if state else ()
        asks = list(client.asks.list(provider=provider, tier=tier, states=states))
    if tier and not asks and (problem := load_tiers().tier_problem(tier)):
        warn(problem)
    show_rows(asks, TABLE)


@app.command()
def reprice(
    ask_id: Annotated[str, Argument(help="The ask to replace.")],
    gpu_hour: Annotated[
        str | None, Option(**TOKENS, help="Price of one GPU for an hour (default: as before).")
    ] = None,
    cpu_hour: CpuPrice = None,
    memory_gib_hour: MemoryPrice = None,
    storage_gib_hour: StoragePrice = None,
    egress_gib: EgressPrice = None,
    unit_price: UnitPrice = None,
) -> None:
    """Replace an ask with the same one at other prices."""
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
def cancel(ask_id: Annotated[str, Argument(help="The ask's id.")]) -> None:
    """Take an ask off the book. Jobs that it got go on."""
    if agreed(f"cancel {ask_id}"):
        with current().client() as client:
            show(client.asks.cancel(ask_id), TABLE)


@order_app.command(name="cancel")
def cancel_order(
    order_id: Annotated[str | None, Argument(help="Id of an ask, a bid or a job.")] = None,
    all_: Annotated[
        bool, Option("--all", help="Cancel every order you have signed so far.")
    ] = False,
) -> None:
    """Cancel an order for good, on the book and on chain. Jobs that run go on."""
    if (order_id is None) != all_:
        raise InputError("name one order, or say --all")
    if agreed(f"cancel {order_id or 'every order so far'}"):
        signer = current().signer()
        with current().client() as client:
            done = client.orders.cancel(order_id, signer=signer)
        if not done.orders:
            note("nothing was open any more, so nothing changed")
            raise typer.Exit(ExitCode.CONFLICT if order_id else ExitCode.OK)
        show_rows([{"order": name} for name in done.orders], columns("order"))


def _prices(*texts: str | None) -> dict[str, str]:
    """Those of the prices that were named, by the API's names; the others are not sold, or stay."""
    names = ("gpu_hour", "cpu_hour", "memory_gib_hour", "storage_gib_hour", "egress_gib", "unit")
    named = zip(names, texts, strict=True)
    return {name: price for name, price in named if price is not None}


def _need_price(terms: dict[str, Any]) -> None:
    """Of what is sold the price that matters most has to be said."""
    prices, sold = terms["prices"], "core" if terms["no_gpu"] else "GPU"
    option, name = ("--cpu-hour", "cpu_hour") if terms["no_gpu"] else ("--gpu-hour", "gpu_hour")
    if name not in prices:
        raise InputError(f"what does one {sold} cost for an hour?", fix=f"say {option}")
    prices.setdefault("gpu_hour", "0")


def _offer(client: Coulomb, node_id: str, terms: dict[str, Any], name: str) -> None:
    cli = current()
    signer = None if cli.dry_run else cli.signer()
    ask = client.asks.prepare(node_id, terms)
    priced = ", ".join(f"{k} {v}" for k, v in terms["prices"].items() if v not in ("0", ""))
    show_plan({"node": f"{name} ({node_id})", "prices": priced, **_plan_row(ask)}, PLAN)
    note("  Nothing is paid for the time a job takes to start, nor without its buyer's witness.")
    if cli.dry_run:
        document = ask.typed_data(client.session.domain())
        show(document, columns("primaryType", "message"))
        return
    confirm("Sign and offer?")
    show(client.asks.place(ask, signer=signer), TABLE)


def _plan_row(ask: Ask) -> dict[str, Any]:
    """What an ask binds its provider to."""
    notice = ask.notice
    return {
        "jobs": f"{duration_text(ask.min_seconds)} to {duration_text(ask.max_seconds)}",
        "start_limit": duration_text(ask.start_limit_seconds),
        "notice": "none: not interruptible" if notice is None else duration_text(notice),
        "meter": ask.meter,
        "opener": ask.opener,
        "most_fee": f"{Decimal(ask.max_fee_bps) / 100:f} % of what it earns",
        "expires": datetime.fromtimestamp(ask.expiry, UTC).isoformat(timespec="seconds"),
    }


def _node(client: Coulomb, wanted: str | None) -> Node:
    nodes = list(client.nodes.list())
    found = [n for n in nodes if wanted in (None, n.id, n.name)]
    if len(found) == 1:
        return found[0]
    if not nodes:
        from marketplace.cli.provider import agent_process

        if pid := agent_process():
            why = f"an agent runs here (process {pid}), but this market knows no node of yours"
            raise InputError(why, fix="`coulomb provider doctor` says what the agent lacks")
        raise InputError("no node is listed", fix="run `coulomb provider start` first")
    names = ", ".join(f"{n.name} ({n.id})" for n in nodes)
    if wanted and not found:
        fix = "say --node with one of them; one that is not there yet needs `provider start`"
        raise InputError(f"no node of yours is called {wanted!r}; there is {names}", fix=fix)
    raise InputError(f"which node? {names}", fix="say --node with one of them, best its id")


def _terms_of(ask: Ask, prices: dict[str, str]) -> dict[str, Any]:
    """The terms from which the same ask at other prices is written; it lives as long."""
    terms: dict[str, Any] = {
        "meter": ask.meter,
        "prices": prices,
        "min_duration": duration_text(ask.min_seconds),
        "max_duration": duration_text(ask.max_seconds),
        "start_limit": duration_text(ask.start_limit_seconds),
        "max_fee_bps": ask.max_fee_bps,
        "opener": ask.opener,
        "no_gpu": not ask.gpu_milli,
    }
    if ask.notice is not None:
        terms |= {"interruptible": True, "notice": duration_text(ask.notice)}
    unit = from_text32(ask.unit)
    return {**terms, "unit": unit} if unit else terms
