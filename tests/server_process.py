"""A market server as a process of its own, so that a test can kill it: prints its URL, then serves.

Usage: python -m tests.server_process FOLDER RPC_URL [ROLES]. The relayer's key is a development
key that every Anvil knows.
"""

from __future__ import annotations

import logging
import sys
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


def main() -> int:
    """Serve until told to stop."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

    def ready(url: str) -> None:
        print(url, flush=True)

    folder, rpc_url = Path(sys.argv[1]), sys.argv[2]
    roles = tuple(sys.argv[3].split(",")) if len(sys.argv) > 3 else ROLES
    signer = dev_account(3) if "relayer" in roles else None
    return run_roles(settings(folder, rpc_url, roles), signer, ready)


if __name__ == "__main__":
    raise SystemExit(main())
