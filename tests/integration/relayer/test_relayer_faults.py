"""What networks, pools, fees and reorgs do to the relayer: never a second effect."""

from __future__ import annotations

from typing import Any

import pytest
from hexbytes import HexBytes
from web3 import HTTPProvider

from marketplace.db.outbox import SqlOutbox
from settlement.chain.client import ChainClient
from settlement.errors import ChainUnavailable, WrongChain
from settlement.fees import FeePolicy
from settlement.ports import IntentKind, IntentState
from settlement.relayer import RelayerSettings, _decode
from tests.escrow_world import TOKEN
from tests.relayer_bench import DEVNET, FAR_AWAY, GWEI, Bench
from tests.rpc_proxy import RpcProxy


def test_an_answer_lost_after_broadcast_is_not_signed_again(bench: Bench, proxy: RpcProxy) -> None:
    number, bid_hash = bench.enqueue_open()
    with proxy.faulty("lose_answer", "eth_sendRawTransaction"), pytest.raises(ChainUnavailable):
        bench.tick()
    assert proxy.calls["eth_sendRawTransaction"] == 1  # nothing below us tried again
    before = bench.store.get(number)
    assert before.state is IntentState.SIGNED
    bench.restart()
    bench.tick_until(number)
    after = bench.store.get(number)
    assert (after.raw, after.nonce) == (before.raw, before.nonce)
    assert bench.opened(bid_hash) == 1


def test_a_request_lost_before_broadcast_goes_out_as_the_same_bytes(
    bench: Bench, proxy: RpcProxy
) -> None:
    number, bid_hash = bench.enqueue_open()
    with proxy.faulty("drop_request", "eth_sendRawTransaction"), pytest.raises(ChainUnavailable):
        bench.tick()
    before = bench.store.get(number)
    bench.restart()
    bench.tick_until(number)
    after = bench.store.get(number)
    assert after.raw == before.raw
    assert bench.opened(bid_hash) == 1


@pytest.mark.parametrize("fault", ["drop_request", "slow", "429", "garbage"])
def test_a_node_out_of_order_changes_nothing(bench: Bench, proxy: RpcProxy, fault: str) -> None:
    number, bid_hash = bench.enqueue_open()
    with proxy.faulty(fault), pytest.raises(ChainUnavailable):  # type: ignore[arg-type]
        bench.tick()
    assert bench.state(number) is IntentState.PENDING
    bench.tick_until(number)
    assert bench.opened(bid_hash) == 1


def test_another_chain_behind_the_url_changes_nothing(bench: Bench, proxy: RpcProxy) -> None:
    bench.automine(False)
    number, bid_hash = bench.enqueue_open()
    bench.tick()
    before = bench.store.get(number)
    with proxy.faulty("wrong_chain"):
        for _ in range(5):
            with pytest.raises(WrongChain):
                bench.tick()
    assert bench.store.get(number) == before
    bench.mine()
    bench.tick_until(number)
    assert bench.opened(bid_hash) == 1


def test_a_node_that_forgets_its_pool_gets_each_nonce_once(bench: Bench) -> None:
    class Forgetful(ChainClient):
        def nonce(self, address: str, at: int | str = "latest") -> int:
            return super().nonce(address, "latest")

    bench.client = Forgetful(bench.world.client.rpc_url, 31337)
    bench.automine(False)
    bids = []
    for sent in range(3):
        bids.append(bench.enqueue_open()[1])
        assert bench.tick().sent == 1, sent
    bench.mine()
    bench.tick_until(*(intent.id for intent in bench.store.recent(100)))
    assert [i.nonce for i in bench.store.recent(100)] == [2, 1, 0]
    assert [bench.opened(bid) for bid in bids] == [1, 1, 1]


def test_a_dropped_transaction_goes_out_again_as_the_same_bytes(bench: Bench) -> None:
    bench.automine(False)
    number, bid_hash = bench.enqueue_open()
    bench.tick()
    before = bench.store.get(number)
    bench.world.client.rpc("anvil_dropTransaction", before.tx_hash)
    assert not bench.world.client.knows(before.tx_hash or "")
    assert bench.tick().sent == 1
    bench.mine()
    bench.tick_until(number)
    after = bench.store.get(number)
    assert after.raw == before.raw
    assert bench.opened(bid_hash) == 1


