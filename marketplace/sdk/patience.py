"""How a client waits for a job while the server is away for a moment."""

import time

from marketplace.sdk.errors import (
    ChainUnavailable,
    CoulombError,
    RateLimited,
    TransportError,
    Unavailable,
)

PASSING = (TransportError, Unavailable, RateLimited, ChainUnavailable)
"""Failures that pass by themselves."""
PATIENCE_SECONDS = 120.0
SETTLING_SECONDS = 60.0
POLL_SECONDS = (0.25, 2.0)


class Patience:
    """How long failures that pass by themselves are borne."""

    def __init__(self) -> None:
        self._since: float | None = None

    def recovered(self) -> None:
        """The last try worked."""
        self._since = None

    def failed(self, error: CoulombError) -> None:
        """One more failure; raises it when they have lasted too long."""
        now = time.monotonic()
        self._since = self._since if self._since is not None else now
        if now - self._since > PATIENCE_SECONDS:
            raise error
