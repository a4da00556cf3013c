"""Request ids, rate limits and the bound on requests in flight, as one ASGI layer."""

import asyncio
import hashlib
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from marketplace.api.problems import answer
from marketplace.errors import RateLimited, Unavailable
from marketplace.limits import BLOB_BYTES_MAX, BODY_BYTES_MAX, NUMBER_DIGITS_MAX

T = TypeVar("T")
WINDOW_S = 60
STREAM_RETRY_S = 5
CALLERS_MAX = 20_000
BLOBS = "/v1/blobs"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
log = structlog.get_logger("api")


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of bodies, requests a minute per account or address, the most worked on at once, the
    most event streams open.

    A body has `body_seconds` to arrive, and a blob one second more per `blob_bytes_per_second`.
    """

    body_bytes: int = BODY_BYTES_MAX
    blob_bytes: int = BLOB_BYTES_MAX
    per_minute: int = 6_000
    failed_logins_per_minute: int = 60
    in_flight: int = 256
    in_flight_per_address: int = 64
    streams: int = 200
    streams_per_account: int = 32
    streams_per_address: int = 64
    body_seconds: float = 10
    blob_bytes_per_second: int = 512 * 1024

    def body_of(self, path: str) -> tuple[int, float]:
        """The most bytes of a body on a path, and the seconds it may take to arrive."""
        if path != BLOBS:
            return self.body_bytes, self.body_seconds
        return self.blob_bytes, self.body_seconds + self.blob_bytes / self.blob_bytes_per_second


def _remember(table: OrderedDict[str, T], caller: str, value: T) -> None:
    """Keep what is known of a caller; the least recent one is forgotten when the table is full."""
    table[caller] = value
    table.move_to_end(caller)
    if len(table) > CALLERS_MAX:
        table.popitem(last=False)


class RateWindows:
    """Counts per caller in fixed windows."""

    def __init__(self, limit: int, now: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._now = now
        self._counts: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def _count(self, caller: str) -> tuple[int, int]:
        window = int(self._now() // WINDOW_S)
        start, count = self._counts.get(caller, (window, 0))
        return window, count if start == window else 0

    def left(self, caller: str) -> int:
        """How many more requests the caller has in this window."""
        return max(0, self.limit - self._count(caller)[1])

    def take(self, caller: str) -> bool:
        """Count one request; False if the window has none left."""
        window, count = self._count(caller)
        _remember(self._counts, caller, (window, count + 1))
        return count < self.limit

    def resets_in(self) -> int:
        """Seconds until the next window, at least one."""
        return max(1, WINDOW_S - int(self._now() % WINDOW_S))


class OpenStreams:
    """Open event streams, counted by account and by address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: Counter[str] = Counter()
        self._count = 0

    def check(self, account: str, address: str) -> None:
        """Pass if one more stream may open. Raises RateLimited, Unavailable."""
        if self._open[account] >= self._limits.streams_per_account:
            raise _too_many("the account has", self._limits.streams_per_account)
        if self._open[f"ip:{address}"] >= self._limits.streams_per_address:
            raise _too_many("your address has", self._limits.streams_per_address)
        if self._count >= self._limits.streams:
            raise Unavailable("too many event streams are open; come back")

    @contextmanager
    def hold(self, account: str, address: str) -> Iterator[None]:
        """Count one stream as open. Raises as `check` does."""
        self.check(account, address)
        names = Counter((account, f"ip:{address}"))
        self._open += names
        self._count += 1
        try:
            yield
        finally:
            self._open -= names  # a name with none left is forgotten
            self._count -= 1


def _too_many(whose: str, most: int) -> RateLimited:
    facts = {"retry_after_seconds": STREAM_RETRY_S}
    return RateLimited(f"{whose} {most} event streams open; close one first", facts=facts)


