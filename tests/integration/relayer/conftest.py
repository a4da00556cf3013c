"""Each test gets a relayer with a key and a store of its own."""

from collections.abc import Iterator

import pytest

from marketplace.db.outbox import SqlOutbox
from settlement.chain.client import ChainClient
from settlement.fees import GWEI
from tests.databases import sqlite_database
from tests.escrow_world import TOKEN, World, key
from tests.relayer_bench import Bench
from tests.rpc_proxy import RpcProxy, rpc_proxy


@pytest.fixture
def bench(world: World, request: pytest.FixtureRequest) -> Iterator[Bench]:
    signer, rpc = key(f"relayer {request.node.name}"), world.client.rpc
    rpc("anvil_setBalance", signer.address, hex(100 * TOKEN))
    with sqlite_database() as database:
        yield Bench(world, signer, SqlOutbox(database))
    rpc("evm_setAutomine", True)
    rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))  # reverting the chain does not reset it


@pytest.fixture
def proxy(bench: Bench) -> Iterator[RpcProxy]:
    with rpc_proxy(bench.world.client.rpc_url) as proxy:
        bench.client = ChainClient(proxy.url, bench.world.client.chain_id, timeout_seconds=1.0)
        yield proxy
