"""What the market asks of its tables, by name: counts, sums and joins are the database's work."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import delete, exists, func, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col, select

from marketplace.db.rows import NumberedRows, Rows
from marketplace.db.tables import (
    AccountRow,
    ApiKeyRow,
    AskRow,
    AttestationRow,
    BidRow,
    BlobRow,
    BookSnapshotRow,
    GpuRow,
    IdempotentReplyRow,
    IntentRow,
    JobEventRow,
    JobRow,
    LeaseRow,
    NodeRow,
    OrderEntryRow,
    Part,
    ReceiptRow,
    VoucherRow,
)
from marketplace.domain.drafts import AskState, NodeState
from marketplace.domain.life import (
    JOB_LIVE,
    LEASE_OPEN,
    LEASE_OVER,
    JobState,
    LeaseState,
    StopReason,
)
from marketplace.limits import SALT_AHEAD_MAX, STORED_SALT_MAX
from settlement.leases import Side
from settlement.ports import IntentState

BLOB_ROW_BYTES = 4096  # what a blob costs besides its bytes, so that many small ones count, too
RESTING = (AskState.OPEN, AskState.SUSPENDED)  # asks that may be matched now or later


# Accounts


class AccountRows(Rows[AccountRow]):
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

    def pass_salt(self, address: str, salt: int, now_ms: int, *, and_older: bool = False) -> None:
        """Move an account past a salt that the chain has used or cancelled, so that no order gets
        it: after a restore, the chain knows salts that the database has forgotten. `and_older`:
        every order up to it is void. Salts far ahead are left alone: no order is near them."""
        account = self.get_or_add(address, now_ms)
        if salt > (STORED_SALT_MAX if and_older else account.next_salt + SALT_AHEAD_MAX):
            return
        if salt >= account.next_salt or (and_older and salt >= account.orders_from):
            account = self.need(address, lock=True)
            account.next_salt = max(account.next_salt, salt + 1)
            if and_older:
                account.orders_from = max(account.orders_from, salt + 1)


class ApiKeyRows(Rows[ApiKeyRow]):
    def by_secret(self, secret_hash: str) -> ApiKeyRow | None:
        return self._first(select(ApiKeyRow).where(ApiKeyRow.secret_hash == secret_hash))

    def live_count(self, account: str) -> int:
        """How many keys of an account are not revoked; expired ones count."""
        return self._count(ApiKeyRow.account == account, col(ApiKeyRow.revoked_ms).is_(None))

    def page(self, account: str, part: Part) -> list[ApiKeyRow]:
        """An account's keys, newest first."""
        return self._page(part, ApiKeyRow.account == account)


class BlobRows(Rows[BlobRow]):
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
    def forget(self, before_ms: int) -> int:
        """Delete answers older than a time; returns how many."""
        old = delete(IdempotentReplyRow).where(col(IdempotentReplyRow.created_ms) < before_ms)
        return self._session.exec(old, execution_options={"synchronize_session": False}).rowcount


# Nodes and asks


class NodeRows(Rows[NodeRow]):
    def by_number(self, provider: str, number: int) -> NodeRow | None:
        """A provider's node by the number that its asks name."""
        query = select(NodeRow).where(NodeRow.provider == provider, NodeRow.number == number)
        return self._first(query)

    def page(self, provider: str, part: Part) -> list[NodeRow]:
        """A provider's nodes, newest first."""
        return self._page(part, NodeRow.provider == provider)

    def lock_of(self, provider: str) -> list[NodeRow]:
        """All nodes of a provider, locked for change."""
        query = self._oldest_first(NodeRow.provider == provider).with_for_update()
        return self._all(query.execution_options(populate_existing=True))

    def reliability_of(self, provider: str) -> int | None:
        """The reliability of a provider in thousandths, which its nodes share; None without any."""
        query = select(NodeRow.reliability_milli).where(NodeRow.provider == provider)
        return self._first(query.order_by(col(NodeRow.id)))

    def active_unseen_since(self, before_ms: int) -> list[NodeRow]:
        """Active nodes that were last seen before a time."""
        unseen = col(NodeRow.seen_ms) < before_ms
        return self._all(self._oldest_first(NodeRow.state == NodeState.ACTIVE, unseen))


