"""What the agent asks of the server.

Every call raises ApiDown if coming again later makes sense, and `ApiError` if the server refused
for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx

from marketplace.agent.errors import ApiDown
from marketplace.agent.journal import Ending
from marketplace.sdk import NO_RETRIES, Coulomb
from marketplace.sdk.errors import (
    AuthError,
    InFlight,
    ProtocolError,
    RateLimited,
    ServerError,
    TransportError,
)
from marketplace.wire.leases import Attestation, Lease
from marketplace.wire.market import MarketConfig
from settlement.attestation import Close, Stop, UsageAttestation
from settlement.orders import Ask, Bid

TIMEOUT_S = 10.0


class AgentApi:
    """The server, over the SDK. It retries nothing: the agent's own loops come again."""

    def __init__(
        self, api_url: str, api_key: str, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._client = Coulomb(
            api_url, api_key, retry=NO_RETRIES, timeout=TIMEOUT_S, transport=transport
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def market(self) -> MarketConfig:
        """Contracts and intervals."""
        with _answers():
            return self._client.market.config()

    def register(self, node: Mapping[str, Any]) -> str:
        """List the node, or bring it up to date; its id. Raises AuthError for a wrong key."""
        with _answers(auth_passes=False):
            return self._client.nodes.register(node).id

    def beat(self, node_id: str) -> None:
        """Say that the node is alive."""
        with _answers():
            self._client.nodes.heartbeat(node_id)

    def leave(self, node_id: str) -> None:
        """Say that the agent ends, so that nobody is matched to the node until it is back."""
        with _answers():
            self._client.nodes.leave(node_id)

    def active_leases(self, node_id: str) -> list[Lease]:
        """Leases of the node that are open on chain."""
        with _answers():
            found = self._client.leases.list(role="provider", state="active", node_id=node_id)
            return list(found)

    def lease(self, lease_id: str) -> Lease:
        """One lease."""
        with _answers():
            return self._client.leases.get(lease_id)

    def orders(self, lease: Lease) -> tuple[Ask, Bid]:
        """The signed orders that a lease was opened from."""
        with _answers():
            ask = self._client.asks.get(lease.ask_id).ask
            return ask, self._client.leases.bid(lease.bid_id).bid

    def attestations(self, lease_id: str, after: int | None = None) -> list[Attestation]:
        """What the server holds of a lease, in order; `after` leaves out sequences up to it."""
        with _answers():
            return list(self._client.leases.attestations(lease_id, after_sequence=after))

    def get_blob(self, sha256: str) -> bytes:
        """A stored file."""
        with _answers():
            return self._client.blobs.get(sha256)

    def put_blob(self, content: bytes) -> str:
        """Store a file; its SHA-256."""
        with _answers():
            return self._client.blobs.put(content).sha256

    def attest(self, lease_id: str, message: UsageAttestation, signature: bytes) -> None:
        """Hand in signed usage."""
        with _answers():
            self._client.leases.attest(lease_id, message, signature)

    def heartbeat(self, lease_id: str, count: int, last_at: float | None) -> None:
        """Forward signs of life; `last_at` is Unix time."""
        last = None if last_at is None else datetime.fromtimestamp(last_at, UTC).isoformat()
        with _answers():
            self._client.leases.heartbeat(lease_id, count, last)

    def log(self, lease_id: str, stream: str, offset: int, text: str) -> None:
        """Append output that begins `offset` bytes into its stream."""
        with _answers():
            self._client.leases.log(lease_id, stream, offset, text)

    def finish(
        self,
        lease_id: str,
        ending: Ending,
        final: tuple[UsageAttestation, bytes],
        close: tuple[Close, bytes],
    ) -> None:
        """Report how a job ended, with the last attestation and the meter's half of the Close."""
        with _answers():
            self._client.leases.finish(
                lease_id,
                outcome=ending.outcome,
                exit_code=ending.exit_code,
                reason=ending.reason,
                outputs=ending.outputs,
                attestation=final[0],
                signature=final[1],
                close=close[0],
                close_signature=close[1],
                idempotency_key=f"finish-{lease_id}-{ending.outcome}",
            )

    def stop(self, lease_id: str, stop: Stop, signature: bytes) -> None:
        """Hand in the meter's Stop."""
        with _answers():
            self._client.leases.stop(lease_id, stop, signature)


@contextmanager
def _answers(auth_passes: bool = True) -> Iterator[None]:
    """Sort the SDK's errors into those that pass and those that stay.

    A key that is refused may be put right by its owner while a job runs, so that passes too.
    """
    try:
        yield
    except (TransportError, ServerError, RateLimited, InFlight, ProtocolError) as error:
        raise ApiDown(f"{type(error).__name__}: {error}") from error
    except AuthError as error:
        if not auth_passes:
            raise
        raise ApiDown(f"{type(error).__name__}: {error}") from error
