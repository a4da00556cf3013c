"""Requests are repeated only where that is safe, as patiently as the server asks for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from marketplace.sdk.errors import ApiError, ConnectFailed, RateLimited, TimedOut, Unavailable
from marketplace.sdk.flow import Effect, Flow, Request, Response, Sleep
from marketplace.sdk.transfer import NO_RETRIES, RetryPolicy, retry_after_of, send

GET = Request("GET", "/v1/jobs")
POST = Request("POST", "/v1/jobs", json={})
Step = Response | Exception


def run(flow: Flow[Response], *steps: Step) -> tuple[Response | Exception, list[Effect]]:
    """Drive a flow by hand: each request takes the next step; returns the outcome and effects."""
    queue, effects = list(steps), []
    outcome: object = None
    try:
        effect = next(flow)
        while True:
            effects.append(effect)
            if isinstance(effect, Sleep):
                effect = flow.send(None)
                continue
            step = queue.pop(0)
            effect = flow.throw(step) if isinstance(step, Exception) else flow.send(step)
    except StopIteration as end:
        outcome = end.value
    except (ApiError, ConnectFailed, TimedOut) as error:
        outcome = error
    assert queue == [], "the flow stopped before it used every step"
    return outcome, effects  # type: ignore[return-value]


def response(status: int, body: bytes = b"{}", **headers: str) -> Response:
    return Response(status, {k.replace("_", "-"): v for k, v in headers.items()}, body)


def sleeps(effects: list[Effect]) -> list[float]:
    return [effect.seconds for effect in effects if isinstance(effect, Sleep)]


def test_answer_below_400_is_returned_at_once() -> None:
    outcome, effects = run(send(POST), response(202))
    assert outcome == response(202)
    assert effects == [POST]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_get_is_repeated_after_a_passing_failure(status: int) -> None:
    outcome, effects = run(send(GET, draw=lambda: 1.0), response(status), response(200))
    assert outcome == response(200)
    assert sleeps(effects) == [0.2]


@pytest.mark.parametrize("failure", [ConnectFailed("x"), TimedOut("x")])
def test_get_is_repeated_after_a_lost_connection(failure: Exception) -> None:
    outcome, _ = run(send(GET), failure, response(200))
    assert outcome == response(200)


@pytest.mark.parametrize("failure", [ConnectFailed("x"), TimedOut("x"), response(503)])
def test_plain_post_is_never_repeated(failure: Step) -> None:
    outcome, effects = run(send(POST), failure)
    assert isinstance(outcome, ConnectFailed | TimedOut | Unavailable)
    assert effects == [POST]


@pytest.mark.parametrize(
    "request_",
    [
        Request("POST", "/v1/jobs", idempotency_key="k"),
        Request("POST", "/v1/leases/x/heartbeats", repeatable=True),
        Request("DELETE", "/v1/asks/x"),
        Request("PUT", "/v1/x"),
    ],
)
def test_request_that_may_repeat_is_repeated(request_: Request) -> None:
    outcome, effects = run(send(request_), TimedOut("x"), response(200))
    assert outcome == response(200)
    assert [e for e in effects if isinstance(e, Request)] == [request_, request_]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 500])
def test_refusal_is_not_repeated(status: int) -> None:
    outcome, effects = run(send(GET), response(status))
    assert isinstance(outcome, ApiError)
    assert outcome.status == status
    assert effects == [GET]


def test_refusal_that_says_retryable_is_repeated() -> None:
    busy = response(409, b'{"code":"idempotency_in_flight","retryable":true}')
    outcome, _ = run(send(Request("POST", "/x", idempotency_key="k")), busy, response(201))
    assert outcome == response(201)


def test_attempts_end_with_the_last_failure() -> None:
    policy = RetryPolicy(attempts=3, first=1.0, wait_max=1.5)
    outcome, effects = run(
        send(GET, policy, draw=lambda: 1.0), response(503), response(503), TimedOut("last")
    )
    assert isinstance(outcome, TimedOut)
    assert sleeps(effects) == [1.0, 1.5]


def test_no_retries_tries_once() -> None:
    outcome, effects = run(send(GET, NO_RETRIES), response(503))
    assert isinstance(outcome, Unavailable)
    assert effects == [GET]


def test_back_off_stays_in_the_upper_half() -> None:
    policy = RetryPolicy(first=1.0, wait_max=100.0)
    draws: list[Callable[[], float]] = [lambda: 0.0, lambda: 1.0]
    assert [policy.wait(3, None, draw) for draw in draws] == [2.0, 4.0]


def test_retry_after_is_waited_for() -> None:
    outcome, effects = run(send(GET), response(429, retry_after="3"), response(200))
    assert outcome == response(200)
    assert sleeps(effects) == [3.0]


def test_retry_after_beyond_patience_is_handed_to_the_caller() -> None:
    outcome, effects = run(send(GET), response(429, retry_after="3600"))
    assert isinstance(outcome, RateLimited)
    assert outcome.problem.retry_after == 3600
    assert sleeps(effects) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Sat, 01 Jan 2028 00:00:30 GMT", 30.0),
        ("Sat, 01 Jan 2028 00:00:30 -0000", 30.0),
        ("Sat, 01 Jan 2000 00:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
    ],
)
def test_retry_after_reads_seconds_and_dates(value: str, expected: float | None) -> None:
    now = datetime(2028, 1, 1, tzinfo=UTC)
    assert retry_after_of(response(503, retry_after=value), now) == expected
