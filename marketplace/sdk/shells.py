"""The two thin shells: they perform what a flow asks for over httpx and decide nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

import httpx

from marketplace.sdk.errors import (
    ApiError,
    ConnectFailed,
    CoulombError,
    ProtocolError,
    TimedOut,
    TransportError,
    error_of,
)
from marketplace.sdk.flow import Call, Effect, Flow, Query, Request, Response, Sleep
from marketplace.sdk.sse import EventSource, ServerEvent
from marketplace.sdk.transfer import ANSWER_BYTES_MAX, RetryPolicy, json_of, problem_of, send
from settlement.errors import SettlementError

T = TypeVar("T")

DEFAULT_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
STREAM_TIMEOUT = httpx.Timeout(60.0, connect=5.0)  # the server sends a comment sooner than that
LIMITS = httpx.Limits(max_connections=20, max_keepalive_connections=10)


def wire(request: Request) -> dict[str, Any]:
    """The arguments httpx takes for a request."""
    headers = dict(request.headers)
    if request.idempotency_key is not None:
        headers["Idempotency-Key"] = request.idempotency_key
    params = {k: v for k, v in request.params.items() if v is not None}
    out: dict[str, Any] = {"method": request.method, "url": request.path, "headers": headers}
    if params:
        out["params"] = params
    if request.json is not None:
        out["json"] = request.json
    if request.content is not None:
        out["content"] = request.content
    return out


class Answer:
    """An httpx answer that is read piece by piece, as far as an answer may be long."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._body = bytearray()

    def add(self, piece: bytes) -> None:
        """The next piece of its body. Raises ProtocolError above ANSWER_BYTES_MAX."""
        self._body += piece
        if len(self._body) > ANSWER_BYTES_MAX:
            raise ProtocolError(f"the server's answer is longer than {ANSWER_BYTES_MAX} bytes")

    def whole(self) -> Response:
        """The answer as the core's, once every piece is there."""
        headers = {name.lower(): value for name, value in self._response.headers.items()}
        return Response(self._response.status_code, headers, bytes(self._body))


def read(response: httpx.Response) -> Response:
    """An httpx answer, read to its end."""
    answer = Answer(response)
    for piece in response.iter_bytes():
        answer.add(piece)
    return answer.whole()


async def read_async(response: httpx.Response) -> Response:
    """An httpx answer, read to its end."""
    answer = Answer(response)
    async for piece in response.aiter_bytes():
        answer.add(piece)
    return answer.whole()


def transport_error(error: httpx.RequestError, request: httpx.Request | Request) -> TransportError:
    """The SDK's error for one of httpx's."""
    where = f"{request.method} {getattr(request, 'path', '')}".strip()
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return ConnectFailed(f"{where}: cannot reach the server ({error})")
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{where}: no answer in time")
    return TransportError(f"{where}: the connection broke ({error})")


def page_flow(
    query: Query[T], cursor: str | None, policy: RetryPolicy
) -> Flow[tuple[list[T], str | None]]:
    """One page of a list."""
    response = yield from send(query.page(cursor), policy)
    return query.read(json_of(response))


class SyncShell:
    """Performs flows on the calling thread."""

    def __init__(self, http: httpx.Client, policy: RetryPolicy) -> None:
        self.http = http
        self.policy = policy

    def drive(self, flow: Flow[T]) -> T:
        """Run a flow to its end."""
        try:
            effect = next(flow)
            while True:
                try:
                    outcome = self._perform(effect)
                except (CoulombError, SettlementError) as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(outcome)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    def pages(self, query: Query[T]) -> Iterator[T]:
        """Every item of every page."""
        cursor: str | None = None
        while True:
            items, cursor = self.drive(page_flow(query, cursor, self.policy))
            yield from items
            if cursor is None:
                return

    def events(self, source: EventSource) -> Iterator[ServerEvent]:
        """Every event of a stream, over as many connections as it takes."""
        while not source.over:
            request, response = source.request(), None
            try:
                with self.http.stream(**wire(request), timeout=STREAM_TIMEOUT) as stream:
                    if stream.status_code >= 400:
                        response = read(stream)
                        raise error_of(problem_of(response))
                    source.opened(stream.headers)
                    for chunk in stream.iter_bytes():
                        yield from source.feed(chunk)
                wait = source.ended()
            except httpx.RequestError as error:
                wait = source.broke(transport_error(error, request))
            except ApiError as error:
                wait = source.broke(error, response)
            time.sleep(wait)

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Sleep):
            return time.sleep(effect.seconds)
        if isinstance(effect, Call):
            return effect.work()
        try:
            with self.http.stream(**wire(effect)) as response:
                return read(response)
        except httpx.RequestError as error:
            raise transport_error(error, effect) from error


class AsyncShell:
    """Performs flows on the running event loop; blocking work goes to a thread."""

    def __init__(self, http: httpx.AsyncClient, policy: RetryPolicy) -> None:
        self.http = http
        self.policy = policy

    async def drive(self, flow: Flow[T]) -> T:
        """Run a flow to its end."""
        try:
            effect = next(flow)
            while True:
                try:
                    outcome = await self._perform(effect)
                except (CoulombError, SettlementError) as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(outcome)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    async def pages(self, query: Query[T]) -> AsyncIterator[T]:
        """Every item of every page."""
        cursor: str | None = None
        while True:
            items, cursor = await self.drive(page_flow(query, cursor, self.policy))
            for item in items:
                yield item
            if cursor is None:
                return

    async def events(self, source: EventSource) -> AsyncIterator[ServerEvent]:
        """Every event of a stream, over as many connections as it takes."""
        while not source.over:
            request, response = source.request(), None
            try:
                async with self.http.stream(**wire(request), timeout=STREAM_TIMEOUT) as stream:
                    if stream.status_code >= 400:
                        response = await read_async(stream)
                        raise error_of(problem_of(response))
                    source.opened(stream.headers)
                    async for chunk in stream.aiter_bytes():
                        for event in source.feed(chunk):
                            yield event
                wait = source.ended()
            except httpx.RequestError as error:
                wait = source.broke(transport_error(error, request))
            except ApiError as error:
                wait = source.broke(error, response)
            await asyncio.sleep(wait)

    async def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Sleep):
            return await asyncio.sleep(effect.seconds)
        if isinstance(effect, Call):
            return await asyncio.to_thread(effect.work)
        try:
            async with self.http.stream(**wire(effect)) as response:
                return await read_async(response)
        except httpx.RequestError as error:
            raise transport_error(error, effect) from error
