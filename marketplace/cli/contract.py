"""`coulomb contract`: putting the contracts on a chain, and checking what is there."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from marketplace.cli.context import confirm, current
from marketplace.cli.output import columns, note, show, show_plan
from marketplace.sdk.errors import ConfigError, InputError
from marketplace.sdk.keyring import parse_address
from settlement.chain.client import ChainClient
from settlement.chain.deploy import (
    DEFAULT_SUPPLY,
    Deployment,
    EscrowSettings,
    check_deployment,
    load_deployment,
)
from settlement.chain.deploy import deploy as place
from settlement.eip712 import ZERO_ADDRESS

app = typer.Typer()
PLACES = columns(
    "chain=chainId", "block", "escrow=contracts.ComputeEscrow.address",
    "token=contracts.ComputeToken.address", "file",
)  # fmt: skip
PLAN = columns(
    "chain", "signer", "fee", "fee_recipient", "settle_window", "token", "supply", "holder", "file",
)  # fmt: skip
Folder = Annotated[Path | None, Option("--deployments", help="Folder of <chain id>.json files.")]
ChainId = Annotated[
    int | None,
    Option(
        "--chain-id", envvar="COULOMB_CHAIN_ID", help="The chain's id (default: the profile's)."
    ),
]


ADDRESS: Any = {"parser": parse_address, "metavar": "ADDRESS"}


@app.command()
def deploy(
    chain_id: ChainId = None,
    token: Annotated[
        str | None,
        Option(**ADDRESS, help="An existing ERC-20 (default: a new token, which is play money)."),
    ] = None,
    holder: Annotated[
        str | None,
        Option(**ADDRESS, help="Who gets a new token's whole supply (default: the signer)."),
    ] = None,
    fee_bps: Annotated[
        int, Option(min=0, max=1000, help="The fee in basis points: 100 is 1 %. Never changes.")
    ] = 0,
    fee_recipient: Annotated[
        str | None, Option(**ADDRESS, help="Who gets the fee. Never changes.")
    ] = None,
    settle_window: Annotated[
        int,
        Option(min=60, max=2_592_000, help="Seconds after a lease's end in which usage is paid."),
    ] = 86_400,
    deployments: Folder = None,
    replace: Annotated[
        bool, Option("--replace", help="Replace the file of an earlier deployment on the chain.")
    ] = False,
) -> None:
    """Deploy an escrow and, unless --token names one, a new token. Nobody owns the contracts, and
    their fee, its recipient and the settle window can never be changed."""
    cli = current()
    if fee_bps and not fee_recipient:
        raise InputError("a fee needs somebody who receives it", fix="say --fee-recipient ADDRESS")
    client = chain_client(chain_id)
    client.check()
    folder = _folder(deployments)
    path = folder / f"{client.chain_id}.json"
    if path.exists() and not replace:
        raise ConfigError(
            f"{path} names a deployment on chain {client.chain_id} already",
            fix="name another folder with --deployments, or replace the file with --replace",
        )
    profile = cli.profile()
    tokens = f"{DEFAULT_SUPPLY // 10**18:,} CMP"
    account = cli.account() if profile.keystore or profile.account else "the signer"
    plan = {
        "chain": client.chain_id,
        "signer": account,
        "fee": f"{fee_bps / 100:g} %",
        "fee_recipient": fee_recipient or "nobody",
        "settle_window": f"{settle_window} s",
        "token": token or "a new one, which is play money",
        "supply": None if token else tokens,
        "holder": None if token else holder or account,
        "file": path,
    }
    if cli.dry_run:
        show(plan, PLAN)
        return
    show_plan(plan, PLAN)
    _probe(path)  # before money is spent on what could not be written down
    signer = cli.signer()
    confirm(f"Deploy as {signer.address}?")
    terms = EscrowSettings(fee_bps, fee_recipient or ZERO_ADDRESS, settle_window)
    made = place(client, signer, terms, token=token, holder=holder)
    show({**made.to_json(), "file": made.save(folder)}, PLACES)


@app.command()
def verify(chain_id: ChainId = None, deployments: Folder = None) -> None:
    """Check that the contracts on the chain are the ones that this version ships."""
    found = _load(deployments, chain_id)
    check_deployment(chain_client(found.chain_id), found)
    note(f"chain {found.chain_id}: the escrow is the one that ships")
    show(found.to_json(), PLACES[:-1])


@app.command()
def addresses(chain_id: ChainId = None, deployments: Folder = None) -> None:
    """Show the addresses of the contracts."""
    show(_load(deployments, chain_id).to_json(), PLACES[:-1])


def chain_client(chain_id: int | None = None) -> ChainClient:
    """The chain that the profile or ETH_RPC_URL names."""
    profile = current().profile()
    wanted = chain_id or profile.chain_id
    if not profile.rpc_url or not wanted:
        missing = "set ETH_RPC_URL" if not profile.rpc_url else "say --chain-id"
        raise ConfigError("no chain is known", fix=f"{missing}, or use a profile with one")
    return ChainClient(profile.rpc_url, wanted)


def _folder(given: Path | None) -> Path:
    return given or Path(os.environ.get("COULOMB_DEPLOYMENTS") or "deployments")


def _probe(path: Path) -> None:
    """Pass if a file can be written next to `path`. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (probe := path.with_suffix(".probe")).touch()
        probe.unlink()
    except OSError as error:
        fix = "name another folder with --deployments"
        raise ConfigError(f"{path} cannot be written: {error.strerror}", fix) from None


def _load(given: Path | None, chain_id: int | None) -> Deployment:
    wanted = chain_id or current().profile().chain_id
    if wanted is None:
        raise ConfigError("no chain is known", fix="say --chain-id, or use a profile with one")
    return load_deployment(_folder(given), wanted)
