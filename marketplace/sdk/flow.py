"""The sans-I/O core: an operation is a generator that asks for effects, and a shell performs them.

An operation is written once, as a flow: it yields a `Request`, a `Sleep` or a `Call` and is sent
the outcome. `op` turns it into a method that returns its result on a sync client and a coroutine on
an async one, so neither shell repeats any logic.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from marketplace.sdk.errors import ProtocolError
from marketplace.sdk.session import Session

if TYPE_CHECKING:
    from marketplace.sdk.sse import EventSource, ServerEvent

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request below the API's root.

    `repeatable` says that sending it twice does no more than sending it once; a request with an
    idempotency key always is.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    repeatable: bool = False

    @property
    def may_retry(self) -> bool:
        """Whether an unanswered request may be sent again."""
        safe = self.method in ("GET", "HEAD", "PUT", "DELETE")
        return safe or self.repeatable or self.idempotency_key is not None


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """Blocking work (disk, SQLite, chain); an async shell runs it in a thread."""

    work: Callable[[], Any]


Effect = Request | Sleep | Call
Flow = Generator[Effect, Any, T]


def call(work: Callable[[], T]) -> Flow[T]:
    """Run blocking work off the event loop, where there is one."""
    return cast(T, (yield Call(work)))


class Sync:
    """Marks what belongs to a sync client."""


class Async:
    """Marks what belongs to an async client."""


S = TypeVar("S", Sync, Async)


class Shell(Protocol):
    """Performs the effects of a flow: `drive` returns its result, or a coroutine of it."""

    @property
    def policy(self) -> Any:
        """How requests are repeated."""

    def drive(self, flow: Flow[Any]) -> Any:
        """Run a flow to its end."""

    def pages(self, query: Query[Any]) -> Any:
        """An iterable over all pages of a list."""

    def events(self, source: EventSource) -> Any:
        """An iterable over the events of a stream."""


class Resource(Generic[S]):
    """A group of operations bound to one shell."""

    def __init__(self, shell: Shell, session: Session) -> None:
        self._shell = shell
        self._session = session


class op(Generic[P, T]):
    """Makes a flow a method: plain on a sync resource, a coroutine on an async one."""

    def __init__(self, flow: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self.flow = flow
        self.__doc__ = flow.__doc__
        self.__name__ = flow.__name__

    @overload
    def __get__(self, obj: None, owner: type) -> op[P, T]: ...
    @overload
    def __get__(self, obj: Resource[Sync], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, obj: Resource[Async], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, obj: Resource[Any] | None, owner: type) -> Any:
        if obj is None:
            return self
        shell = obj._shell

        def bound(*args: P.args, **kwargs: P.kwargs) -> Any:
            return shell.drive(self.flow(obj, *args, **kwargs))

        bound.__doc__, bound.__name__ = self.__doc__, self.__name__
        return bound


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """A cursor-paged list: where it is and how one item is read."""

    path: str
    parse: Callable[[Any], T]
    params: Mapping[str, Any] = field(default_factory=dict)

    def page(self, cursor: str | None) -> Request:
        """The request for the page after `cursor`."""
        params = {k: v for k, v in self.params.items() if v is not None}
        return Request("GET", self.path, params if cursor is None else {**params, "cursor": cursor})

    def read(self, body: Any) -> tuple[list[T], str | None]:
        """The items of one page and the cursor of the next, None at the end."""
        if not isinstance(body, dict) or not isinstance(body.get("data"), list):
            raise ProtocolError(f"{self.path}: expected a list with `data`")
        items = [self.parse(item) for item in body["data"]]
        return items, body.get("next_cursor") if body.get("has_more") else None


class listing(Generic[P, T]):
    """Makes a query a method that iterates over every item of every page."""

    def __init__(self, query: Callable[Concatenate[Any, P], Query[T]]) -> None:
        self.query = query
        self.__doc__ = query.__doc__
        self.__name__ = query.__name__

    @overload
    def __get__(self, obj: None, owner: type) -> listing[P, T]: ...
    @overload
    def __get__(self, obj: Resource[Sync], owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, obj: Resource[Async], owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, obj: Resource[Any] | None, owner: type) -> Any:
        if obj is None:
            return self
        shell = obj._shell

        def bound(*args: P.args, **kwargs: P.kwargs) -> Any:
            return shell.pages(self.query(obj, *args, **kwargs))

        bound.__doc__, bound.__name__ = self.__doc__, self.__name__
        return bound


class streaming(Generic[P]):
    """Makes an event source a method that iterates over its events."""

    def __init__(self, source: Callable[Concatenate[Any, P], EventSource]) -> None:
        self.source = source
        self.__doc__ = source.__doc__
        self.__name__ = source.__name__

    @overload
    def __get__(self, obj: None, owner: type) -> streaming[P]: ...
    @overload
    def __get__(self, obj: Resource[Sync], owner: type) -> Callable[P, Iterator[ServerEvent]]: ...
    @overload
    def __get__(
        self, obj: Resource[Async], owner: type
    ) -> Callable[P, AsyncIterator[ServerEvent]]: ...
    def __get__(self, obj: Resource[Any] | None, owner: type) -> Any:
        if obj is None:
            return self
        shell = obj._shell

        def bound(*args: P.args, **kwargs: P.kwargs) -> Any:
            return shell.events(self.source(obj, *args, **kwargs))

        bound.__doc__, bound.__name__ = self.__doc__, self.__name__
        return bound
