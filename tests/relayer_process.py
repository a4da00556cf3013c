"""A relayer as a program of its own, made to be killed."""

import os
import signal
import threading
import time
from pathlib import Path

from marketplace.db.outbox import SqlOutbox
from marketplace.db.store import Database
from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow
from settlement.chain.devnet import DEV_CHAIN_ID
from settlement.relayer import Relayer, RelayerSettings
from settlement.signing import LocalSigner


def die_after(seconds: float) -> None:
    """Send SIGKILL at a moment that the rest of the process does not choose."""
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def work(
    db: Path,
    rpc_url: str,
    escrow: str,
    key: bytes,
    kill_at: str | None,
    nth: int,
    kill_after: float | None,
) -> None:
    """Tick on the outbox `db` until every intent is final or dead. The process sends itself SIGKILL
    when it passes the failpoint `kill_at` for the nth time, or after `kill_after` seconds."""
    store = SqlOutbox(Database(f"sqlite:///{db}"))
    client = ChainClient(rpc_url, DEV_CHAIN_ID)
    passed = 0

    def failpoint(name: str) -> None:
        nonlocal passed
        if name == kill_at:
            passed += 1
            if passed == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    relayer = Relayer(
        store,
        Escrow(client, escrow),
        LocalSigner(key),
        RelayerSettings(confirmations=0),
        failpoint=failpoint,
    )
    if kill_after is not None:
        threading.Thread(target=die_after, args=(kill_after,), daemon=True).start()
    while store.unfinished(1):
        relayer.tick()
        time.sleep(0.01)
