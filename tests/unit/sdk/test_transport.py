"""Requests are repeated only if that is safe, as patiently as the server asks for; answers are
bounded; every failure has its error."""

import asyncio
import gzip
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from marketplace.sdk import NO_RETRIES, AsyncCoulomb, Coulomb, RetryPolicy, http
from marketplace.sdk._sync import transport as module
from marketplace.sdk._sync.transport import Transport
from marketplace.sdk.errors import (
    ApiError,
    ConfigError,
    ConnectFailed,
    CoulombError,
    NotFound,
    ProtocolError,
    RateLimited,
    TimedOut,
    TransportError,
    Unavailable,
)
from marketplace.wire.base import Answer

LOST = httpx.ReadTimeout("x")
Step = httpx.Response | Exception


class Row(Answer):
    """The smallest answer there is."""

    id: str


class Steps:
    """A server that answers with one step after the other."""

    def __init__(self, *steps: Step) -> None:
        self.left = list(steps)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        step = self.left.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept, in seconds; nothing is."""
    slept: list[float] = []
    monkeypatch.setattr(module, "sleep", slept.append)
    return slept


def on(
    *steps: Step, policy: RetryPolicy | None = None
) -> tuple[Transport, list[httpx.Request], list[Step]]:
    server = Steps(*steps)
    client = httpx.Client(base_url="http://market", transport=httpx.MockTransport(server))
    return Transport(client, policy or RetryPolicy(draw=lambda: 1.0)), server.asked, server.left


def answer(status: int, body: bytes = b'{"id":"x"}', **headers: str) -> httpx.Response:
    return httpx.Response(
        status, content=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def test_answer_is_returned_at_once(waits: list[float]) -> None:
    transport, asked, _ = on(answer(202))
    assert transport.send("POST", "/v1/jobs", json={}) == b'{"id":"x"}'
    assert (len(asked), waits) == (1, [])


@pytest.mark.parametrize("step", [*map(answer, (429, 502, 503, 504)), LOST, httpx.ConnectError("")])
def test_get_is_repeated_after_what_passes(waits: list[float], step: Step) -> None:
    transport, _, left = on(step, answer(200))
    assert transport.get(Row, "/v1/jobs").id == "x"
    assert (left, waits) == ([], [0.2])


@pytest.mark.parametrize("step", [LOST, httpx.ConnectError("x"), answer(503)])
def test_plain_post_is_never_repeated(waits: list[float], step: Step) -> None:
    transport, asked, _ = on(step)
    with pytest.raises((TransportError, Unavailable)):
        transport.post(Row, "/v1/keys")
    assert (len(asked), waits) == (1, [])


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("POST", {"idempotency_key": "k"}), ("POST", {"repeatable": True}),
        ("DELETE", {}), ("PUT", {}),
    ],
)  # fmt: skip
def test_request_that_may_repeat_is_repeated_as_it_was(
    waits: list[float], method: str, options: dict[str, Any]
) -> None:
    transport, asked, _ = on(LOST, answer(200))
    transport.send(method, "/v1/x", json={"a": 1}, **options)
    first, second = asked
    assert first.content == second.content == b'{"a":1}'
    assert first.headers.get("idempotency-key") == options.get("idempotency_key")
    assert second.headers == first.headers


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 500])
def test_refusal_is_not_repeated(waits: list[float], status: int) -> None:
    transport, asked, _ = on(answer(status, b"{}"))
    with pytest.raises(ApiError) as caught:
        transport.get(Row, "/v1/jobs")
    assert caught.value.status == status
    assert (len(asked), waits) == (1, [])


def test_refusal_that_says_retryable_is_repeated(waits: list[float]) -> None:
    busy = answer(409, b'{"code":"idempotency_in_flight","retryable":true}')
    transport, _, left = on(busy, answer(201))
    transport.post(Row, "/x", idempotency_key="k")
    assert left == []


def test_attempts_end_with_the_last_failure(waits: list[float]) -> None:
    policy = RetryPolicy(attempts=3, first=1.0, wait_max=1.5, draw=lambda: 1.0)
    transport, _, left = on(answer(503), answer(503), LOST, policy=policy)
    with pytest.raises(TimedOut):
        transport.get(Row, "/x")
    assert (left, waits) == ([], [1.0, 1.5])


def test_back_off_stays_in_the_upper_half() -> None:
    draws: list[Callable[[], float]] = [lambda: 0.0, lambda: 1.0]
    policies = [RetryPolicy(first=1.0, wait_max=100.0, draw=draw) for draw in draws]
    assert [policy.wait(3) for policy in policies] == [2.0, 4.0]


def test_retry_after_is_waited_for(waits: list[float]) -> None:
    transport, _, _ = on(answer(429, retry_after="3"), answer(200))
    transport.get(Row, "/x")
    assert waits == [3.0]


def test_retry_after_beyond_patience_is_handed_to_the_caller(waits: list[float]) -> None:
    transport, _, _ = on(answer(429, retry_after="3600"))
    with pytest.raises(RateLimited) as caught:
        transport.get(Row, "/x")
    assert (caught.value.retry_after, waits) == (3600, [])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0), ("120", 120.0), ("", None), ("soon", None), ("-5", None), ("1.5", None),
        ("Sat, 01 Jan 2028 00:00:30 GMT", 30.0), ("Sat, 01 Jan 2028 00:00:30 -0000", 30.0),
        ("Sat, 01 Jan 2000 00:00:00 GMT", 0.0), ("Sat, 01 Jan 99999999999999 00:00:00 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_reads_seconds_and_dates(value: str, expected: float | None) -> None:
    now = datetime(2028, 1, 1, tzinfo=UTC)
    assert http.retry_after_of({"retry-after": value}, now) == expected


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_refused(waits: list[float], status: int) -> None:
    transport, asked, _ = on(answer(status, location="http://elsewhere/"))
    with pytest.raises(ProtocolError, match="redirects to 'http://elsewhere/'"):
        transport.send("POST", "/v1/jobs", json={}, idempotency_key="k")
    assert len(asked) == 1


def test_answer_above_its_bound_is_refused() -> None:
    transport, _, _ = on(answer(200, b"x" * 11), answer(200, b"x" * 10))
    with pytest.raises(ProtocolError, match="more than 10 bytes"):
        transport.send("GET", "/x", bytes_max=10)
    assert transport.send("GET", "/x", bytes_max=10) == b"x" * 10


def test_answer_that_drips_for_ever_times_out(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS_MAX", -1.0)
    transport, _, _ = on(answer(200), policy=NO_RETRIES)
    with pytest.raises(TimedOut, match="did not end"):
        transport.get(Row, "/x")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (httpx.ConnectError("x"), ConnectFailed), (httpx.ConnectTimeout("x"), ConnectFailed),
        (httpx.PoolTimeout("x"), ConnectFailed), (httpx.ReadTimeout("x"), TimedOut),
        (httpx.WriteTimeout("x"), TimedOut), (httpx.ReadError("x"), TransportError),
        (httpx.RemoteProtocolError("x"), TransportError),
        (httpx.DecodingError("x"), TransportError),
    ],
)  # fmt: skip
def test_every_lost_connection_has_its_error(
    raised: httpx.RequestError, expected: type[TransportError]
) -> None:
    transport, _, _ = on(raised, policy=NO_RETRIES)
    with pytest.raises(TransportError) as caught:
        transport.get(Row, "/x")
    assert type(caught.value) is expected


def pages(request: httpx.Request) -> httpx.Response:
    cursor = request.url.params.get("cursor")
    following = {None: "b", "b": "c"}.get(cursor)
    body = {"data": [{"id": cursor or "a"}], "has_more": following is not None}
    return httpx.Response(200, json={**body, "next_cursor": following})


def test_list_runs_over_every_page_and_leaves_out_what_is_not_said() -> None:
    client = httpx.Client(base_url="http://market", transport=httpx.MockTransport(pages))
    rows = Transport(client, NO_RETRIES).pages(Row, "/v1/x", limit=1, state=None)
    assert [row.id for row in rows] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b'{"data": {}}', b'{"data": [{"id": 5}]}',
        b'{"data": [], "has_more": true, "next_cursor": 5}',
    ],
)  # fmt: skip
def test_what_is_not_a_page_is_refused(body: bytes) -> None:
    transport, _, _ = on(answer(200, body))
    with pytest.raises(ProtocolError):
        list(transport.pages(Row, "/v1/x"))


def test_list_that_goes_in_circles_is_refused() -> None:
    circle = b'{"data": [{"id": "a"}], "has_more": true, "next_cursor": "b"}'
    transport, _, _ = on(answer(200, circle), answer(200, circle))
    with pytest.raises(ProtocolError, match="does not go on"):
        list(transport.pages(Row, "/v1/x"))


HOSTILE = {
    "not JSON": (200, b"<html>"),
    "nested": (200, b"[" * 1_000_000),
    "nested refusal": (400, b'{"a":' * 1_000_000),
    "long number": (200, b'{"id":' + b"9" * 100_000 + b"}"),
    "name twice": (200, b'{"id": "job_1", "id": "job_2"}'),
    "bomb": (200, gzip.compress(bytes(80 * 1024 * 1024), 1)),
    "broken gzip": (200, b"\x1f\x8b{}"),
    "another object": (200, b'{"id": 5}'),
}


def refused_in_both_clients(
    answer: Callable[[httpx.Request], httpx.Response],
    error: type[CoulombError],
    why: str | None = None,
) -> None:
    """Both clients raise the error on this answer."""
    options: Any = {"transport": httpx.MockTransport(answer), "retry": NO_RETRIES}
    with Coulomb("http://market", **options) as client, pytest.raises(error, match=why):
        client.jobs.get("job_1")

    async def main() -> None:
        async with AsyncCoulomb("http://market", **options) as other:
            await other.jobs.get("job_1")

    with pytest.raises(error, match=why):
        asyncio.run(main())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answer_is_an_error_in_both_clients(name: str) -> None:
    status, body = HOSTILE[name]
    headers = {"content-encoding": "gzip"} if body.startswith(b"\x1f\x8b") else {}

    def reply(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, stream=httpx.ByteStream(body), headers=headers)

    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # as a library may have left it
    try:
        refused_in_both_clients(reply, CoulombError)
    finally:
        sys.setrecursionlimit(before)


def test_refusal_reaches_the_caller_in_both_clients() -> None:
    problem = {"code": "not_found", "title": "Not found", "status": 404, "detail": "no such job"}
    refused_in_both_clients(lambda _: httpx.Response(404, json=problem), NotFound, "no such job")


@pytest.mark.parametrize(
    "url", ["", "market", "ftp://market", "htp://me:secret@lab", "//lab/secret", "secret"]
)
def test_a_wrong_address_is_refused_and_not_repeated_with_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="not an API address") as caught:
        Coulomb(url)
    assert "secret" not in str(caught.value) + caught.value.fix
