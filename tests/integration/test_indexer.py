"""The indexer against Anvil: the store equals the chain, through reorgs and bad nodes."""

from dataclasses import replace

import pytest

from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow
from settlement.errors import ChainUnavailable
from settlement.events import Opened
from settlement.indexer import REORG_DEPTH, Indexer
from settlement.leases import replay
from settlement.ports import BlockRef
from tests.escrow_world import World
from tests.fakes_settlement import MemoryEvents
from tests.rpc_proxy import rpc_proxy


@pytest.fixture
def store() -> MemoryEvents:
    return MemoryEvents()


def indexer(world: World, store: MemoryEvents, confirmations: int = 0) -> Indexer:
    first = world.deployment.block
    return Indexer(store, world.escrow, first, confirmations)


def assert_equals_chain(world: World, store: MemoryEvents) -> None:
    cursor = store.cursor()
    assert cursor is not None
    assert store.logged == list(world.escrow.events(0, cursor.number))
    assert {e.block_hash for e in store.logged} <= {b.hash for b in store.refs}
    state = replay((e.event for e in store.logged), world.escrow.params())
    for account, amount in state.balances.items():
        assert world.escrow.balance_of(account, cursor.number) == amount


def mine(world: World, blocks: int) -> None:
    world.client.rpc("anvil_mine", hex(blocks))


def test_tick_follows_a_life(world: World, store: MemoryEvents) -> None:
    follower = indexer(world, store)
    follower.tick()
    lease = world.open(world.match(bid=world.metered_bid()))
    world.chain.warp(100)
    world.settle(lease.metered(9_000, 5, 6))
    assert follower.tick().events == 3
    world.send(world.relayer, lease.close(50_000, 10, 11))
    assert follower.tick().events == 2  # what was counted, then the close
    assert follower.tick().blocks == 0
    assert_equals_chain(world, store)


def test_tick_keeps_its_distance_from_the_head(world: World, store: MemoryEvents) -> None:
    follower = indexer(world, store, confirmations=3)
    follower.tick()
    before = len(store.logged)
    world.open()
    follower.tick()
    assert len(store.logged) == before
    mine(world, 3)
    follower.tick()
    assert isinstance(store.logged[-1].event, Opened)


def test_tick_catches_up_deep_history_in_ranges(world: World, store: MemoryEvents) -> None:
    lease = world.open()
    mine(world, 3 * REORG_DEPTH)
    world.send(world.buyer, world.escrow.calls.stop(lease.ref))
    follower = indexer(world, store)
    deep, near = follower.tick(), follower.tick()
    assert deep.behind == REORG_DEPTH
    assert near.behind == 0
    assert len(store.refs) == 1 + REORG_DEPTH
    assert store.cursor() == world.client.head()
    assert store.logged == list(world.escrow.events(0, world.client.head().number))


def test_a_reorg_rolls_back_and_reads_the_new_branch(world: World, store: MemoryEvents) -> None:
    follower = indexer(world, store)
    mine(world, 5)
    follower.tick()
    kept = list(store.logged)
    world.open()
    lease = world.open()
    world.send(world.buyer, world.escrow.calls.stop(lease.ref))
    follower.tick()
    assert len(store.logged) == len(kept) + 3
    world.client.rpc("anvil_reorg", 3, [])
    progress = follower.tick()
    assert progress.rolled_back == 3
    assert store.logged == kept
    world.open()
    follower.tick()
    assert len(store.logged) == len(kept) + 1
    assert_equals_chain(world, store)


def test_a_reorg_of_everything_stored_starts_over(world: World, store: MemoryEvents) -> None:
    mine(world, 3)
    follower = indexer(world, store)
    follower.tick()
    store.refs = [replace(ref, hash="0x" + "00" * 32) for ref in store.refs]
    follower.tick()
    assert_equals_chain(world, store)


def test_a_node_that_is_behind_rolls_nothing_back(world: World, store: MemoryEvents) -> None:
    follower = indexer(world, store)
    snapshot = world.client.rpc("evm_snapshot")
    world.open()
    follower.tick()
    before = list(store.logged)
    assert world.client.rpc("evm_revert", snapshot)  # the same branch, shorter
    progress = follower.tick()
    assert (progress.rolled_back, progress.behind) == (0, 1)
    assert store.logged == before


@pytest.mark.parametrize("more_blocks", [0, 1])
def test_a_reorg_between_two_reads_is_not_stored(
    world: World, store: MemoryEvents, monkeypatch: pytest.MonkeyPatch, more_blocks: int
) -> None:
    follower = indexer(world, store)
    follower.tick()
    before = list(store.logged)
    world.open()
    if more_blocks:
        mine(world, more_blocks)
    real = ChainClient.block

    def moved(client: ChainClient, at: int | str = "latest") -> BlockRef | None:
        block = real(client, at)  # type: ignore[arg-type]
        cursor = store.cursor()
        if block is not None and cursor is not None and block.number == cursor.number + 1:
            return replace(block, hash="0x" + "11" * 32)
        return block

    monkeypatch.setattr(ChainClient, "block", moved)
    with pytest.raises(ChainUnavailable, match="changed while it was read"):
        follower.tick()
    assert store.logged == before
    monkeypatch.undo()
    follower.tick()
    assert_equals_chain(world, store)


@pytest.mark.parametrize("method", ["eth_getBlockByNumber", "eth_getLogs"])
@pytest.mark.parametrize("fault", ["garbage", "drop_request", "429"])
def test_a_broken_node_stores_nothing_wrong(
    world: World, store: MemoryEvents, method: str, fault: str
) -> None:
    with rpc_proxy(world.client.rpc_url) as proxy:
        client = ChainClient(proxy.url, world.client.chain_id, timeout_seconds=1.0)
        follower = Indexer(store, Escrow(client, world.escrow.address), 1)
        follower.tick()
        world.open()
        with proxy.faulty(fault, method), pytest.raises(ChainUnavailable):  # type: ignore[arg-type]
            follower.tick()
        follower.tick()
    assert_equals_chain(world, store)
