"""Leases, the attestations and vouchers of their usage, and receipts."""

from collections.abc import Iterable, Sequence

from sqlalchemy import delete, func, or_
from sqlmodel import col, select

from marketplace.db.rows import Rows
from marketplace.db.tables import (
    AttestationRow,
    IntentRow,
    JobRow,
    LeaseRow,
    NodeRow,
    ReceiptRow,
    VoucherRow,
)
from marketplace.domain.life import LEASE_OPEN, LEASE_OVER, LeaseState

_PARTIES = {"buyer": LeaseRow.buyer, "provider": LeaseRow.provider, "witness": LeaseRow.witness}


class LeaseRows(Rows[LeaseRow]):
    """Leases."""

    row = LeaseRow

    def by_number(self, lease_no: str, *, lock: bool = False) -> LeaseRow | None:
        """The lease with this number on chain."""
        query = select(LeaseRow).where(LeaseRow.lease_no == lease_no)
        if lock:
            query = query.with_for_update().execution_options(populate_existing=True)
        return self._first(query)

    def page(
        self,
        account: str,
        roles: Iterable[str],
        states: Sequence[str],
        node_id: str | None,
        limit: int,
        before: str | None,
    ) -> list[LeaseRow]:
        """Leases in which an account is one of `buyer`, `provider`, `witness`, newest first, by
        states and node if given."""
        query = select(LeaseRow).where(or_(*(col(_PARTIES[role]) == account for role in roles)))
        if states:
            query = query.where(col(LeaseRow.state).in_(states))
        if node_id:
            query = query.where(LeaseRow.node_id == node_id)
        return self._page(query, limit, before)

    def open_for_witness(self, account: str, limit: int) -> list[LeaseRow]:
        """Open leases that an account buys or witnesses, oldest first."""
        mine = or_(col(LeaseRow.buyer) == account, col(LeaseRow.witness) == account)
        query = select(LeaseRow).where(mine, col(LeaseRow.state).in_(LEASE_OPEN))
        return self._all(query.order_by(col(LeaseRow.id)).limit(limit))

    def locked_atoms(self, buyer: str) -> int:
        """Atoms that the open leases of a buyer hold and have not released."""
        query = select(LeaseRow.lock, LeaseRow.released).where(
            LeaseRow.buyer == buyer, col(LeaseRow.state).in_(LEASE_OPEN)
        )
        return sum(lock - released for lock, released in self._session.exec(query))

    def committed_atoms(self, bid_id: str) -> int:
        """Atoms that the opened leases of a bid have cost, or may still cost."""
        query = select(LeaseRow.state, LeaseRow.released, LeaseRow.lock).where(
            LeaseRow.bid_id == bid_id, col(LeaseRow.opened_tx).is_not(None)
        )
        rows = self._session.exec(query)
        return sum(
            released if state is LeaseState.CLOSED else lock for state, released, lock in rows
        )

    def last_opened(self, bid_id: str) -> LeaseRow | None:
        """The newest lease of a bid that opened on chain."""
        query = select(LeaseRow).where(
            LeaseRow.bid_id == bid_id, col(LeaseRow.opened_tx).is_not(None)
        )
        found: LeaseRow | None = self._first(query.order_by(col(LeaseRow.id).desc()))
        return found

    def is_provider_of_bid(self, provider: str, bid_id: str) -> bool:
        """Whether a bid was matched with an ask of this provider."""
        query = select(LeaseRow.id).where(LeaseRow.bid_id == bid_id, LeaseRow.provider == provider)
        return self._first(query) is not None

    def active(self) -> list[tuple[LeaseRow, JobRow, NodeRow]]:
        """Every active lease with its job and node, oldest first."""
        query = select(LeaseRow, JobRow, NodeRow).where(
            LeaseRow.job_id == JobRow.id,
            LeaseRow.node_id == NodeRow.id,
            LeaseRow.state == LeaseState.ACTIVE,
        )
        return list(self._session.exec(query.order_by(col(LeaseRow.id))))

    def open_that_ended_before(self, second: int) -> list[LeaseRow]:
        """Leases that are open on chain and whose end lies before a chain second."""
        query = select(LeaseRow).where(
            col(LeaseRow.state).in_(LEASE_OPEN), col(LeaseRow.end_s) < second
        )
        return self._all(query.order_by(col(LeaseRow.id)))

    def last_ended(self, provider: str, limit: int) -> list[LeaseRow]:
        """A provider's stopped and closed leases, newest first."""
        query = select(LeaseRow).where(
            LeaseRow.provider == provider, col(LeaseRow.state).in_(LEASE_OVER)
        )
        return self._page(query, limit, None)

    def refused_openings(self) -> list[tuple[str, str | None]]:
        """Leases in `opening` whose intent died, and with which error, oldest first."""
        query = select(LeaseRow.id, IntentRow.error).where(
            LeaseRow.state == LeaseState.OPENING,
            col(IntentRow.key) == "open:" + col(LeaseRow.id),
            IntentRow.state == "dead",
        )
        return list(self._session.exec(query.order_by(col(LeaseRow.id))))


