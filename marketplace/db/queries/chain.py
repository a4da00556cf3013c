"""What the indexer has read: blocks, and events in chain order."""

from sqlmodel import Session, col, select

from marketplace.db.tables import ChainBlockRow, ChainEventLeaseRow, ChainEventRow
from settlement.events import event_from_json
from settlement.ports import BlockRef, LoggedEvent


def newest_blocks(session: Session, limit: int) -> list[BlockRef]:
    """The newest blocks taken in, newest first."""
    query = select(ChainBlockRow).order_by(col(ChainBlockRow.number).desc()).limit(limit)
    return [
        BlockRef(row.number, row.hash, row.parent_hash, row.timestamp)
        for row in session.exec(query)
    ]


def chain_events(session: Session, lease_no: str | None = None) -> list[LoggedEvent]:
    """Events in chain order; of one lease, if given."""
    query = select(ChainEventRow)
    if lease_no is not None:
        query = query.join(
            ChainEventLeaseRow, col(ChainEventLeaseRow.event_id) == col(ChainEventRow.id)
        ).where(ChainEventLeaseRow.lease_no == lease_no)
    query = query.order_by(col(ChainEventRow.block_number), col(ChainEventRow.log_index))
    return [
        LoggedEvent(
            block_number=row.block_number,
            block_hash=row.block_hash,
            tx_hash=row.tx_hash,
            log_index=row.log_index,
            event=event_from_json(row.name, row.document),
        )
        for row in session.exec(query)
    ]
