"""`coulomb contract`: putting the contracts on a chain, and checking what is there."""

import os
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from marketplace.cli.context import confirm, current
from marketplace.cli.output import columns, note, show
from marketplace.sdk.errors import ConfigError
from settlement.chain.client import ChainClient
from settlement.chain.deploy import Deployment, EscrowSettings, check_deployment, load_deployment
from settlement.chain.deploy import deploy as place

app = typer.Typer()
PLACES = columns(
    "chain=chainId", "block", "escrow=contracts.ComputeEscrow.address",
    "token=contracts.ComputeToken.address", "file",
)  # fmt: skip
Folder = Annotated[Path | None, Option("--deployments", help="Folder of <chain id>.json files.")]
ChainId = Annotated[int | None, Option("--chain-id", help="Default: the profile's.")]


@app.command()
def deploy(
    chain_id: ChainId = None,
    token: Annotated[str | None, Option(help="An existing ERC-20 (default: a new token).")] = None,
    holder: Annotated[
        str | None, Option(help="Who gets a new token's supply (default: the signer).")
    ] = None,
    fee_bps: Annotated[int, Option(min=0, max=1000, help="The fee; it never changes.")] = 0,
    fee_recipient: Annotated[str | None, Option(help="Who gets the fee; it never changes.")] = None,
    settle_window: Annotated[int, Option(min=1, help="Seconds after a lease's end.")] = 3_600,
    deployments: Folder = None,
) -> None:
    """Deploy escrow and token. Nobody can ever change fee or window; there is no owner."""
    cli = current()
    client = chain_client(chain_id)
    client.check()
    settings = EscrowSettings(
        fee_bps=fee_bps, fee_recipient=fee_recipient or "0x" + "0" * 40, settle_window=settle_window
    )
    note(f"deploy to chain {client.chain_id}: {settings}")
    if cli.dry_run:
        return
    signer = cli.signer()
    confirm(f"Deploy as {signer.address}?")
    made = place(client, signer, settings, token=token, holder=holder)
    path = made.save(_folder(deployments))
    show({**made.to_json(), "file": path}, PLACES)


@app.command()
def verify(chain_id: ChainId = None, deployments: Folder = None) -> None:
    """Check that the code on chain is what this version ships."""
    found = _load(deployments, chain_id)
    check_deployment(chain_client(found.chain_id), found)
    note(f"chain {found.chain_id}: the escrow is the one that ships")
    show(found.to_json(), PLACES)


@app.command()
def addresses(chain_id: ChainId = None, deployments: Folder = None) -> None:
    """Where the contracts are."""
    show(_load(deployments, chain_id).to_json(), PLACES)


def chain_client(chain_id: int | None = None) -> ChainClient:
    """The chain that the profile or ETH_RPC_URL names."""
    profile = current().profile()
    wanted = chain_id or profile.chain_id
    if not profile.rpc_url or not wanted:
        missing = "ETH_RPC_URL" if not profile.rpc_url else "--chain-id"
        raise ConfigError("no chain is known", fix=f"set {missing}, or use a profile with one")
    return ChainClient(profile.rpc_url, wanted)


def _folder(given: Path | None) -> Path:
    return given or Path(os.environ.get("COULOMB_DEPLOYMENTS", "deployments"))


def _load(given: Path | None, chain_id: int | None) -> Deployment:
    wanted = chain_id or current().profile().chain_id
    if wanted is None:
        raise ConfigError("which chain?", fix="say --chain-id, or use a profile with one")
    return load_deployment(_folder(given), wanted)