def test_a_stuck_transaction_is_replaced_with_the_same_nonce(bench: Bench) -> None:
    bench.settings = RelayerSettings(confirmations=0, stuck_blocks=0)
    bench.automine(False)
    number, bid_hash = bench.enqueue_open()
    bench.tick()
    first = bench.store.get(number)
    assert bench.tick().replaced == 1
    second = bench.store.get(number)
    assert (second.nonce, second.replaced) == (first.nonce, (first.tx_hash,))
    assert second.tx_hash != first.tx_hash
    bench.mine()
    bench.tick_until(number)
    assert bench.store.get(number).mined_hash == second.tx_hash
    assert bench.opened(bid_hash) == 1
    assert bench.sent_transactions() == 1


def test_a_replacement_lost_before_broadcast_goes_out_later(bench: Bench, proxy: RpcProxy) -> None:
    bench.settings = RelayerSettings(confirmations=0, stuck_blocks=0)
    bench.automine(False)
    number, bid_hash = bench.enqueue_open()
    bench.tick()
    with proxy.faulty("drop_request", "eth_sendRawTransaction"), pytest.raises(ChainUnavailable):
        bench.tick()
    second = bench.store.get(number)
    assert (second.state, len(second.replaced)) == (IntentState.SIGNED, 1)
    bench.settings = DEVNET
    bench.restart()
    assert bench.tick().sent == 1
    bench.mine()
    bench.tick_until(number)
    assert bench.store.get(number).mined_hash == second.tx_hash
    assert bench.opened(bid_hash) == 1


def test_a_fee_below_the_base_fee_is_raised_when_sent_again(bench: Bench) -> None:
    bench.automine(False)
    number, bid_hash = bench.enqueue_open()
    bench.tick()
    first = bench.store.get(number)
    bench.world.client.rpc("anvil_dropTransaction", first.tx_hash)
    bench.base_fee(40 * GWEI)
    assert bench.tick().replaced == 1
    second = bench.store.get(number)
    assert (second.nonce, second.replaced) == (first.nonce, (first.tx_hash,))
    bench.base_fee(40 * GWEI)
    bench.tick_until(number)
    assert bench.store.get(number).mined_hash == second.tx_hash
    assert bench.opened(bid_hash) == 1


def test_an_older_signing_that_was_mined_after_all_counts(bench: Bench) -> None:
    bench.automine(False)
    number, bid_hash = bench.enqueue_open()
    bench.tick()
    first = bench.store.get(number)
    bench.mine()
    # As if a replacement had been stored just before the first signing was mined.
    bench.store.mark_replaced(number, first.tx_hash or "", b"\x02never sent", "0x" + "99" * 32)
    bench.tick()
    final = bench.store.get(number)
    assert (final.state, final.mined_hash) == (IntentState.FINAL, first.tx_hash)
    assert bench.opened(bid_hash) == 1


def test_a_base_fee_above_the_cap_waits_and_is_told(bench: Bench) -> None:
    bench.settings = RelayerSettings(confirmations=0, fees=FeePolicy(cap=20 * GWEI))
    bench.base_fee(50 * GWEI)
    number, bid_hash = bench.enqueue_open()
    bench.tick()
    assert bench.state(number) is IntentState.PENDING
    assert [reason.split(":")[0] for _, reason in bench.alerts] == ["fee_above_cap"]
    bench.base_fee(GWEI)
    bench.tick_until(number)
    assert bench.opened(bid_hash) == 1


def test_a_relayer_out_of_gas_money_says_so_and_others_still_settle(bench: Bench) -> None:
    world = bench.world
    lease = world.open()
    world.chain.warp(60)
    world.client.rpc("anvil_setBalance", bench.signer.address, "0x0")
    number = bench.enqueue(IntentKind.SETTLE, world.escrow.calls.settle([lease.voucher(30_000)]))
    behind, _ = bench.enqueue_open()
    bench.tick()
    bench.tick()
    assert any("insufficient_funds" in reason for _, reason in bench.alerts)
    assert bench.state(behind) is IntentState.PENDING  # not buried under more
    world.send(world.stranger, world.escrow.calls.settle([lease.voucher(20_000)]))
    assert lease.view().used_ms == 20_000
    world.client.rpc("anvil_setBalance", bench.signer.address, hex(TOKEN))
    bench.tick_until(number, behind)
    assert lease.view().used_ms == 30_000


