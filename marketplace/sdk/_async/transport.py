"""One connection pool to one API (requests, lists, event streams), and what its parts share."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import httpx
from httpx_sse import EventSource, SSEError

from marketplace.limits import ANSWER_BYTES_MAX, ANSWER_SECONDS_MAX, EVENT_BYTES_MAX
from marketplace.sdk.errors import ApiError, InputError, ProtocolError, TimedOut, TransportError
from marketplace.sdk.http import (
    SAFE_METHODS,
    STREAM_TIMEOUT,
    Resumption,
    RetryPolicy,
    ServerEvent,
    check_answer,
    json_of,
    read,
    read_page,
    refusal_of,
    transport_error,
)
from marketplace.sdk.session import Session
from marketplace.sdk.waiting import async_run, async_sleep
from marketplace.wire.base import Body, Model
from marketplace.wire.market import MarketConfig
from settlement.eip712 import Struct
from settlement.signing import Signer, sign

T = TypeVar("T", bound=Model)


class AsyncTransport:
    """Sends requests below the API's root and reads what is answered, within bounds."""

    def __init__(self, http: httpx.AsyncClient, policy: RetryPolicy) -> None:
        self.policy = policy
        self._http = http

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: bytes | None = None,
        idempotency_key: str | None = None,
        repeatable: bool = False,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> bytes:
        """The body of the answer. Unanswered requests are sent again if that does no harm.

        A POST is sent again only if it has an idempotency key, or is `repeatable`: sending it twice
        does no more than sending it once. Raises ApiError, TransportError, ProtocolError.
        """
        headers = {} if content is None else {"Content-Type": "application/octet-stream"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        given = {name: value for name, value in (params or {}).items() if value is not None}
        request = self._http.build_request(
            method, path, params=given, json=json, content=content, headers=headers
        )
        may_repeat = method in SAFE_METHODS or repeatable or idempotency_key is not None
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._once(request, path, bytes_max)
            except (ApiError, TransportError) as error:
                wait = self.policy.wait_after(error, attempt) if may_repeat else None
                if wait is None:
                    raise
            await async_sleep(wait)

    async def _once(self, request: httpx.Request, path: str, bytes_max: int) -> bytes:
        try:
            response = await self._http.send(request, stream=True)
            try:
                check_answer(response)
                body = await _body(response, path, bytes_max)
            finally:
                await response.aclose()
        except httpx.RequestError as error:
            raise transport_error(error, request.method, path) from error
        if response.status_code >= 400:
            raise refusal_of(response, body)
        return body

    async def get(self, kind: type[T], path: str, **params: Any) -> T:
        """One object."""
        return read(kind, json_of(await self.send("GET", path, params=params)))

    async def delete(self, kind: type[T], path: str) -> T:
        """What is left of an object."""
        return read(kind, json_of(await self.send("DELETE", path)))

    async def post(
        self,
        kind: type[T],
        path: str,
        body: Body | None = None,
        *,
        idempotency_key: str | None = None,
        repeatable: bool = False,
    ) -> T:
        """The object that a POST is answered with."""
        how: Any = {"idempotency_key": idempotency_key, "repeatable": repeatable}
        answer = await self.send("POST", path, json=body.to_json() if body else {}, **how)
        return read(kind, json_of(answer))

    async def pages(self, kind: type[T], path: str, **params: Any) -> AsyncIterator[T]:
        """Every item of every page of a list."""
        cursor: str | None = None
        while True:
            body = await self.send("GET", path, params={**params, "cursor": cursor})
            items, cursor = read_page(kind, json_of(body), path, cursor)
            for item in items:
                yield item
            if cursor is None:
                return

    async def events(self, path: str, last_id: str = "") -> AsyncIterator[ServerEvent]:
        """Every event of a stream, over as many connections as it takes."""
        stream = Resumption(self.policy, last_id)
        while not stream.over:
            try:
                async with aclosing(self._connection(path, stream.last_id)) as events:
                    async for event in events:
                        stream.note(event)
                        if event.data:
                            yield replace(event, id=stream.last_id)
                wait = stream.ended()
            except (ApiError, TransportError) as error:
                wait = stream.broke(error)
            await async_sleep(wait)

    async def _connection(self, path: str, last_id: str) -> AsyncGenerator[ServerEvent, None]:
        """Events of one connection, which begins after the event `last_id`."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        try:
            async with self._http.stream(
                "GET", path, headers=headers, timeout=STREAM_TIMEOUT
            ) as response:
                check_answer(response)
                if response.status_code >= 400:
                    raise refusal_of(response, await _body(response, path, ANSWER_BYTES_MAX))
                bounded = AsyncBounded(response.stream)
                response.stream = bounded
                async for event in EventSource(response).aiter_sse():
                    bounded.since_event = 0
                    yield ServerEvent(event.event, event.data, event.id, event.retry)
        except SSEError as error:
            raise ProtocolError(f"{path}: {error}") from None
        except httpx.RequestError as error:
            raise transport_error(error, "GET", path) from error


class AsyncBounded(httpx.AsyncByteStream):
    """The bytes of an event stream; raises ProtocolError above 1 MiB without an event."""

    def __init__(self, stream: Any) -> None:
        self.since_event = 0
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self.since_event += len(chunk)
            if self.since_event > EVENT_BYTES_MAX:
                raise ProtocolError(f"an event is longer than {EVENT_BYTES_MAX} bytes")
            yield chunk

    async def aclose(self) -> None:
        """Close the connection's stream."""
        await self._stream.aclose()


async def _body(response: httpx.Response, path: str, bytes_max: int) -> bytes:
    """Read an answer to its end. Raises ProtocolError above the limit, TimedOut if it drips."""
    body = bytearray()
    latest = time.monotonic() + ANSWER_SECONDS_MAX
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > bytes_max:
            raise ProtocolError(f"{path}: the answer has more than {bytes_max} bytes")
        if time.monotonic() > latest:
            raise TimedOut(f"{path}: the answer did not end within {ANSWER_SECONDS_MAX:g} s")
    return bytes(body)


class AsyncResource:
    """A part of the API: its connection, who signs, and for which market."""

    def __init__(self, transport: AsyncTransport, session: Session) -> None:
        self._transport = transport
        self._session = session

    async def _market(self, fresh: bool = False) -> MarketConfig:
        """The market's config, fetched once and checked against the pins."""
        if self._session.market is not None and not fresh:
            return self._session.market
        return self._session.accept(await self._transport.get(MarketConfig, "/v1/config"))

    async def _known_market(self) -> MarketConfig | None:
        """The market, asked for only if the session doesn't know its contracts and a node."""
        if self._session.rpc_url and self._session.knows_contracts:
            return self._session.market
        return await self._market()

    def require_own(self) -> None:
        """Pass unless the session acts for a purse, whose owner alone moves its money. Raises
        InputError.
        """
        if self._session.purse is not None:
            raise InputError(
                f"this session acts for the purse {self._session.purse}, not for its signer",
                fix="its owner uses `coulomb purse fund` and `coulomb purse sweep`",
            )

    async def _signer(self, given: Signer | None) -> Signer:
        """Who signs: whoever is given, else the session's key."""
        return given if given is not None else await async_run(self._session.signer)

    async def _sign(self, struct: Struct, signer: Signer | None) -> bytes:
        """A signature for the session's contracts."""
        who = await self._signer(signer)
        return await async_run(sign, struct, self._session.domain(), who)
