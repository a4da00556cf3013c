"""A market server as a program of its own, so that a test can kill it."""

import logging
from pathlib import Path

import structlog

from marketplace.server.roles import run_roles
from marketplace.server.settings import ROLES, Settings
from settlement.chain.devnet import DEV_CHAIN_ID, dev_account


def settings(folder: Path, rpc_url: str, roles: tuple[str, ...]) -> Settings:
    """Fast intervals, no confirmations, everything below one folder."""
    return Settings(
        database_url=f"sqlite:///{folder}/market.db",
        rpc_url=rpc_url,
        chain_id=DEV_CHAIN_ID,
        deployments=folder,
        blobs=folder / "blobs",
        roles=roles,
        opener=dev_account(3).address,
        port=0,
        interval_ms=1_000,
        settle_every_s=1,
        confirmations=0,
        poll_s=0.1,
    )


def serve(folder: Path, rpc_url: str, roles: tuple[str, ...] = ROLES) -> int:
    """Print the URL, then serve until told to stop. The relayer's key is a development key that
    every Anvil knows."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

    def ready(url: str) -> None:
        print(url, flush=True)

    signer = dev_account(3) if "relayer" in roles else None
    return run_roles(settings(folder, rpc_url, roles), signer, ready)
