"""A book as bytes and back: what lets a restart skip the part of the order log that is over.

`capture` takes references only, so it is quick while the book is held still; `encode` may run
elsewhere. The same book always gives the same bytes, so that their hash names its state.
"""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any, TypeVar, cast

from marketplace.domain.book import Book
from marketplace.domain.order import BookMarket, Hold, NodeFacts, RestingAsk, RestingBid, Wants
from settlement.eip712 import Struct
from settlement.orders import Ask, Bid
from settlement.units import Sizes

S = TypeVar("S", bound=Struct)
FORMAT = 4
"""Changes with the shape of what is written; other formats are not read."""
_node_facts, _wants = lru_cache(4096)(NodeFacts), lru_cache(4096)(Wants)  # there are few of each


@dataclass(frozen=True, slots=True)
class BookState:
    """All that decides what a book does next: its time, orders in their order, capacity held.

    `started`: asks that are open for matches unless they are full. `ends`: when a bid leaves.
    `paused`: buyers whose bids match nothing, and until when.
    """

    now: int
    asks: tuple[tuple[RestingAsk, bool], ...]
    bids: tuple[tuple[RestingBid, int], ...]
    holds: tuple[Hold, ...]
    paused: tuple[tuple[str, int], ...] = ()


def capture(book: Book) -> BookState:
    """The state of a book, by arrival. Quick: nothing is copied but references."""
    asks = sorted(book.asks(), key=lambda view: view.seq)
    bids = sorted(book.bids(), key=lambda view: view.seq)
    return BookState(
        now=book.now,
        asks=tuple((view.order, view.started) for view in asks),
        bids=tuple((view.order, view.ends) for view in bids),
        holds=tuple(sorted(book.holds(), key=lambda hold: (hold.bid_id, hold.ask_id))),
        paused=tuple(sorted(book.paused.items())),
    )


def restore(state: BookState, market: BookMarket) -> Book:
    """A book that does from now on whatever the captured one would have done."""
    book = Book(market)
    book.now = state.now
    for buyer, until in state.paused:
        book.restore_pause(buyer, until)
    for hold in state.holds:
        book.restore_hold(hold)
    for ask, started in state.asks:
        book.restore_ask(ask, started)
    for bid, ends in state.bids:
        book.restore_bid(bid, ends)
    return book


def encode(state: BookState) -> bytes:
    """Compressed canonical JSON. Source of every member: its dataclass, field by field."""
    document = {
        "format": FORMAT,
        "now": state.now,
        "asks": [[*_ask_values(order), started] for order, started in state.asks],
        "bids": [[*_bid_values(order), ends] for order, ends in state.bids],
        "holds": [_hold_values(hold) for hold in state.holds],
        "paused": state.paused,
    }
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), level=1)


def decode(data: bytes) -> BookState | None:
    """What `encode` wrote; None if another version of the program wrote it."""
    document = json.loads(zlib.decompress(data))
    if document["format"] != FORMAT:
        return None
    return BookState(
        now=document["now"],
        asks=tuple((_read_ask(row), row[-1]) for row in document["asks"]),
        bids=tuple((_read_bid(row), row[-1]) for row in document["bids"]),
        holds=tuple(_read_hold(row) for row in document["holds"]),
        paused=tuple((buyer, until) for buyer, until in document["paused"]),
    )


def book_hash(book: Book) -> str:
    """SHA-256 of the book's state, 64 hex digits: equal books do the same from now on."""
    return hashlib.sha256(zlib.decompress(encode(capture(book)))).hexdigest()


def _ask_values(order: RestingAsk) -> list[Any]:
    return [order.id, order.seq, _plain(order.node), _struct_values(order.ask)]


def _read_ask(row: list[Any]) -> RestingAsk:
    order_id, seq, node, ask = row[:4]
    return RestingAsk(order_id, _read_struct(Ask, ask), _node_facts(*node), seq)


def _bid_values(order: RestingBid) -> list[Any]:
    return [
        order.id, order.seq, _plain(order.wants), sorted(order.tried),
        order.budget_left, _struct_values(order.bid),
    ]  # fmt: skip


