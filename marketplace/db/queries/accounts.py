"""Accounts, their keys and blobs; stored answers; marks."""

from sqlalchemy import delete, exists, func
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col, select

from marketplace.db.rows import Rows
from marketplace.db.tables import (
    AccountRow,
    ApiKeyRow,
    BlobRow,
    IdempotentReplyRow,
    JobRow,
    LeaseRow,
    MarkRow,
)
from marketplace.domain.life import LEASE_OPEN

BLOB_ROW_BYTES = 4096  # what a blob costs besides its bytes, so that many small ones count, too


class AccountRows(Rows[AccountRow]):
    """Accounts by address."""

    row = AccountRow

    def get_or_add(self, address: str, now_ms: int, *, lock: bool = False) -> AccountRow:
        """The account, created on first sight, whoever else creates it at the same time."""
        found = self.get(address, lock=lock)
        if found is None:
            is_postgres = self._session.get_bind().dialect.name == "postgresql"
            insert = (postgresql if is_postgres else sqlite).insert(AccountRow)
            values = {"address": address, "next_salt": 0, "created_ms": now_ms, "orders_from": 0}
            self._session.exec(insert.values(values).on_conflict_do_nothing())
            found = self.need(address, lock=lock)
        return found


class ApiKeyRows(Rows[ApiKeyRow]):
    """API keys."""

    row = ApiKeyRow

    def by_secret(self, secret_hash: str) -> ApiKeyRow | None:
        """The key with this hash."""
        return self._first(select(ApiKeyRow).where(ApiKeyRow.secret_hash == secret_hash))

    def live_count(self, account: str) -> int:
        """How many keys of an account are not revoked; expired ones count."""
        query = select(func.count()).where(
            col(ApiKeyRow.account) == account, col(ApiKeyRow.revoked_ms).is_(None)
        )
        return self._session.exec(query).one()

    def page(self, account: str, limit: int, before: str | None) -> list[ApiKeyRow]:
        """An account's keys, newest first."""
        return self._page(select(ApiKeyRow).where(ApiKeyRow.account == account), limit, before)


class BlobRows(Rows[BlobRow]):
    """Who has uploaded which bytes."""

    row = BlobRow

    def of(self, owner: str, sha256: str) -> BlobRow | None:
        """An account's own upload of these bytes."""
        return self._first(select(BlobRow).where(BlobRow.owner == owner, BlobRow.sha256 == sha256))

    def bytes_since(self, owner: str, since_ms: int) -> int:
        """Bytes that an account has uploaded since, and BLOB_ROW_BYTES for each blob."""
        total = func.coalesce(func.sum(col(BlobRow.size) + BLOB_ROW_BYTES), 0)
        query = select(total).where(BlobRow.owner == owner, col(BlobRow.created_ms) >= since_ms)
        return int(self._session.exec(query).one())

    def is_output_for(self, account: str, sha256: str) -> bool:
        """Whether a provider uploaded these bytes as the output of a job of this account."""
        uploaded = exists().where(
            col(LeaseRow.id) == col(JobRow.lease_id),
            col(BlobRow.owner) == col(LeaseRow.provider),
            col(BlobRow.sha256) == sha256,
        )
        query = select(JobRow.id).where(
            JobRow.account == account, JobRow.outputs == sha256, uploaded
        )
        return self._first(query) is not None

    def is_input_for(self, provider: str, sha256: str) -> bool:
        """Whether a job that runs under an open lease of this provider reads these bytes."""
        query = select(LeaseRow.id).where(
            LeaseRow.provider == provider,
            col(LeaseRow.state).in_(LEASE_OPEN),
            LeaseRow.job_id == JobRow.id,
            col(JobRow.spec)[("inputs", "sha256")].as_string() == sha256,
        )
        return self._first(query) is not None


class ReplyRows(Rows[IdempotentReplyRow]):
    """Stored answers to idempotency keys."""

    row = IdempotentReplyRow

    def forget(self, before_ms: int) -> int:
        """Delete answers older than a time; returns how many."""
        old = delete(IdempotentReplyRow).where(col(IdempotentReplyRow.created_ms) < before_ms)
        return self._session.exec(old, execution_options={"synchronize_session": False}).rowcount


class MarkRows(Rows[MarkRow]):
    """Named numbers that only grow."""

    row = MarkRow