class Capped(HTTPProvider):
    """A node that refuses transactions of more gas than it likes."""

    cap = 30_000
    words = "tx fee (1.16 ether) exceeds the configured cap (1.00 ether)"

    def make_request(self, method: Any, params: Any) -> Any:
        if method == "eth_sendRawTransaction" and _decode(HexBytes(params[0]))["gas"] > self.cap:
            return {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": self.words}}
        return super().make_request(method, params)


def test_what_the_node_never_takes_gives_its_nonce_up_and_others_flow(bench: Bench) -> None:
    url, chain_id = bench.world.client.rpc_url, bench.world.client.chain_id
    node = Capped(url)
    bench.client = ChainClient(url, chain_id, provider=node)
    bench.settings = RelayerSettings(confirmations=1)
    number, bid_hash = bench.enqueue_open()
    behind, other_bid = bench.enqueue_open()
    for _ in range(4):
        bench.tick()
    first = bench.store.get(number)
    assert (first.state, first.replaced) == (IntentState.SIGNED, ())
    node.words = "transaction gas limit too high (cap: 16777216, tx: 20000000)"
    bench.tick()
    emptied = bench.store.get(number)
    assert (emptied.nonce, emptied.replaced) == (first.nonce, (first.tx_hash,))
    node.cap = 10**9
    bench.restart()  # what it must remember is in the store
    bench.tick()
    assert bench.state(number) is not IntentState.DEAD  # a reorg could still bring the first back
    assert bench.store.get(behind).nonce == (first.nonce or 0) + 1
    bench.mine()
    bench.tick_until(behind)
    dead = bench.store.get(number)
    assert dead.state is IntentState.DEAD
    assert "transaction gas limit too high" in (dead.error or "")
    assert any(reason.startswith("the node refused the call") for _, reason in bench.alerts)
    assert (bench.opened(bid_hash), bench.opened(other_bid)) == (0, 1)
    assert bench.sent_transactions() == 2


def test_an_empty_transaction_that_was_stored_and_not_sent_goes_out_again(bench: Bench) -> None:
    url, chain_id = bench.world.client.rpc_url, bench.world.client.chain_id
    node = Capped(url)
    node.cap = 0
    bench.client = ChainClient(url, chain_id, provider=node)
    number, bid_hash = bench.enqueue_open()
    for _ in range(9):  # the empty one is refused as well: nothing else is signed
        bench.tick()
    emptied = bench.store.get(number)
    assert (emptied.state, len(emptied.replaced)) == (IntentState.SIGNED, 1)
    node.cap = 30_000
    bench.restart()
    bench.tick_until(number, state=IntentState.DEAD)
    assert bench.store.get(number).raw == emptied.raw
    assert bench.opened(bid_hash) == 0


def test_refusals_within_a_moment_give_nothing_up(bench: Bench) -> None:
    url, chain_id = bench.world.client.rpc_url, bench.world.client.chain_id
    bench.client = ChainClient(url, chain_id, provider=Capped(url))
    number, _ = bench.enqueue_open()
    relayer = bench.restart()
    for _ in range(9):
        relayer.tick()
    assert bench.store.get(number).replaced == ()
    bench.tick()
    assert len(bench.store.get(number).replaced) == 1


def test_a_raised_signing_that_is_refused_leaves_the_older_one_to_be_mined(bench: Bench) -> None:
    bench.automine(False)
    number, bid_hash = bench.enqueue_open()
    bench.tick()
    first = bench.store.get(number)
    url, chain_id = bench.world.client.rpc_url, bench.world.client.chain_id
    bench.client = ChainClient(url, chain_id, provider=Capped(url))
    bench.settings = RelayerSettings(confirmations=0, stuck_blocks=0)
    bench.restart()
    for _ in range(9):
        bench.tick()
    raised = bench.store.get(number)
    assert raised.replaced == (first.tx_hash,)  # the pool still holds it
    bench.mine()
    bench.tick_until(number)
    assert bench.store.get(number).mined_hash == first.tx_hash
    assert bench.opened(bid_hash) == 1


@pytest.mark.parametrize("words", ["txpool is full", "insufficient funds for gas"])
def test_a_refusal_that_passes_gives_nothing_up(bench: Bench, words: str) -> None:
    url, chain_id = bench.world.client.rpc_url, bench.world.client.chain_id
    node = Capped(url)
    node.words = words
    bench.client = ChainClient(url, chain_id, provider=node)
    number, bid_hash = bench.enqueue_open()
    for _ in range(9):
        bench.tick()
    assert bench.store.get(number).replaced == ()
    node.cap = 10**9
    bench.tick_until(number)
    assert bench.opened(bid_hash) == 1


def test_a_nonce_that_a_stranger_used_is_dead_and_told(bench: Bench) -> None:
    def steal(step: str) -> None:
        if step == "stored":
            thief = ChainClient(bench.world.client.rpc_url, 31337)
            thief.transact(bench.signer, FAR_AWAY, value=1)

    bench.failpoint = steal
    number, bid_hash = bench.enqueue_open()
    bench.tick()
    bench.failpoint = None
    bench.settings = RelayerSettings(confirmations=2)
    bench.restart()
    for _ in range(5):  # used, but not yet for good
        bench.tick()
    assert bench.state(number) is IntentState.SIGNED
    bench.mine(2)
    for _ in range(3):
        assert bench.state(number) is IntentState.SIGNED
        bench.tick()
    assert bench.state(number) is IntentState.DEAD
    bench.settings = DEVNET
    bench.restart()
    assert bench.alerts[-1] == (number, "nonce 0 went to an unknown transaction")
    assert bench.opened(bid_hash) == 0
    after, bid_hash = bench.enqueue_open()
    bench.tick_until(after)
    assert bench.store.get(after).nonce == 1
    assert bench.opened(bid_hash) == 1


def test_a_reorg_takes_a_confirmed_intent_back_and_sends_the_same_bytes(bench: Bench) -> None:
    bench.settings = RelayerSettings(confirmations=6)
    number, bid_hash = bench.enqueue_open()
    bench.tick_until(number, state=IntentState.CONFIRMED)
    bench.mine(2)
    before = bench.store.get(number)
    bench.world.client.rpc("anvil_reorg", 3, [])
    assert bench.opened(bid_hash) == 0
    bench.tick()
    assert bench.state(number) is IntentState.SENT
    bench.tick_until(number, state=IntentState.CONFIRMED)
    between = bench.store.get(number)
    assert between.block_hash != before.block_hash
    assert between.raw == before.raw
    bench.mine(6)
    bench.tick_until(number)
    assert bench.opened(bid_hash) == 1


def test_a_gap_left_by_a_reorg_of_final_ones_is_filled_with_their_bytes(bench: Bench) -> None:
    first, first_bid = bench.enqueue_open()
    bench.tick_until(first)
    bench.world.client.rpc("anvil_reorg", 1, [])
    assert bench.sent_transactions() == 0
    second, second_bid = bench.enqueue_open()
    bench.tick()
    bench.tick()
    assert [bench.store.get(n).nonce for n in (first, second)] == [0, 1]
    assert bench.state(second) is IntentState.FINAL
    assert (bench.opened(first_bid), bench.opened(second_bid)) == (1, 1)


def test_a_store_that_moved_on_is_left_alone(bench: Bench) -> None:
    rival = SqlOutbox.mark_signed

    def faster(step: str) -> None:
        if step == "signed" and bench.state(number) is IntentState.PENDING:
            rival(bench.store, number, bench.signer.address, 0, b"\x02theirs", "0x" + "11" * 32)

    bench.failpoint = faster
    number, _ = bench.enqueue_open()
    assert bench.tick().sent == 0
    assert bench.store.get(number).raw == b"\x02theirs"
    assert bench.sent_transactions() == 0
