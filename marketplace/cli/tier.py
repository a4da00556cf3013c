"""`coulomb tier`: classes of GPU."""

import typer

from marketplace.cli.context import current
from marketplace.cli.output import columns, show_rows

app = typer.Typer(name="tier", help="Classes of GPU.", no_args_is_help=True)
TABLE = columns(
    "tier=name",
    "model",
    "MiB=memory_mib",
    "median USD/h=usd_per_gpu_hour.median",
    "low=usd_per_gpu_hour.low",
    "high=usd_per_gpu_hour.high",
    "listings",
)


@app.command(name="list")
def list_() -> None:
    """Every tier, with what real markets asked for it (reference, not our prices)."""
    with current().client() as client:
        show_rows(client.market.tiers(), TABLE)
