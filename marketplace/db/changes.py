"""Tells whoever waits for it what was just committed, so that nobody has to keep asking.

A topic is `orders` (the order log grew), `outbox` (an intent was added), `chain` (the chain's head
moved) or `job:<id>` (the job has a new event). EVERYTHING stands for all of them. Between processes
PostgreSQL's LISTEN and NOTIFY carry it; on SQLite loops look now and then by themselves.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, func, select
from sqlalchemy.engine import make_url

ORDERS, OUTBOX, CHAIN, EVERYTHING = "orders", "outbox", "chain", "*"
UNTOLD_S = 5.0
"""How often to look unasked: on SQLite a process is not told what another one commits."""
CHANNEL = "coulomb"
PAYLOAD_BYTES_MAX = 7_999  # PostgreSQL's own bound
RETRY_S = 1.0
LOOK_S = 1.0


def job_topic(job_id: str) -> str:
    """The topic of one job's events."""
    return f"job:{job_id}"


class Changes:
    """Thread-safe. Callbacks run on the thread that tells; they must be quick and never raise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Callable[[], None]]] = {}

    @contextmanager
    def subscribed(self, callback: Callable[[], None], *topics: str) -> Iterator[None]:
        """Call `callback` after each change of one of the topics for as long as this is open."""
        self.subscribe(callback, *topics)
        try:
            yield
        finally:
            with self._lock:
                for topic in topics:
                    callbacks = self._waiting[topic]
                    callbacks.discard(callback)
                    if not callbacks:
                        del self._waiting[topic]

    def subscribe(self, callback: Callable[[], None], *topics: str) -> None:
        """Call `callback` after each change of one of the topics, for good."""
        with self._lock:
            for topic in topics:
                self._waiting.setdefault(topic, set()).add(callback)

    def tell(self, topics: Iterable[str]) -> None:
        """Call everyone who waits for one of these topics, each once."""
        with self._lock:
            told = set(topics)
            if EVERYTHING in told:
                told.update(self._waiting)
            callbacks = {c for topic in told for c in self._waiting.get(topic, ())}
        for callback in callbacks:
            callback()


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
        if self._url.get_backend_name() == "postgresql":
            self._thread.start()

    def stop(self) -> None:
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
