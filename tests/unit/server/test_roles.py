"""How the API is served."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sse_starlette.sse import AppStatus
from structlog.testing import capture_logs

from marketplace.api.sse import EventStream
from marketplace.sdk.errors import ConfigError
from marketplace.server.roles import app_of, build, server_config, warn_without_gas
from marketplace.server.settings import Settings
from settlement.eip712 import ZERO_ADDRESS
from tests.market_world import market


def test_api_and_matcher_without_a_known_opener_do_not_start() -> None:
    runtime: Any = SimpleNamespace(catalog=SimpleNamespace(market=market(opener=ZERO_ADDRESS)))
    with pytest.raises(ConfigError, match="COULOMB_OPENER"):
        app_of(runtime)
    alone = Settings(rpc_url="http://127.0.0.1:9", chain_id=7, roles=("matcher",), opener=None)
    with pytest.raises(ConfigError, match="COULOMB_OPENER"):
        build(alone)


@pytest.mark.parametrize(
    ("proxies", "peer", "seen"),
    [
        ("", "127.0.0.1", "127.0.0.1"),
        ("10.0.0.9", "10.0.0.9", "6.6.6.6"),
        ("10.0.0.9", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_address_of_a_request_is_the_peer_or_what_a_named_proxy_says(
    proxies: str, peer: str, seen: str
) -> None:
    found = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope["client"][0])

    config = server_config(cast(Any, app), proxies)
    config.load()
    scope = {
        "type": "http", "scheme": "http", "client": (peer, 1),
        "headers": [(b"x-forwarded-for", b"6.6.6.6")],
    }  # fmt: skip
    asyncio.run(config.loaded_app(scope, None, None))
    assert found == [seen]


def test_stream_that_the_servers_end_cuts_short_is_ended_in_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def events() -> AsyncIterator[str]:
        yield "one"
        await asyncio.sleep(3600)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body"):
            monkeypatch.setattr(AppStatus, "should_exit", True)

    async def receive() -> Any:
        await asyncio.sleep(3600)

    scope = {"type": "http", "method": "GET"}
    asyncio.run(EventStream(events())(scope, receive, send))
    assert [message.get("more_body", False) for message in sent] == [False, True, False]


@pytest.mark.parametrize(("wei", "warned"), [(0, 1), (1, 0)])
def test_relayer_without_gas_is_told_in_the_log(wei: int, warned: int) -> None:
    client: Any = SimpleNamespace(balance=lambda _: wei)
    with capture_logs() as logged:
        warn_without_gas(client, "0x01")
    assert [line["address"] for line in logged] == ["0x01"] * warned