class GpuRows(Rows[GpuRow]):
    def of_nodes(self, node_ids: Iterable[str]) -> dict[str, list[GpuRow]]:
        """The GPUs of each node in order of their positions."""
        found: dict[str, list[GpuRow]] = {node_id: [] for node_id in node_ids}
        query = select(GpuRow).where(col(GpuRow.node_id).in_(found))
        for gpu in self._all(query.order_by(col(GpuRow.position))):
            found[gpu.node_id].append(gpu)
        return found


class AskRows(Rows[AskRow]):
    def page(
        self, equal: Mapping[str, str | None], states: Sequence[str], part: Part
    ) -> list[AskRow]:
        """Asks, newest first, by what their columns must equal if it is given, and by states."""
        given = [getattr(AskRow, name) == value for name, value in equal.items() if value]
        in_states = [col(AskRow.state).in_(states)] if states else []
        return self._page(part, *given, *in_states)

    def of_node(self, node_id: str, state: AskState) -> list[AskRow]:
        """A node's asks in a state, oldest first."""
        return self._all(self._oldest_first(AskRow.node_id == node_id, AskRow.state == state))

    def resting_count(self, node_id: str) -> int:
        """How many asks of a node are open or suspended."""
        return self._count(AskRow.node_id == node_id, col(AskRow.state).in_(RESTING))

    def resting_of(self, provider: str) -> list[AskRow]:
        """A provider's open and suspended asks, oldest first."""
        mine = AskRow.provider == provider
        return self._all(self._oldest_first(mine, col(AskRow.state).in_(RESTING)))


# Bids, jobs, and the book's log


class BidRows(Rows[BidRow]):
    def page(self, account: str, part: Part) -> list[BidRow]:
        """An account's bids, newest first."""
        return self._page(part, BidRow.account == account)


class JobRows(Rows[JobRow]):
    def page(self, account: str, states: Sequence[str], part: Part) -> list[JobRow]:
        """An account's jobs in some states (all, if none is given), newest first."""
        in_states = [col(JobRow.state).in_(states)] if states else []
        return self._page(part, JobRow.account == account, *in_states)

    def live_count(self, account: str) -> int:
        """How many jobs of an account have not ended."""
        return self._count(JobRow.account == account, col(JobRow.state).in_(JOB_LIVE))

    def reserved_atoms(self, account: str) -> int:
        """Atoms that jobs of an account will lock and that the chain doesn't show as locked yet."""
        query = select(JobRow.reserve).where(
            JobRow.account == account, col(JobRow.state).in_(JOB_LIVE), col(JobRow.reserve) > 0
        )
        return sum(self._all(query))  # sums of atoms may exceed a database's integers

    def live_with_bids(self, account: str) -> list[tuple[JobRow, BidRow]]:
        """Jobs of an account that have not ended, each with its bid, oldest first."""
        query = select(JobRow, BidRow).where(
            JobRow.bid_id == BidRow.id, JobRow.account == account, col(JobRow.state).in_(JOB_LIVE)
        )
        return list(self._session.exec(query.order_by(col(JobRow.id))))

    def waiting_for_a_lease(self) -> list[JobRow]:
        """Queued jobs whose bids go back on the book once their last lease is over."""
        waits = col(JobRow.requeue_after).is_not(None)
        return self._all(self._oldest_first(JobRow.state == JobState.QUEUED, waits))


class OrderLog(NumberedRows[OrderEntryRow]):
    def after(self, seq: int, limit: int) -> list[OrderEntryRow]:
        """Rows that come after a number, in order."""
        return self._after(seq, limit)

    def between(self, seq: int, last: int, limit: int) -> list[OrderEntryRow]:
        """Rows that come after a number and up to another, in order."""
        return self._after(seq, limit, OrderEntryRow.seq <= last)

    def last_seq(self) -> int:
        """The greatest number so far; 0 if there is none."""
        return self._session.exec(select(func.max(OrderEntryRow.seq))).one() or 0


