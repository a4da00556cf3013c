"""What routes stand on: the caller, one transaction per request, idempotency, pages."""

import base64
import hashlib
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from marketplace.api.limits import Limits, OpenStreams
from marketplace.api.problems import ONCE, READING, documented
from marketplace.db.store import Database, Store, Tally
from marketplace.db.tables import IdempotentReplyRow, Part
from marketplace.errors import (
    Forbidden,
    IdempotencyInFlight,
    IdempotencyMismatch,
    InvalidInput,
    Problem,
    Unauthenticated,
)
from marketplace.limits import BODY_BYTES_MAX, BODY_ITEMS_MAX
from marketplace.limits import IDEMPOTENCY_KEY_CHARS_MAX as KEY_MAX
from marketplace.limits import PAGE_ITEMS_MAX as PAGE_MAX
from marketplace.services.catalog import Catalog
from marketplace.services.common import Principal
from marketplace.wire.base import Answer, Page
from settlement.strict_json import JsonError, loads

T = TypeVar("T")
P = TypeVar("P", bound=Page[Any])
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
PREFIX = "/v1"
TALLY_MS = 1_000
JSON = "application/json"
bearer = HTTPBearer(auto_error=False, description="API key: `coul_…`")


class Edge:
    """The services behind the routes, their transactions, and the requests in flight."""

    def __init__(self, catalog: Catalog, database: Database, limits: Limits) -> None:
        self.catalog = catalog
        self.database = database
        self.streams = OpenStreams(limits)
        self._flying: set[str] = set()
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._tally: tuple[int, Tally] | None = None

    @contextmanager
    def one_at_a_time(self, name: str) -> Iterator[None]:
        """Raises IdempotencyInFlight while another request holds the same name."""
        with self._lock:
            if name in self._flying:
                raise IdempotencyInFlight("the first request with this key has not finished")
            self._flying.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._flying.discard(name)

    def account_of(self, key: str) -> str | None:
        """Whose API key it is; None if it is nobody's."""
        try:
            with self.database.read() as store:
                return self.catalog.accounts.authenticate(store, key).account
        except Unauthenticated:
            return None

    def tally(self) -> Tally:
        """What the database counts; it is read at most once in TALLY_MS, however many ask."""
        with self._counting:
            now_ms = self.catalog.clock()
            if self._tally is None or not 0 <= now_ms - self._tally[0] < TALLY_MS:
                with self.database.read() as store:
                    self._tally = (now_ms, store.tally(now_ms // 1000))
            return self._tally[1]


def edge_of(request: Request) -> Edge:
    edge: Edge = request.app.state.edge
    return edge


EdgeDep = Annotated[Edge, Depends(edge_of)]


class SoundRequest(Request):
    """A request whose JSON is read with bounds."""

    async def json(self) -> Any:
        """The body's value. Raises HTTPException 400 if it is not sound JSON."""
        try:
            return loads(await self.body(), BODY_BYTES_MAX, BODY_ITEMS_MAX)
        except JsonError as error:
            raise HTTPException(400, f"the body is not sound JSON: {error}") from None


class SoundRoute(APIRoute):
    """A route that takes JSON as application/json only, and reads it with bounds."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if self.body_field is not None:
            for status, answer in documented(*READING).items():
                self.responses.setdefault(status, answer)
                self.response_fields.setdefault(status, self.response_fields[422])

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            sound = SoundRequest(request.scope, request.receive)
            if self.body_field is not None:  # otherwise nobody parses the body, as of a blob
                await _check_media_type(sound)
            return await handler(sound)

        return handle


async def _check_media_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind.lower() != JSON and (kind or await request.body()):
        raise HTTPException(415, f"the body is {kind or 'of no stated type'}; send {JSON}")


async def raw_body(request: Request) -> bytes:
    return await request.body()


def caller_with(*scopes: str) -> Any:
    """A dependency: the caller, if its key has one of the scopes (any scope, if none is named).
    Raises Unauthenticated, Forbidden."""

    def find(
        edge: EdgeDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> Principal:
        if credentials is None:
            raise Unauthenticated("send an API key: Authorization: Bearer coul_…")
        with edge.database.read() as store:
            caller = edge.catalog.accounts.authenticate(store, credentials.credentials)
        if scopes and not set(scopes) & set(caller.scopes):
            raise Forbidden(f"the API key lacks the scope {' or '.join(scopes)}")
        return caller

    return Depends(find)


Anyone = Annotated[Principal, caller_with()]
Buyer = Annotated[Principal, caller_with("buyer")]
Provider = Annotated[Principal, caller_with("provider")]


@dataclass(frozen=True, slots=True)
class Writing:
    edge: Edge
    request: Request
    body: bytes
    key: str | None

    def run(
        self,
        caller: Principal,
        action: Callable[[Store], Answer],
        status: int = 200,
        keep: Callable[[], bool] = lambda: True,
    ) -> Response:
        """Do it in one transaction and answer once that is durable; by key, at most once.

        What is made (201) or begun (202) and has an id is named in `Location`. The same key with
        the same request answers what was answered first, with `Idempotency-Replayed`. Refusals
        store no answer (`keep` false: none of an action that returned), so they may be tried again.
        Raises IdempotencyMismatch, IdempotencyInFlight.
        """
        if self.key is None:
            with self.edge.database.write() as store:
                answer = action(store)
        else:
            name = _digest(caller.account, self.key)
            with self.edge.one_at_a_time(name), self.edge.database.write() as store:
                if (stored := self._stored(store, name)) is not None:
                    return stored
                answer = action(store)
                if keep():
                    self._keep(store, name, answer, status)
        return Response(answer.model_dump_json(), status, self._headers(answer, status), JSON)

    def run_checked(
        self,
        caller: Principal,
        check: Callable[[], T],
        action: Callable[[Store, T], Answer],
        status: int,
    ) -> Response:
        """As `run`, with what `check` returns. It may ask the chain, so no transaction waits for
        it, and a request that was answered before is not checked again."""
        if (stored := self._replay(caller)) is not None:
            return stored
        checked = check()
        return self.run(caller, lambda store: action(store, checked), status)

    def _replay(self, caller: Principal) -> Response | None:
        """The stored answer to this request's key."""
        if self.key is None:
            return None
        with self.edge.database.read() as store:
            return self._stored(store, _digest(caller.account, self.key))

    def _headers(self, answer: Answer, status: int) -> dict[str, str]:
        made = getattr(answer, "id", None) if status in (201, 202) else None
        noun = self.request.scope["path"].split("/")[2]
        return {"Location": f"{PREFIX}/{noun}/{made}"} if made else {}

    def _stored(self, store: Store, name: str) -> Response | None:
        stored = store.replies.get(name)
        if stored is None:
            return None
        if stored.body_hash != self._mark():
            raise IdempotencyMismatch("the Idempotency-Key was used with another request")
        headers = {**stored.headers, "Idempotency-Replayed": "true"}
        return JSONResponse(stored.body, stored.status, headers)

    def _keep(self, store: Store, name: str, answer: Answer, status: int) -> None:
        record = IdempotentReplyRow(
            id=name,
            body_hash=self._mark(),
            status=status,
            headers=self._headers(answer, status),
            body=answer.to_json(),
            created_ms=self.edge.catalog.clock(),
        )
        # If another process was first, what was done here is undone.
        taken = IdempotencyInFlight("the first request with this key has just begun")
        store.replies.add(record, taken)

    def _mark(self) -> str:
        url = self.request.url
        return _digest(self.request.method, url.path, url.query, self.body.hex())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def writing(
    edge: EdgeDep,
    request: Request,
    body: Annotated[bytes, Depends(raw_body)],
    idempotency_key: Annotated[
        str | None, Header(max_length=KEY_MAX, min_length=1, description="makes a retry safe")
    ] = None,
) -> Writing:
    """A dependency for routes that change something."""
    return Writing(edge, request, body, idempotency_key)


WritingDep = Annotated[Writing, Depends(writing)]
Id = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["job_0190c0de0000700080000000000000aa"])
]
Words = Annotated[
    str | None,
    Query(max_length=160, pattern=r"^[A-Za-z0-9._,-]*$", description="separated by commas"),
]


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page of a list is asked for: `limit` items after the key `after`."""

    limit: int
    after: str | None

    @property
    def wanted(self) -> Part:
        """What to look for: one row more than the page holds."""
        return self.limit + 1, self.after

    def page(
        self,
        kind: type[P],
        rows: Sequence[T],
        show: Callable[[T], Any],
        key: Callable[[Any], Any] = lambda row: row.id,
    ) -> P:
        """The page of the rows that were wanted; its cursor is the key of its last row."""
        shown = list(rows[: self.limit])
        more = len(rows) > self.limit
        cursor = base64.urlsafe_b64encode(str(key(shown[-1])).encode()).decode() if more else None
        return kind(data=tuple(show(row) for row in shown), has_more=more, next_cursor=cursor)


def paging(default: int) -> Any:
    """A dependency: the page that a request asks for. Raises InvalidInput."""

    def read(
        limit: Annotated[
            int, Query(ge=1, le=PAGE_MAX, description="most items on a page")
        ] = default,
        cursor: Annotated[
            str | None, Query(max_length=200, description="next_cursor of the last page")
        ] = None,
    ) -> Paging:
        try:
            after = cursor and base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii")
        except ValueError as error:
            raise InvalidInput([Problem("/cursor", "is not a cursor of this list")]) from error
        return Paging(limit, after)

    return Depends(read)


Paged = Annotated[Paging, paging(50)]


# Declaring routes

_TAGS = {"config": "market", "health": "market", "problems": "market", "tiers": "market",
         "quotes": "book"}  # fmt: skip


class Routes(APIRouter):
    """Routes, each declared by `METHOD /path`, operation id, and the error codes it may answer."""

    def __init__(self) -> None:
        super().__init__(route_class=SoundRoute)

    def on(
        self, place: str, name: str, *codes: str, **options: Any
    ) -> Callable[[Endpoint], Endpoint]:
        """A route that begins its own transactions."""
        method, _, path = place.partition(" ")
        noun = path.split("/")[1]
        options["responses"] = {**documented(*codes), **options.get("responses", {})}
        options["tags"] = [_TAGS.get(noun, noun)]
        return self.api_route(path, methods=[method], operation_id=name, **options)

    def reads(self, place: str, name: str, *codes: str) -> Callable[[Endpoint], Endpoint]:
        """A route that takes `store`: one consistent view of the database."""

        def declare(endpoint: Endpoint) -> Endpoint:
            def run(edge: Edge, **given: Any) -> Any:
                with edge.database.read() as store:
                    return endpoint(edge=edge, store=store, **given)

            self.on(place, name, *codes)(_taking(endpoint, run))
            return endpoint

        return declare

    def writes(
        self, place: str, name: str, *codes: str, status: int = 200
    ) -> Callable[[Endpoint], Endpoint]:
        """A route that takes `store`: one transaction, which an idempotency key keeps from
        happening twice."""

        def declare(endpoint: Endpoint) -> Endpoint:
            def run(write: Writing, caller: Principal, **given: Any) -> Response:
                def act(store: Store) -> Answer:
                    answer: Answer = endpoint(store=store, caller=caller, **given)
                    return answer

                return write.run(caller, act, status)

            taking = _taking(endpoint, run, write=WritingDep)
            self.on(place, name, *ONCE, *codes, status_code=status)(taking)
            return endpoint

        return declare


def _taking(
    endpoint: Callable[..., Any], run: Callable[..., Any], **more: Any
) -> Callable[..., Any]:
    """`run` as FastAPI sees it: with the parameters of an endpoint, besides `store`, and more."""
    told = inspect.signature(endpoint)
    kind = inspect.Parameter.KEYWORD_ONLY
    shown = [p.replace(kind=kind) for name, p in told.parameters.items() if name != "store"]
    added = [inspect.Parameter(name, kind, annotation=said) for name, said in more.items()]
    run.__name__, run.__doc__ = endpoint.__name__, endpoint.__doc__
    run.__dict__["__signature__"] = told.replace(parameters=[*shown, *added])
    return run
