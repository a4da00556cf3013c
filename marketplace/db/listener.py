"""Changes that other processes committed, by PostgreSQL's LISTEN and NOTIFY.

On SQLite nothing is told across processes: loops look now and then by themselves.
"""

import threading
from collections.abc import Collection

from sqlalchemy import Connection, func, select
from sqlalchemy.engine import make_url

from marketplace.db.changes import EVERYTHING, Changes

CHANNEL = "coulomb"
PAYLOAD_BYTES_MAX = 7_999  # PostgreSQL's own bound
RETRY_S = 1.0
LOOK_S = 1.0


def notify(connection: Connection, topics: Collection[str]) -> None:
    """Tell every process that listens, once this transaction is committed."""
    payload = " ".join(sorted(topics))
    if len(payload) > PAYLOAD_BYTES_MAX:
        payload = EVERYTHING
    connection.execute(select(func.pg_notify(CHANNEL, payload)))


class Listener:
    """One thread that passes on what other processes tell. Does nothing on SQLite."""

    def __init__(self, url: str, changes: Changes) -> None:
        self._url = make_url(url)
        self._changes = changes
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        if self._url.get_backend_name() == "postgresql":
            self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(10)

    def _run(self) -> None:
        import psycopg

        address = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not self._stopping.is_set():
            try:
                with psycopg.connect(address, autocommit=True) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._changes.tell([EVERYTHING])  # whatever was missed meanwhile
                    while not self._stopping.is_set():
                        for told in connection.notifies(timeout=LOOK_S):
                            self._changes.tell(told.payload.split(" "))
            except psycopg.OperationalError:
                self._stopping.wait(RETRY_S)