class SnapshotRows(Rows[BookSnapshotRow]):
    def newest(self, at_most: int) -> BookSnapshotRow | None:
        """The newest snapshot that is not ahead of a row of the order log."""
        return next(iter(self._page((1, None), BookSnapshotRow.seq <= at_most)), None)

    def keep(self, row: BookSnapshotRow) -> None:
        """Store a snapshot in place of all earlier ones."""
        self._session.exec(delete(BookSnapshotRow).where(col(BookSnapshotRow.seq) <= row.seq))
        self.add(row)


class JobEvents(NumberedRows[JobEventRow]):
    def after(
        self, job_id: str, seq: int, limit: int, kind: str | None = None
    ) -> list[JobEventRow]:
        """Events of a job (of one type, if given) that come after a number, in order."""
        of_kind = [] if kind is None else [JobEventRow.type == kind]
        return self._after(seq, limit, JobEventRow.job_id == job_id, *of_kind)


# Leases, the attestations and vouchers of their usage, receipts


class LeaseRows(Rows[LeaseRow]):
    def by_number(self, lease_no: str, *, lock: bool = False) -> LeaseRow | None:
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
        part: Part,
    ) -> list[LeaseRow]:
        """Leases in which an account is one of `buyer`, `provider`, `witness`, newest first, by
        states and node if given."""
        mine = or_(*(getattr(LeaseRow, role) == account for role in roles))
        in_states = [col(LeaseRow.state).in_(states)] if states else []
        on_node = [LeaseRow.node_id == node_id] if node_id else []
        return self._page(part, mine, *in_states, *on_node)

    def open_for_witness(self, account: str, limit: int) -> list[LeaseRow]:
        """Leases that an account buys or witnesses and that are open, or whose jobs wait for its
        witness to let them go on, oldest first."""
        mine = or_(col(LeaseRow.buyer) == account, col(LeaseRow.witness) == account)
        retried = col(LeaseRow.stop_requested) == StopReason.RETRY
        open_ones = self._oldest_first(mine, or_(col(LeaseRow.state).in_(LEASE_OPEN), retried))
        return self._all(open_ones.limit(limit))

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
        return sum(
            released if state is LeaseState.CLOSED else lock
            for state, released, lock in self._session.exec(query)
        )

    def last_opened(self, bid_id: str) -> LeaseRow | None:
        """The newest lease of a bid that opened on chain."""
        opened = col(LeaseRow.opened_tx).is_not(None)
        return next(iter(self._page((1, None), LeaseRow.bid_id == bid_id, opened)), None)

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

    def going_on(self, node_id: str) -> list[str]:
        """Ids of a node's leases that are open or being opened, oldest first."""
        going = col(LeaseRow.state).in_((LeaseState.OPENING, LeaseState.ACTIVE))
        return [row.id for row in self._all(self._oldest_first(LeaseRow.node_id == node_id, going))]

    def open_that_ended_before(self, second: int) -> list[LeaseRow]:
        """Leases that are open on chain and whose end lies before a chain second."""
        ended = col(LeaseRow.end_s) < second
        return self._all(self._oldest_first(col(LeaseRow.state).in_(LEASE_OPEN), ended))

    def last_ended(self, provider: str, limit: int) -> list[LeaseRow]:
        """A provider's stopped and closed leases, newest first."""
        over = col(LeaseRow.state).in_(LEASE_OVER)
        return self._page((limit, None), LeaseRow.provider == provider, over)

    def early_stops(self, buyer: str, after_ms: int, limit: int) -> list[int]:
        """When the buyer's side stopped leases that were not ready, or made openings fail in their
        block, the latest first."""
        query = select(LeaseRow.stopped_ms).where(
            LeaseRow.buyer == buyer,
            col(LeaseRow.stopped_ms) > after_ms,
            LeaseRow.stopped_by == Side.BUYER,
            col(LeaseRow.ready_ms).is_(None),
            or_(
                col(LeaseRow.start_s).is_not(None), col(LeaseRow.state) == LeaseState.FAILED_TO_OPEN
            ),
        )
        latest = query.order_by(col(LeaseRow.stopped_ms).desc()).limit(limit)
        return [at for at in self._session.exec(latest) if at is not None]

    def stopped_by_unknown(self, after_ms: int) -> list[LeaseRow]:
        """Leases that were stopped, nobody knows by whom, oldest first."""
        unknown = col(LeaseRow.stopped_by).is_(None)
        return self._all(self._oldest_first(col(LeaseRow.stopped_ms) > after_ms, unknown))

    def refused_openings(self) -> list[tuple[str, str | None, bool]]:
        """Leases in `opening` whose intent died, with which error, and whether in a block, where it
        cost gas; oldest first."""
        mined = col(IntentRow.mined_hash).is_not(None)
        query = select(LeaseRow.id, IntentRow.error, mined).where(
            LeaseRow.state == LeaseState.OPENING,
            col(IntentRow.key) == "open:" + col(LeaseRow.id),
            IntentRow.state == IntentState.DEAD,
        )
        return list(self._session.exec(query.order_by(col(LeaseRow.id))))