def _read_bid(row: list[Any]) -> RestingBid:
    order_id, seq, wants, tried, budget_left, bid = row[:6]
    regions, *others = wants
    return RestingBid(
        id=order_id,
        bid=_read_struct(Bid, bid),
        wants=_wants(tuple(regions), *others),
        seq=seq,
        tried=frozenset(tried),
        budget_left=budget_left,
    )


def _hold_values(hold: Hold) -> list[Any]:
    sizes = _plain(hold.sizes)
    return [hold.bid_id, hold.ask_id, hold.provider, hold.node, sizes, list(hold.gpus)]


def _read_hold(row: list[Any]) -> Hold:
    bid_id, ask_id, provider, node, sizes, gpus = row
    return Hold(bid_id, ask_id, provider, node, Sizes(*sizes), tuple(gpus))


def _plain(value: NodeFacts | Wants | Sizes) -> list[Any]:
    return [getattr(value, name) for name in value.__slots__]


@dataclass(frozen=True, slots=True)
class _Shape:
    """How one kind of struct is written and read: its slots, and members that are not plain."""

    values_of: Callable[[Any], tuple[Any, ...]]
    setters: tuple[Callable[[Any, Any], None], ...]
    readers: tuple[tuple[int, Callable[[Any], Any]], ...]
    message_readers: tuple[tuple[str, Callable[[Any], Any]], ...]


_shapes: dict[type[Struct], _Shape] = {}


def _shape(kind: type[Struct]) -> _Shape:
    if kind not in _shapes:
        names = [field.name for field in fields(cast(Any, kind))]
        readers = (_reader(solidity, kind.members) for solidity, _ in kind.schema)
        _shapes[kind] = _Shape(
            attrgetter(*names),
            tuple(getattr(kind, name).__set__ for name in names),
            tuple((place, read) for place, read in enumerate(readers) if read is not None),
            tuple((name, _message_reader(sol, kind.members)) for sol, name in kind.schema),
        )
    return _shapes[kind]


def _struct_values(struct: Struct) -> list[Any]:
    return [_value(value) for value in _shape(type(struct)).values_of(struct)]


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Struct):
        return _struct_values(value)
    if isinstance(value, tuple):
        return [_struct_values(item) for item in value]
    return value


def stored_struct(kind: type[S], message: dict[str, Any]) -> S:
    """A signed struct from the JSON form that this market stored, at a tenth of the time of
    `from_message`: its values were checked before they were written."""
    shape = _shape(kind)
    return _struct_of(kind, shape, [read(message[name]) for name, read in shape.message_readers])


def _read_struct(kind: type[S], values: list[Any]) -> S:
    shape = _shape(kind)
    for place, read in shape.readers:
        values[place] = read(values[place])
    return _struct_of(kind, shape, values)


def _struct_of(kind: type[S], shape: _Shape, values: list[Any]) -> S:
    struct = object.__new__(kind)
    for put, value in zip(shape.setters, values, strict=True):
        put(struct, value)
    return struct


def _reader(solidity: str, members: dict[str, type[Struct]]) -> Callable[[Any], Any] | None:
    if solidity.startswith("bytes"):
        return bytes.fromhex
    if solidity.endswith("[]"):
        kind = members[solidity[:-2]]
        return lambda items: tuple(_read_struct(kind, values) for values in items)
    if solidity in members:
        kind = members[solidity]
        once = lru_cache(4096)(lambda values: _read_struct(kind, list(values)))  # prices are few
        return lambda values: once(tuple(values))
    return None


def _message_reader(solidity: str, members: dict[str, type[Struct]]) -> Callable[[Any], Any]:
    if solidity.startswith("uint"):
        return int
    if solidity.startswith("bytes"):
        return lambda text: bytes.fromhex(text[2:])
    if solidity.endswith("[]"):
        return lambda items: tuple(stored_struct(members[solidity[:-2]], item) for item in items)
    if solidity in members:
        return partial(stored_struct, members[solidity])
    return lambda value: value
