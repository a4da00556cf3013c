"""The order log: every command to the book as a row, in the order in which the book takes it."""

from dataclasses import asdict
from typing import Any

from marketplace.db.store import Store
from marketplace.db.tables import AskRow, BidRow, JobRow, NodeRow, OrderEntryRow
from marketplace.domain.order import (
    AddAsk,
    AddBid,
    CancelAsk,
    CancelBid,
    Command,
    Free,
    NodeFacts,
    Pause,
    RestingAsk,
    RestingBid,
    SetNode,
    Tick,
    Wants,
)
from marketplace.domain.reliability import NEWCOMER_MILLI
from marketplace.domain.snapshot import stored_struct
from settlement.orders import Ask, Bid

ASK, ASK_CLOSED, NODE, BID = "ask", "ask_closed", "node", "bid"
BID_CLOSED, FREE, PAUSE, TICK = "bid_closed", "free", "pause", "tick"
_SIZES = ("cpu_milli", "memory_mib", "storage_mib")


def log_ask(store: Store, row: AskRow, node: NodeRow, now_ms: int) -> None:
    """An ask enters the book."""
    _log(store, ASK, row.id, {"ask": row.message, **_facts(node)}, now_ms)


def log_node(store: Store, node: NodeRow, now_ms: int) -> None:
    """What the market knows of a node changed, for all its asks."""
    payload = {"provider": node.provider, "number": node.number, **_facts(node)}
    _log(store, NODE, node.id, payload, now_ms)


def log_ask_closed(store: Store, ask_id: str, now_ms: int) -> None:
    """An ask takes no new fills."""
    _log(store, ASK_CLOSED, ask_id, {}, now_ms)


def log_bid(
    store: Store, row: BidRow, job: JobRow, wants: Wants, budget_left: int, now_ms: int
) -> None:
    """A bid enters the book, for the first time or again; `job.excluded` are the asks it tried."""
    payload = {
        "bid": row.message,
        "job_id": job.id,
        "wants": asdict(wants),
        "tried": job.excluded,
        "budget_left": str(budget_left),
    }
    _log(store, BID, row.id, payload, now_ms)


def log_bid_closed(store: Store, bid_id: str, now_ms: int) -> None:
    """A resting bid leaves."""
    _log(store, BID_CLOSED, bid_id, {}, now_ms)


def log_free(store: Store, bid_id: str, ask_id: str, now_ms: int) -> None:
    """What the lease of this pair held is free again."""
    _log(store, FREE, bid_id, {"ask_id": ask_id}, now_ms)


def log_pause(store: Store, buyer: str, until_s: int, now_ms: int) -> None:
    """A buyer's bids match nothing until a time."""
    _log(store, PAUSE, buyer, {"until": until_s}, now_ms)


def log_tick(store: Store, at_s: int) -> None:
    """Time alone changes the book."""
    _log(store, TICK, "", {}, at_s * 1000)


def _log(store: Store, kind: str, subject: str, payload: dict[str, Any], now_ms: int) -> None:
    store.order_log.append(OrderEntryRow(kind=kind, subject=subject, payload=payload, at_ms=now_ms))


def _facts(node: NodeRow) -> dict[str, Any]:
    names = ("region", "runtime", "simulated", "verified", "reliability_milli", *_SIZES)
    return {"node_id": node.id, **{name: getattr(node, name) for name in names}}


def _read_facts(payload: dict[str, Any]) -> NodeFacts:
    return NodeFacts(
        node_id=payload["node_id"],
        region=payload["region"],
        runtime=payload["runtime"],
        simulated=payload["simulated"],
        verified=payload.get("verified", False),  # rows of earlier versions lack some
        reliability_milli=payload.get("reliability_milli", NEWCOMER_MILLI),
        **{name: payload[name] for name in _SIZES if name in payload},
    )


def command_of(entry: OrderEntryRow) -> Command:
    """The book's command that a row stands for; the same row always gives the same command."""
    at = entry.at_ms // 1000
    payload = entry.payload
    if entry.kind == ASK:
        ask = stored_struct(Ask, payload["ask"])
        return AddAsk(at, RestingAsk(entry.subject, ask, _read_facts(payload), entry.seq))
    if entry.kind == NODE:
        return SetNode(at, payload["provider"], payload["number"], _read_facts(payload))
    if entry.kind == BID:
        return AddBid(at, resting_bid(entry))
    if entry.kind == ASK_CLOSED:
        return CancelAsk(at, entry.subject)
    if entry.kind == BID_CLOSED:
        return CancelBid(at, entry.subject)
    if entry.kind == FREE:
        return Free(at, entry.subject, payload["ask_id"])
    if entry.kind == PAUSE:
        return Pause(at, entry.subject, payload["until"])
    return Tick(at)


def resting_bid(entry: OrderEntryRow) -> RestingBid:
    """The bid of a BID row as the book holds it."""
    payload = entry.payload
    wants = payload["wants"]
    return RestingBid(
        id=entry.subject,
        bid=stored_struct(Bid, payload["bid"]),
        wants=Wants(**{**wants, "regions": tuple(wants["regions"])}),
        seq=entry.seq,
        tried=frozenset(payload["tried"]),
        budget_left=int(payload["budget_left"]),
    )