_ACCEPTED = col(AttestationRow.state) == "accepted"


class AttestationRows(Rows[AttestationRow]):
    def accepted(self, lease_id: str, sequence: int) -> AttestationRow | None:
        query = select(AttestationRow).where(
            AttestationRow.lease_id == lease_id, AttestationRow.sequence == sequence, _ACCEPTED
        )
        return self._first(query)

    def accepted_count(self, lease_id: str) -> int:
        """How many attestations of a lease were accepted."""
        return self._count(AttestationRow.lease_id == lease_id, _ACCEPTED)

    def newest_accepted(self, lease_ids: Iterable[str]) -> dict[str, AttestationRow]:
        """The newest accepted attestation of each lease that has one."""
        query = select(AttestationRow).where(
            AttestationRow.lease_id == LeaseRow.id,
            AttestationRow.sequence == LeaseRow.sequence,
            _ACCEPTED,
            col(LeaseRow.id).in_(lease_ids),
        )
        return {row.lease_id: row for row in self._all(query)}

    def page(self, lease_id: str, after_sequence: int, part: Part) -> list[AttestationRow]:
        """Attestations of a lease with greater sequence numbers, in order of arrival."""
        limit, after = part
        later = col(AttestationRow.sequence) > after_sequence
        query = self._oldest_first(AttestationRow.lease_id == lease_id, later)
        if after is not None:
            query = query.where(col(AttestationRow.id) > after)
        return self._all(query.limit(limit))

    def forget_refused(self, lease_id: str, kept: int) -> None:
        """Delete all refused attestations of a lease but the newest few."""
        refused = (col(AttestationRow.lease_id) == lease_id, col(AttestationRow.state) == "refused")
        newest = select(AttestationRow.id).where(*refused).order_by(col(AttestationRow.id).desc())
        old = delete(AttestationRow).where(
            *refused, col(AttestationRow.id).not_in(newest.limit(kept))
        )
        self._session.exec(old, execution_options={"synchronize_session": False})


class VoucherRows(Rows[VoucherRow]):
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
    def is_written(self, lease_id: str) -> bool:
        """Whether a lease has its receipt."""
        return self._count(ReceiptRow.lease_id == lease_id) > 0

    def of_job(self, job_id: str) -> list[ReceiptRow]:
        """Receipts of a job's leases in the order in which these were matched: a lease that was
        lost may close after the one that followed it. Ids sort by time."""
        mine = select(ReceiptRow).where(ReceiptRow.job_id == job_id)
        return self._all(mine.order_by(col(ReceiptRow.lease_id)))

    def page(self, account: str, part: Part) -> list[ReceiptRow]:
        """Receipts of an account as buyer or provider, newest first."""
        mine = or_(col(ReceiptRow.buyer) == account, col(ReceiptRow.provider) == account)
        return self._page(part, mine)
