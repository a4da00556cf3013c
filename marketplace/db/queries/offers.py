"""Nodes with their GPUs, and the asks on them."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import func
from sqlmodel import col, select

from marketplace.db.rows import Rows
from marketplace.db.tables import AskRow, GpuRow, NodeRow

RESTING = ("open", "suspended")  # states of asks that may be matched now or later


class NodeRows(Rows[NodeRow]):
    """Nodes."""

    row = NodeRow

    def by_number(self, provider: str, number: int) -> NodeRow | None:
        """A provider's node by the number that its asks name."""
        return self._first(
            select(NodeRow).where(NodeRow.provider == provider, NodeRow.number == number)
        )

    def page(self, provider: str, limit: int, before: str | None) -> list[NodeRow]:
        """A provider's nodes, newest first."""
        return self._page(select(NodeRow).where(NodeRow.provider == provider), limit, before)

    def lock_of(self, provider: str) -> list[NodeRow]:
        """All nodes of a provider, locked for change."""
        query = select(NodeRow).where(NodeRow.provider == provider).order_by(col(NodeRow.id))
        return self._all(query.with_for_update().execution_options(populate_existing=True))

    def reliability_of(self, provider: str) -> int | None:
        """The reliability of a provider in thousandths, which its nodes share; None without any."""
        query = select(NodeRow.reliability_milli).where(NodeRow.provider == provider)
        return self._first(query.order_by(col(NodeRow.id)))

    def active_unseen_since(self, before_ms: int) -> list[NodeRow]:
        """Active nodes that were last seen before a time."""
        return self._all(
            select(NodeRow)
            .where(NodeRow.state == "active", col(NodeRow.seen_ms) < before_ms)
            .order_by(col(NodeRow.id))
        )


class GpuRows(Rows[GpuRow]):
    """GPUs by UUID."""

    row = GpuRow

    def of_nodes(self, node_ids: Iterable[str]) -> dict[str, list[GpuRow]]:
        """The GPUs of each node in order of their positions."""
        found: dict[str, list[GpuRow]] = {node_id: [] for node_id in node_ids}
        query = select(GpuRow).where(col(GpuRow.node_id).in_(found))
        for gpu in self._all(query.order_by(col(GpuRow.position))):
            found[gpu.node_id].append(gpu)
        return found


class AskRows(Rows[AskRow]):
    """Asks."""

    row = AskRow

    def page(
        self,
        equal: Mapping[str, str | None],
        states: Sequence[str],
        limit: int,
        before: str | None,
    ) -> list[AskRow]:
        """Asks, newest first, by what their columns must equal if it is given, and by states."""
        given = {column: value for column, value in equal.items() if value}
        query = select(AskRow).filter_by(**given)
        if states:
            query = query.where(col(AskRow.state).in_(states))
        return self._page(query, limit, before)

    def of_node(self, node_id: str, state: str) -> list[AskRow]:
        """A node's asks in a state, oldest first."""
        query = select(AskRow).where(AskRow.node_id == node_id, AskRow.state == state)
        return self._all(query.order_by(col(AskRow.id)))

    def resting_count(self, node_id: str) -> int:
        """How many asks of a node are open or suspended."""
        query = select(func.count()).where(
            col(AskRow.node_id) == node_id, col(AskRow.state).in_(RESTING)
        )
        return self._session.exec(query).one()

    def resting_of(self, provider: str) -> list[AskRow]:
        """A provider's open and suspended asks, oldest first."""
        query = select(AskRow).where(AskRow.provider == provider, col(AskRow.state).in_(RESTING))
        return self._all(query.order_by(col(AskRow.id)))
