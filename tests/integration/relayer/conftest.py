"""One Anvil for all tests of the relayer in a file; each gets a relayer of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from marketplace.db.outbox import SqlOutbox
from settlement.chain.client import ChainClient
from tests.databases import sqlite_database
from tests.escrow_world import SETTINGS, TOKEN, World, anvil, found, key
from tests.relayer_bench import GWEI, Bench
from tests.rpc_proxy import RpcProxy, rpc_proxy


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with anvil() as chain:
        world = found(chain, SETTINGS)
        world.fund(10_000 * TOKEN)
        yield world


@pytest.fixture
def bench(world: World, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A bench on a chain that is put back afterwards."""
    signer = key(f"relayer {request.node.name}")
    with world.chain.put_back(), sqlite_database() as database:
        world.client.rpc("anvil_setBalance", signer.address, hex(100 * TOKEN))
        yield Bench(world, signer, SqlOutbox(database))
        world.client.rpc("evm_setAutomine", True)
    world.client.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))  # a revert leaves it


@pytest.fixture
def proxy(bench: Bench) -> Iterator[RpcProxy]:
    with rpc_proxy(bench.world.client.rpc_url) as proxy:
        bench.client = ChainClient(proxy.url, bench.world.client.chain_id, timeout_seconds=1.0)
        yield proxy
