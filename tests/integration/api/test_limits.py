"""Clients that are slow, leave, or guess keys: what they get, and that others are still served."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from marketplace.api.limits import Limits, OpenStreams
from marketplace.db.tables import ApiKeyRow
from marketplace.errors import RateLimited, Unavailable
from tests.api_client import Api
from tests.databases import rows_of

START: Message = {"type": "http.request", "body": b'{"job": ', "more_body": True}
GONE: Message = {"type": "http.disconnect"}
Opened = Callable[[Limits], AbstractContextManager[Api]]


async def post(
    api: Api, path: str, *messages: Message, address: str = "10.0.0.1", key: str = ""
) -> Message:
    """The start of the answer to a client that sends these messages, and nothing after them."""
    waiting, sent = list(messages), []

    async def receive() -> Message:
        return waiting.pop(0) if waiting else await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json" if path != "/v1/blobs" else b"binary")]
    headers += [(b"authorization", b"Bearer " + key.encode())] if key else []
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers,
        "client": (address, 1), "server": ("market", 80), "state": {},
    }  # fmt: skip
    await api.app(scope, receive, send)
    return sent[0]


def statuses(answers: list[Message]) -> list[int]:
    return [answer["status"] for answer in answers]


def test_a_body_that_stops_coming_is_given_up(opened: Opened) -> None:
    with opened(Limits(body_seconds=0.05)) as api:
        api.call("GET", "/health")
        answer = api.runner.run(asyncio.wait_for(post(api, "/v1/quotes", START), 5))
        assert answer["status"] == 408
        assert (b"connection", b"close") in answer["headers"]


def test_a_blob_has_time_in_proportion() -> None:
    limits = Limits(blob_bytes=1000, blob_bytes_per_second=10, body_seconds=2)
    assert limits.body_of("/v1/blobs") == (1000, 102)
    assert limits.body_of("/v1/jobs") == (limits.body_bytes, 2)


def test_one_address_cannot_keep_others_out(opened: Opened) -> None:
    with opened(Limits(body_seconds=0.5, in_flight=8, in_flight_per_address=4)) as api:
        api.call("GET", "/health")
        end: Message = {"type": "http.request", "body": b"}"}

        async def crowd() -> tuple[list[Message], Message]:
            slow = [asyncio.create_task(post(api, "/v1/quotes", START)) for _ in range(12)]
            await asyncio.sleep(0)
            other = await post(api, "/v1/quotes", START, end, address="10.0.0.2")
            return await asyncio.gather(*slow), other

        slow, other = api.runner.run(crowd())
        assert statuses(slow) == [408] * 4 + [429] * 8
        assert other["status"] == 400
        again = api.runner.run(post(api, "/v1/quotes", START, end))
        assert again["status"] == 400


@pytest.mark.parametrize("path", ["/v1/quotes", "/v1/blobs"])
def test_a_client_that_leaves_while_it_sends_is_no_fault(opened: Opened, path: str) -> None:
    with opened(Limits()) as api:
        key = api.buyer
        with capture_logs() as logs:
            api.runner.run(post(api, path, START, GONE, key=key))
        assert [entry for entry in logs if entry["log_level"] != "debug"] == []


def test_a_good_key_is_served_where_others_guess(opened: Opened) -> None:
    with opened(Limits(failed_logins_per_minute=3)) as api:
        key = api.buyer
        codes = [api.call("GET", "/jobs", f"coul_guess{i}").status_code for i in range(5)]
        assert codes == [401] * 3 + [429] * 2

        def code(method: str, given: Any) -> int:
            return api.call(method, "/jobs", given).status_code

        assert [code("GET", key) for _ in range(5)] == [200] * 5
        assert code("GET", "coul_guess") == 429
        assert code("GET", None) == 429
        with api.world.database.write() as store:
            (row,) = rows_of(store, ApiKeyRow, account=api.world.buyer.address)
            api.world.catalog.accounts.revoke(store, api.world.caller(api.world.buyer), row.id)
        assert code("GET", key) == 429


def test_made_up_keys_share_the_window_of_their_address(opened: Opened) -> None:
    with opened(Limits(per_minute=5, failed_logins_per_minute=1_000)) as api:
        good = api.key(api.world.provider, "provider")  # two requests of the five

        def code(key: str | None) -> int:
            return api.call("GET", "/health", key).status_code

        assert [code(f"coul_made_up_{i}") for i in range(5)] == [200] * 3 + [429] * 2
        assert code(None) == 429
        assert [code(good) for _ in range(6)] == [200] * 5 + [429]


def test_the_keys_of_an_account_share_its_window(opened: Opened) -> None:
    with opened(Limits(per_minute=6)) as api:
        keys = (api.key(api.world.buyer, "buyer"), api.key(api.world.buyer, "provider"))
        codes = [api.call("GET", "/keys", keys[i % 2]).status_code for i in range(7)]
        assert codes == [200] * 6 + [429]


def test_event_streams_are_counted_by_account_and_address() -> None:
    streams = OpenStreams(Limits(streams=4, streams_per_account=2, streams_per_address=3))
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(streams.hold("alice", "1.1.1.1"))
        with pytest.raises(RateLimited, match="account"):
            streams.check("alice", "2.2.2.2")
        held.enter_context(streams.hold("bob", "1.1.1.1"))
        with pytest.raises(RateLimited, match="address"):
            streams.check("carol", "1.1.1.1")
        held.enter_context(streams.hold("carol", "2.2.2.2"))
        with pytest.raises(Unavailable), streams.hold("dave", "3.3.3.3"):
            pass
    streams.check("alice", "1.1.1.1")
