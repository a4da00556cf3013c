"""What the services need from outside: a store, the chain, a clock, a place for bytes.

`Database.write()` is one durable transaction: what is done inside is there entirely after it, or
not at all. Nothing in it is visible to others before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from marketplace.errors import AlreadyExists
from marketplace.services import records
from settlement.eip712 import Domain
from settlement.leases import OrderState
from settlement.ports import BlockRef, Intent, IntentKind, LoggedEvent

R = TypeVar("R")
BLOB_ROW_BYTES = 4096
"""What a blob costs beside its bytes, so that many small ones count, too."""


CANCEL_KEY = "cancel:{account}:{salt}:{and_older}"
"""The outbox's key of a Cancel: one transaction for each, however often it is signed."""
CANCEL_TRIES = 4
"""How often a Cancel is taken whose transactions died."""


class Duplicate(AlreadyExists):
    """A unique constraint of the store refused a row; `table` says whose."""

    def __init__(self, table: str) -> None:
        super().__init__(f"another row of {table} has the same unique value")
        self.table = table


class Table(Protocol[R]):
    """Rows of one record type by key. `equal` filters: None is null, a tuple is any of."""

    def get(self, key: str, *, lock: bool = False) -> R | None:
        """The row with this key; `lock` keeps other writers off it until the end."""
        ...

    def one(self, **equal: Any) -> R | None:
        """The first row that matches."""
        ...

    def find(
        self,
        *,
        limit: int | None = None,
        newest: bool = False,
        before: Any = None,
        after: Any = None,
        least: dict[str, int] | None = None,
        **equal: Any,
    ) -> list[R]:
        """Rows in key order (`newest`: reversed), between `after` and `before`, both exclusive.

        `least` names integer columns and the smallest value of each.
        """
        ...

    def add(self, record: R) -> R:
        """Insert, and return what was inserted. Raises Duplicate."""
        ...

    def ensure(self, record: R) -> None:
        """Insert unless one of its unique values is there already; no error either way."""
        ...

    def put(self, record: R) -> None:
        """Replace the row with the record's key. Raises KeyError if there is none."""
        ...

    def remove(self, **equal: Any) -> int:
        """Delete matching rows; returns how many."""
        ...


class Log(Protocol[R]):
    """Rows that the store numbers (`seq`) in the order in which transactions become visible.

    A reader that has seen a number never gets a smaller one later.
    """

    def append(self, record: R) -> None:
        """Add a row when this transaction ends; it is numbered then, and not found before."""
        ...

    def find(
        self,
        *,
        limit: int | None = None,
        newest: bool = False,
        before: Any = None,
        after: Any = None,
        **equal: Any,
    ) -> list[R]:
        """Rows in order of their numbers, as in `Table.find`."""
        ...


@dataclass(frozen=True, slots=True)
class Tally:
    """How many rows there are: jobs, leases and intents by state, asks on the book.

    `oldest_intent_ms` is when the oldest intent was added that is neither final nor dead.
    """

    jobs: Mapping[str, int]
    leases: Mapping[str, int]
    intents: Mapping[str, int]
    oldest_intent_ms: int | None
    asks_resting: int


class Store(Protocol):
    """Everything one transaction can reach."""

    @property
    def accounts(self) -> Table[records.Account]: ...
    @property
    def keys(self) -> Table[records.ApiKey]: ...
    @property
    def nodes(self) -> Table[records.Node]: ...
    @property
    def gpus(self) -> Table[records.Gpu]: ...
    @property
    def asks(self) -> Table[records.AskRecord]: ...
    @property
    def bids(self) -> Table[records.BidRecord]: ...
    @property
    def jobs(self) -> Table[records.JobRecord]: ...
    @property
    def order_log(self) -> Log[records.OrderEntry]: ...
    @property
    def fills(self) -> Table[records.FillRecord]: ...
    @property
    def leases(self) -> Table[records.LeaseRecord]: ...
    @property
    def attestations(self) -> Table[records.AttestationRecord]: ...
    @property
    def vouchers(self) -> Table[records.VoucherRecord]: ...
    @property
    def receipts(self) -> Table[records.ReceiptRecord]: ...
    @property
    def events(self) -> Log[records.JobEvent]: ...
    @property
    def blobs(self) -> Table[records.Blob]: ...
    @property
    def replies(self) -> Table[records.IdempotentReply]: ...
    @property
    def marks(self) -> Table[records.Mark]: ...

    def enqueue(self, kind: IntentKind, key: str, payload: dict[str, Any]) -> Intent:
        """Add an intent to the outbox in this transaction; the same key again returns the first."""
        ...

    def intent(self, key: str) -> Intent | None:
        """The intent with this key."""
        ...

    def chain_events(self, lease_no: str) -> Sequence[LoggedEvent]:
        """The events of one lease in chain order."""
        ...

    def chain_cursor(self) -> BlockRef | None:
        """The newest block the indexer has taken in."""
        ...

    def tally(self, now_s: int) -> Tally:
        """Counts for operators, made by the store; an ask that has expired by `now_s` is none."""
        ...

    def forget_replies(self, before_ms: int) -> int:
        """Delete stored answers older than a time; returns how many."""
        ...

    def order_salts(self, account: str, lowest: int, highest: int) -> tuple[int, int] | None:
        """The least and the greatest salt in a range, ends included, of the account's asks and bids
        that no Cancel of their own makes void, whatever became of them; None where there is none.
        """
        ...

    def blob_bytes(self, owner: str, since_ms: int) -> int:
        """Bytes of the blobs that an account has uploaded since, and BLOB_ROW_BYTES for each."""
        ...

    def lead(self, name: str) -> bool:
        """Become the only holder of `name` until this transaction ends; False if another is."""
        ...


class Database(Protocol):
    """Where transactions come from."""

    def read(self) -> AbstractContextManager[Store]:
        """One consistent view."""
        ...

    def write(self) -> AbstractContextManager[Store]:
        """One durable transaction; an exception undoes it."""
        ...


class Clock(Protocol):
    """Wall time of the server."""

    def __call__(self) -> int:
        """Unix time in ms."""
        ...


class BlobDraft(Protocol):
    """Bytes of a blob that are still coming in."""

    def write(self, piece: bytes) -> None:
        """Add bytes. Raises Unavailable where there is no room."""
        ...

    def keep(self, sha256: str) -> None:
        """Keep them durably by their SHA-256 in hex; the same bytes again change nothing."""
        ...


class BlobFiles(Protocol):
    """Where the bytes of blobs lie, by their SHA-256 in hex."""

    def draft(self) -> AbstractContextManager[BlobDraft]:
        """A place for bytes that come in; at its end they are gone unless they were kept."""
        ...

    def open(self, sha256: str) -> Iterator[bytes]:
        """The bytes in pieces. Raises KeyError if they are not here."""
        ...


class EscrowReads(Protocol):
    """Reads of the chain. Raise ChainError where it cannot be reached."""

    def balance_of(self, account: str) -> int:
        """Free atoms of an account in the escrow."""
        ...

    def order_state(self, account: str, salt: int) -> OrderState:
        """Whether a bid of this account and salt has opened a lease; whether it is void."""
        ...

    def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        """Whether the contract at an account says the signature is its own (ERC-1271).

        False where there is no contract, and where its code fails.
        """
        ...


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
