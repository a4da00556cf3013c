"""Settings and the loops that roles run in."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from marketplace.bootstrap import ROLES, Loop, Settings, app_of, server_config
from settlement.eip712 import ZERO_ADDRESS
from settlement.errors import ChainUnavailable
from tests.market_world import market


def test_settings_come_from_the_environment() -> None:
    env = {
        "ETH_RPC_URL": "http://node",
        "COULOMB_CHAIN_ID": "31337",
        "COULOMB_ROLES": "api,matcher",
        "COULOMB_PORT": "0",
        "COULOMB_RELAYER_KEYSTORE": "/keys/relayer",
        "COULOMB_OPERATORS": "0x01,0x02",
    }
    settings = Settings.from_env(env)
    assert (settings.rpc_url, settings.chain_id, settings.port) == ("http://node", 31337, 0)
    assert settings.roles == ("api", "matcher")
    assert settings.relayer_keystore == Path("/keys/relayer")
    assert settings.operators == ("0x01", "0x02")
    minimal = Settings.from_env({"ETH_RPC_URL": "http://node", "COULOMB_CHAIN_ID": "1"})
    assert (minimal.roles, minimal.operators, minimal.opener) == (ROLES, (), None)


@pytest.mark.parametrize("roles", ["", "api,relay"])
def test_unknown_roles_are_refused(roles: str) -> None:
    env = {"ETH_RPC_URL": "x", "COULOMB_CHAIN_ID": "1", "COULOMB_ROLES": roles}
    with pytest.raises(ValueError, match="roles are"):
        Settings.from_env(env)


def test_an_api_that_knows_no_opener_does_not_start() -> None:
    runtime: Any = SimpleNamespace(catalog=SimpleNamespace(market=market(opener=ZERO_ADDRESS)))
    with pytest.raises(ValueError, match="COULOMB_OPENER"):
        app_of(runtime)


@pytest.mark.parametrize(
    ("proxies", "peer", "seen"),
    [
        ("", "127.0.0.1", "127.0.0.1"),
        ("10.0.0.9", "10.0.0.9", "6.6.6.6"),
        ("10.0.0.9", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_an_address_is_what_the_peer_is_or_what_a_named_proxy_says(
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


def test_a_chain_that_is_away_slows_a_loop_down_and_ends_it_not() -> None:
    ticks = 0
    enough = threading.Event()

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks < 4:
            raise ChainUnavailable("away")
        enough.set()

    loop = Loop("relayer", tick, 0.001)
    loop.start()
    assert enough.wait(10)
    loop.stop()
    assert (loop.broken, loop.is_alive()) == (False, False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_nobody_foresaw_ends_the_loop_and_tells_the_process() -> None:
    told = threading.Event()

    def tick() -> None:
        raise RuntimeError("a bug")

    loop = Loop("matcher", tick, 0.001)
    loop.on_fault = told.set
    loop.start()
    assert told.wait(10)
    loop.stop()
    assert loop.broken


def test_a_woken_loop_ticks_at_once() -> None:
    ticked = threading.Semaphore(0)
    loop = Loop("matcher", lambda: ticked.release(), 3600)
    loop.start()
    assert ticked.acquire(timeout=10)
    loop.wake()
    assert ticked.acquire(timeout=10)
    loop.stop()