class AttestationRows(Rows[AttestationRow]):
    """Attestations."""

    row = AttestationRow

    def accepted(self, lease_id: str, sequence: int) -> AttestationRow | None:
        """The accepted attestation of a lease with this sequence number."""
        query = select(AttestationRow).where(
            AttestationRow.lease_id == lease_id,
            AttestationRow.sequence == sequence,
            AttestationRow.state == "accepted",
        )
        return self._first(query)

    def accepted_count(self, lease_id: str) -> int:
        """How many attestations of a lease were accepted."""
        query = select(func.count()).where(
            col(AttestationRow.lease_id) == lease_id, col(AttestationRow.state) == "accepted"
        )
        return self._session.exec(query).one()

    def newest_accepted(self, lease_ids: Iterable[str]) -> dict[str, AttestationRow]:
        """The newest accepted attestation of each lease that has one."""
        query = select(AttestationRow).where(
            AttestationRow.lease_id == LeaseRow.id,
            AttestationRow.sequence == LeaseRow.sequence,
            AttestationRow.state == "accepted",
            col(LeaseRow.id).in_(lease_ids),
        )
        return {row.lease_id: row for row in self._all(query)}

    def page(
        self, lease_id: str, after_sequence: int, limit: int, after: str | None
    ) -> list[AttestationRow]:
        """Attestations of a lease with greater sequence numbers, in order of arrival."""
        query = select(AttestationRow).where(
            AttestationRow.lease_id == lease_id, col(AttestationRow.sequence) > after_sequence
        )
        if after is not None:
            query = query.where(col(AttestationRow.id) > after)
        return self._all(query.order_by(col(AttestationRow.id)).limit(limit))

    def forget_refused(self, lease_id: str, kept: int) -> None:
        """Delete all refused attestations of a lease but the newest few."""
        refused = (col(AttestationRow.lease_id) == lease_id, col(AttestationRow.state) == "refused")
        newest = select(AttestationRow.id).where(*refused).order_by(col(AttestationRow.id).desc())
        old = delete(AttestationRow).where(
            *refused, col(AttestationRow.id).not_in(newest.limit(kept))
        )
        self._session.exec(old, execution_options={"synchronize_session": False})


class VoucherRows(Rows[VoucherRow]):
    """The best voucher of each lease."""

    row = VoucherRow

    def put(self, voucher: VoucherRow) -> None:
        """Add a lease's voucher, or replace the one that it has."""
        self._session.merge(voucher)

    def unpaid(self) -> list[tuple[VoucherRow, LeaseRow]]:
        """Vouchers that the chain has not paid, each with its lease, oldest lease first."""
        query = select(VoucherRow, LeaseRow).where(
            VoucherRow.lease_id == LeaseRow.id, col(VoucherRow.paid).is_(False)
        )
        return list(self._session.exec(query.order_by(col(LeaseRow.id))))


class ReceiptRows(Rows[ReceiptRow]):
    """Receipts."""

    row = ReceiptRow

    def is_written(self, lease_id: str) -> bool:
        """Whether a lease has its receipt."""
        return self._first(select(ReceiptRow.id).where(ReceiptRow.lease_id == lease_id)) is not None

    def of_job(self, job_id: str) -> list[ReceiptRow]:
        """Receipts of a job's leases, oldest first."""
        query = select(ReceiptRow).where(ReceiptRow.job_id == job_id)
        return self._all(query.order_by(col(ReceiptRow.id)))

    def page(self, account: str, limit: int, before: str | None) -> list[ReceiptRow]:
        """Receipts of an account as buyer or provider, newest first."""
        mine = or_(col(ReceiptRow.buyer) == account, col(ReceiptRow.provider) == account)
        return self._page(select(ReceiptRow).where(mine), limit, before)