class Gate:
    """The outermost layer: every response carries X-Request-Id and RateLimit, and is counted.
    `answered` takes each answer's scope, status and seconds; `account_of` knows whose a key is."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        answered: Callable[[Scope, int, float], None],
        account_of: Callable[[str], str | None],
    ) -> None:
        self._app = app
        self._account_of = account_of
        self._limits = limits
        self._answered = answered
        self._requests = RateWindows(limits.per_minute)
        self._failures = RateWindows(limits.failed_logins_per_minute)
        self._working: Counter[str] = Counter()
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        began = time.monotonic()
        status = 0
        held = ExitStack()
        given = request.headers.get("x-request-id", "")
        request.state.request_id = given if _REQUEST_ID.match(given) else f"req_{uuid7().hex}"
        address = address_of(request)
        request.state.caller = f"ip:{address}"

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if any(b"text/event-stream" in value for _, value in message.get("headers", [])):
                    held.close()  # a stream no longer counts as in flight
                self._tell(request, message, time.monotonic() - began)
            await send(message)

        most, seconds = self._limits.body_of(scope["path"])
        refused = self._refusal(request, address, most)
        if refused is not None:
            await refused(scope, receive, send_on)
            return
        with held:
            self._working[address] += 1
            held.callback(self._release, address)
            app = await self._admit(request, address)
            await app(scope, _bounded(receive, most, seconds), send_on)
        if status == 401:
            self._failures.take(address)

    def _release(self, address: str) -> None:
        self._working -= Counter({address: 1})  # an address with none left is forgotten

    def _tell(self, request: Request, message: MutableMapping[str, Any], seconds: float) -> None:
        """Add the headers that every answer has, count it and log it."""
        caller = request.state.caller
        request_id = request.state.request_id
        status = message["status"]
        left, reset = self._requests.left(caller), self._requests.resets_in()
        policy = f'"default";q={self._requests.limit};w={WINDOW_S}'
        message["headers"] = [
            *message.get("headers", []),
            (b"x-request-id", request_id.encode()),
            (b"ratelimit-policy", policy.encode()),
            (b"ratelimit", f'"default";r={left};t={reset}'.encode()),
        ]
        self._answered(request.scope, status, seconds)
        method = request.method
        path = request.scope["path"]
        ms = round(seconds * 1000, 1)
        log.debug("request", method=method, path=path, status=status, ms=ms, request_id=request_id)

    async def _admit(self, request: Request, address: str) -> ASGIApp:
        """The application, or a refusal if account or address ask too often.

        A request counts for its key's account, or for its address if its key is not good: made-up
        keys gain nothing. If many fail to log in, only requests with a good key go on.
        """
        guessed = not self._failures.left(address)
        account = await self._account(request, fresh=guessed)
        if account is not None:
            request.state.caller = account
        if not self._requests.take(request.state.caller):
            return self._come_back(request, self._requests.resets_in())
        if guessed and account is None:
            return self._come_back(request, self._failures.resets_in())
        return self._app

    async def _account(self, request: Request, fresh: bool) -> str | None:
        """Whose API key a request carries; looked up once a minute unless `fresh`."""
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return None
        # By its hash, so that no key is kept in memory.
        digest = hashlib.sha256(key.strip().encode()).hexdigest()
        now = time.monotonic()
        found, until = self._known.get(digest, (None, 0.0))
        if found is not None and now < until and not fresh:
            return found
        account = await run_in_threadpool(self._account_of, key.strip())
        if account is not None:
            _remember(self._known, digest, (account, now + WINDOW_S))
        return account

    def _refusal(self, request: Request, address: str, most: int) -> ASGIApp | None:
        if self._working[address] >= self._limits.in_flight_per_address:
            return self._come_back(request, 1)
        if self._working.total() >= self._limits.in_flight:
            return answer(request, "unavailable", "too many requests at once; come back")
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length[:NUMBER_DIGITS_MAX]) > most:
            return answer(request, "too_large", _too_large(most))
        return None

    def _come_back(self, request: Request, seconds: int) -> ASGIApp:
        facts = {"retry_after_seconds": seconds}
        return answer(request, "rate_limited", "too many requests", facts=facts)


def address_of(request: Request) -> str:
    """Where a request comes from; behind a trusted proxy, what the proxy says."""
    return request.client.host if request.client else "-"


def _too_large(most: int) -> str:
    return f"a body has at most {most} bytes here"


def _bounded(receive: Receive, most: int, seconds: float) -> Receive:
    """Receive that refuses a body which turns out larger than allowed, whatever it had said, or
    which is not all there in time. Once it is, what is received is the end of the connection."""
    left, complete = most, False
    deadline = time.monotonic() + seconds

    async def bounded() -> Message:
        nonlocal left, complete
        if complete:
            return await receive()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                message = await receive()
        except TimeoutError:
            detail = f"a body has {seconds:g} seconds to arrive here"
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, _too_large(most))
        complete = not message.get("more_body", False)
        return message

    return bounded
