"""Relayers in child processes, made to be killed: `python -m tests.relayer_process`.

For each JSON request on a line of its input it forks a child, which ticks on the SQLite outbox `db`
until nothing is left to do. The child sends itself SIGKILL when it passes the failpoint `kill_at`
for the `nth` time, or after `kill_after` seconds. The answer is the child's wait status.
"""

import json
import os
import signal
import sys
import threading
import time
from typing import Any

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


def work(request: dict[str, Any]) -> None:
    """Tick until every intent is final or dead, or this process is killed."""
    store = SqlOutbox(Database(f"sqlite:///{request['db']}"))
    client = ChainClient(request["rpc_url"], DEV_CHAIN_ID)
    signer = LocalSigner(bytes.fromhex(request["key"]))
    passed = 0

    def failpoint(name: str) -> None:
        nonlocal passed
        if name == request["kill_at"]:
            passed += 1
            if passed == request["nth"]:
                os.kill(os.getpid(), signal.SIGKILL)

    relayer = Relayer(
        store,
        Escrow(client, request["escrow"]),
        signer,
        RelayerSettings(confirmations=0),
        failpoint=failpoint,
    )
    if request["kill_after"] is not None:
        threading.Thread(target=die_after, args=(request["kill_after"],), daemon=True).start()
    while store.unfinished(1):
        relayer.tick()
        time.sleep(0.01)


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                work(request)
            finally:
                sys.stdout.flush()
                os._exit(0 if sys.exc_info()[0] is None else 1)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": status}), flush=True)


if __name__ == "__main__":
    main()
