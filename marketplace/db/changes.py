"""What was just committed, told to whoever waits for it, so that nobody has to keep asking.

A topic is `orders` (the order log grew), `outbox` (an intent was added), `chain` (the chain's head
moved) or `job:<id>` (the job has a new event). EVERYTHING stands for all of them.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

ORDERS, OUTBOX, CHAIN, EVERYTHING = "orders", "outbox", "chain", "*"
UNTOLD_S = 5.0
"""How often to look although nothing was told: on SQLite another process's commits go untold."""


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
