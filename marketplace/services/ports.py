"""What the services need from outside besides the store: the chain, a clock, a place for bytes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from marketplace.limits import EARLY_STOPS_MAX
from settlement.chain.calls import LeaseRef
from settlement.consent import AccountReads
from settlement.eip712 import Domain
from settlement.errors import CallReverted
from settlement.leases import SaltState, Side
from settlement.orders import Numbered

Clock = Callable[[], int]
"""Wall time of the server: Unix time in ms."""


class Upload(Protocol):
    """One blob on its way in: hashed and counted as it comes, so it is never whole in memory."""

    @property
    def size(self) -> int:
        """Bytes so far."""

    def write(self, piece: bytes) -> None:
        """Take the next bytes. Raises TooLarge; Unavailable if there is no room."""

    def keep(self) -> str:
        """Make the bytes durable, before any row names them; returns their SHA-256 in hex."""


class BlobFiles(Protocol):
    """Where the bytes of blobs lie, by their SHA-256 in hex."""

    def receive(self) -> AbstractContextManager[Upload]:
        """Begin an upload. If it is not kept, nothing of it stays."""

    def open(self, sha256: str) -> Iterator[bytes]:
        """The bytes in pieces. Raises KeyError if they are not here."""


class EscrowReads(AccountReads, Protocol):
    """Reads of the chain. Raise ChainError if it cannot be reached."""

    def balance_of(self, account: str) -> int:
        """Free atoms of an account in the escrow."""

    def salt_state(self, account: str, salt: int, kind: Numbered = Numbered.ORDERS) -> SaltState:
        """Whether a bid of this account and salt has opened a lease, or a signed call was sent;
        whether it is void."""

    def refusal(self, data: bytes, sender: str, gas: int) -> CallReverted | None:
        """Why a call of the escrow would fail now; None if it would not."""

    def who_stopped(self, tx_hash: str, lease: LeaseRef, meter: str) -> Side:
        """The side that a transaction which stopped the lease acted for."""


@dataclass(frozen=True, slots=True)
class Market:
    """What one deployment and one operator fix for everyone."""

    domain: Domain
    token: str
    currency: str
    decimals: int
    fee_bps: int
    settle_window_s: int
    opener: str
    interval_ms: int
    confirmations: int
    settle_every_s: int
    operators: tuple[str, ...]
    rpc_url: str
    relay_fee: int | None = None  # atoms for sending a call that an account signed; None: not done
    early_stops_max: int = EARLY_STOPS_MAX
