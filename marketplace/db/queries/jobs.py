"""Bids, jobs, the order log, the book's snapshots, and the events of jobs."""

from collections.abc import Sequence

from sqlalchemy import func
from sqlmodel import col, delete, select

from marketplace.db.rows import NumberedRows, Rows
from marketplace.db.tables import BidRow, BookSnapshotRow, JobEventRow, JobRow, OrderEntryRow
from marketplace.domain.life import JOB_LIVE, JobState


class BidRows(Rows[BidRow]):
    """Bids."""

    row = BidRow

    def page(self, account: str, limit: int, before: str | None) -> list[BidRow]:
        """An account's bids, newest first."""
        return self._page(select(BidRow).where(BidRow.account == account), limit, before)


class JobRows(Rows[JobRow]):
    """Jobs."""

    row = JobRow

    def page(
        self, account: str, states: Sequence[str], limit: int, before: str | None
    ) -> list[JobRow]:
        """An account's jobs in some states (all, if none is given), newest first."""
        query = select(JobRow).where(JobRow.account == account)
        if states:
            query = query.where(col(JobRow.state).in_(states))
        return self._page(query, limit, before)

    def live_count(self, account: str) -> int:
        """How many jobs of an account have not ended."""
        query = select(func.count()).where(
            col(JobRow.account) == account, col(JobRow.state).in_(JOB_LIVE)
        )
        return self._session.exec(query).one()

    def reserved_atoms(self, account: str) -> int:
        """Atoms that jobs of an account will lock and that the chain doesn't show as locked yet."""
        query = select(JobRow.reserve).where(
            JobRow.account == account, col(JobRow.state).in_(JOB_LIVE), col(JobRow.reserve) > 0
        )
        return sum(self._all(query))  # atoms exceed what a database sums

    def live_with_bids(self, account: str) -> list[tuple[JobRow, BidRow]]:
        """Jobs of an account that have not ended, each with its bid, oldest first."""
        query = select(JobRow, BidRow).where(
            JobRow.bid_id == BidRow.id, JobRow.account == account, col(JobRow.state).in_(JOB_LIVE)
        )
        return list(self._session.exec(query.order_by(col(JobRow.id))))

    def waiting_for_a_lease(self) -> list[JobRow]:
        """Queued jobs whose bids go back on the book once their last lease is over."""
        query = select(JobRow).where(
            JobRow.state == JobState.QUEUED, col(JobRow.requeue_after).is_not(None)
        )
        return self._all(query.order_by(col(JobRow.id)))


class OrderLog(NumberedRows[OrderEntryRow]):
    """The commands to the book."""

    row = OrderEntryRow

    def after(self, seq: int, limit: int) -> list[OrderEntryRow]:
        """Rows that come after a number, in order."""
        return self._after(select(OrderEntryRow), seq, limit)

    def between(self, seq: int, last: int, limit: int) -> list[OrderEntryRow]:
        """Rows that come after a number and up to another, in order."""
        query = select(OrderEntryRow).where(OrderEntryRow.seq <= last)
        return self._after(query, seq, limit)

    def last_seq(self) -> int:
        """The greatest number so far; 0 if there is none."""
        return self._session.exec(select(func.max(OrderEntryRow.seq))).one() or 0


class SnapshotRows(Rows[BookSnapshotRow]):
    """The book's snapshots."""

    row = BookSnapshotRow

    def newest(self, at_most: int) -> BookSnapshotRow | None:
        """The newest snapshot that is not ahead of a row of the order log."""
        query = select(BookSnapshotRow).where(BookSnapshotRow.seq <= at_most)
        return self._first(query.order_by(col(BookSnapshotRow.seq).desc()))

    def keep(self, row: BookSnapshotRow) -> None:
        """Store a snapshot in place of all earlier ones."""
        self._session.exec(delete(BookSnapshotRow).where(col(BookSnapshotRow.seq) <= row.seq))
        self.add(row)


class JobEvents(NumberedRows[JobEventRow]):
    """What people watch of jobs."""

    row = JobEventRow

    def after(
        self, job_id: str, seq: int, limit: int, kind: str | None = None
    ) -> list[JobEventRow]:
        """Events of a job (of one type, if given) that come after a number, in order."""
        query = select(JobEventRow).where(JobEventRow.job_id == job_id)
        if kind is not None:
            query = query.where(JobEventRow.type == kind)
        return self._after(query, seq, limit)
