"""Bad networks, pools, fees and reorgs never make the relayer act twice."""

from typing import Any

import pytest

from settlement.chain.client import ChainClient
from settlement.chain.rpc import NodeProvider
from settlement.errors import ChainUnavailable, WrongChain
from settlement.fees import GWEI, FeePolicy
from settlement.ports import IntentKind, IntentState
from settlement.relayer import RelayerSettings, _decode
from tests.escrow_world import TOKEN
from tests.relayer_bench import DEVNET, FAR_AWAY, Bench
from tests.rpc_proxy import RpcProxy

IMPATIENT = RelayerSettings(confirmations=0, stuck_blocks=0)


@pytest.mark.parametrize("fault", ["lose_answer", "drop_request"])
def test_a_broadcast_without_an_answer_is_repeated_with_the_same_bytes(
    bench: Bench, proxy: RpcProxy, fault: str
) -> None:
    number = bench.enqueue_open()
    with proxy.faulty(fault, "eth_sendRawTransaction"), pytest.raises(ChainUnavailable):  # type: ignore[arg-type]
        bench.tick()
    assert proxy.calls["eth_sendRawTransaction"] == 1  # the libraries did not try again
    before = bench.get(number)
    assert before.state is IntentState.SIGNED
    bench.restart()
    bench.finish(number)
    after = bench.get(number)
    assert (after.raw, after.nonce) == (before.raw, before.nonce)


@pytest.mark.parametrize("fault", ["drop_request", "slow", "429", "garbage"])
def test_a_broken_node_changes_nothing(bench: Bench, proxy: RpcProxy, fault: str) -> None:
    number = bench.enqueue_open()
    with proxy.faulty(fault), pytest.raises(ChainUnavailable):  # type: ignore[arg-type]
        bench.tick()
    assert bench.get(number).state is IntentState.PENDING
    bench.finish(number)


def test_another_chain_behind_the_url_changes_nothing(bench: Bench, proxy: RpcProxy) -> None:
    before = bench.pool_open()
    with proxy.faulty("wrong_chain"):
        for _ in range(5):
            with pytest.raises(WrongChain):
                bench.tick()
    assert bench.get(before.id) == before
    bench.mine()
    bench.finish(before.id)


def test_a_node_that_forgets_its_pool_gets_each_nonce_once(bench: Bench) -> None:
    class Forgetful(ChainClient):
        def nonce(self, address: str, at: int | str = "latest") -> int:
            return super().nonce(address, "latest")

    bench.client = Forgetful(bench.world.client.rpc_url, 31337)
    intents = [bench.pool_open() for _ in range(3)]
    assert [intent.state for intent in intents] == [IntentState.SENT] * 3
    assert [intent.nonce for intent in intents] == [0, 1, 2]
    bench.mine()
    bench.finish(*(intent.id for intent in intents))


def test_a_dropped_transaction_goes_out_again_as_the_same_bytes(bench: Bench) -> None:
    before = bench.pool_open()
    bench.world.client.rpc("anvil_dropTransaction", before.tx_hash)
    assert not bench.world.client.knows(before.tx_hash or "")
    assert bench.tick().sent == 1
    bench.mine()
    bench.finish(before.id)
    assert bench.get(before.id).raw == before.raw


def test_a_stuck_transaction_is_replaced_with_the_same_nonce(bench: Bench) -> None:
    bench.settings = IMPATIENT
    first = bench.pool_open()
    assert bench.tick().replaced == 1
    second = bench.get(first.id)
    assert (second.nonce, second.replaced) == (first.nonce, (first.tx_hash,))
    assert second.tx_hash != first.tx_hash
    bench.mine()
    bench.finish(first.id)
    assert bench.get(first.id).mined_hash == second.tx_hash
    assert bench.sent_transactions() == 1


def test_a_replacement_lost_before_broadcast_goes_out_later(bench: Bench, proxy: RpcProxy) -> None:
    bench.settings = IMPATIENT
    first = bench.pool_open()
    with proxy.faulty("drop_request", "eth_sendRawTransaction"), pytest.raises(ChainUnavailable):
        bench.tick()
    second = bench.get(first.id)
    assert (second.state, len(second.replaced)) == (IntentState.SIGNED, 1)
    bench.restart(DEVNET)
    assert bench.tick().sent == 1
    bench.mine()
    bench.finish(first.id)
    assert bench.get(first.id).mined_hash == second.tx_hash


def test_a_fee_below_the_base_fee_is_raised_when_sent_again(bench: Bench) -> None:
    first = bench.pool_open()
    bench.world.client.rpc("anvil_dropTransaction", first.tx_hash)
    bench.base_fee(40 * GWEI)
    assert bench.tick().replaced == 1
    second = bench.get(first.id)
    assert (second.nonce, second.replaced) == (first.nonce, (first.tx_hash,))
    bench.base_fee(40 * GWEI)
    bench.finish(first.id)
    assert bench.get(first.id).mined_hash == second.tx_hash


def test_an_older_transaction_that_was_mined_after_all_counts(bench: Bench) -> None:
    first = bench.pool_open()
    bench.mine()
    # As if a replacement had been stored just before the first transaction was mined.
    bench.store.mark_replaced(first.id, first.tx_hash or "", b"\x02never sent", "0x" + "99" * 32)
    bench.tick()
    final = bench.get(first.id)
    assert (final.state, final.mined_hash) == (IntentState.FINAL, first.tx_hash)
    assert bench.opened(first.id) == 1


def test_a_base_fee_above_the_cap_raises_an_alert_and_waits(bench: Bench) -> None:
    bench.settings = RelayerSettings(confirmations=0, fees=FeePolicy(cap=20 * GWEI))
    bench.base_fee(50 * GWEI)
    number = bench.enqueue_open()
    bench.tick()
    assert bench.get(number).state is IntentState.PENDING
    assert [reason.split(":")[0] for _, reason in bench.alerts] == ["fee_above_cap"]
    bench.base_fee(GWEI)
    bench.finish(number)


def test_a_relayer_out_of_gas_money_says_so_and_others_still_settle(bench: Bench) -> None:
    world = bench.world
    lease = world.open()
    world.chain.warp(60)
    world.client.rpc("anvil_setBalance", bench.signer.address, "0x0")
    number = bench.enqueue(IntentKind.SETTLE, world.escrow.calls.settle([lease.voucher(30_000)]))
    behind = bench.enqueue_open()
    bench.tick(2)
    assert any("insufficient_funds" in reason for _, reason in bench.alerts)
    assert bench.get(behind).state is IntentState.PENDING  # nothing is piled on top
    world.settle(lease.voucher(20_000), sender=world.stranger)
    assert lease.view().used_ms == 20_000
    world.client.rpc("anvil_setBalance", bench.signer.address, hex(TOKEN))
    bench.tick_until(number, behind)
    assert lease.view().used_ms == 30_000


class CappedNode:
    """A node that refuses transactions of more than `cap` gas with the message `words`."""

    def __init__(self, bench: Bench, cap: int = 30_000) -> None:
        self.node = NodeProvider(bench.world.client.rpc_url, 10.0).make_request
        self.cap, self.words = cap, "tx fee (1.16 ether) exceeds the configured cap (1.00 ether)"
        bench.client = ChainClient("capped", bench.world.client.chain_id, transport=self)

    def __call__(self, method: str, params: tuple[Any, ...]) -> Any:
        if method == "eth_sendRawTransaction":
            if _decode(bytes.fromhex(params[0][2:]))["gas"] > self.cap:
                return {"error": {"code": -32000, "message": self.words}}
        return self.node(method, params)


def test_an_empty_transaction_unblocks_those_behind_a_refused_one(bench: Bench) -> None:
    node = CappedNode(bench)
    bench.settings = RelayerSettings(confirmations=1)
    number, behind = bench.enqueue_open(), bench.enqueue_open()
    bench.tick(4)
    first = bench.get(number)
    assert (first.state, first.replaced) == (IntentState.SIGNED, ())
    node.words = "transaction gas limit too high (cap: 16777216, tx: 20000000)"
    bench.tick()
    emptied = bench.get(number)
    assert (emptied.nonce, emptied.replaced) == (first.nonce, (first.tx_hash,))
    node.cap = 10**9
    bench.restart()  # the store has all that it must remember
    bench.tick()
    assert bench.get(number).state is not IntentState.DEAD  # a reorg could still revive the first
    assert bench.get(behind).nonce == (first.nonce or 0) + 1
    bench.mine()
    bench.finish(behind)
    dead = bench.get(number)
    assert dead.state is IntentState.DEAD
    assert "transaction gas limit too high" in (dead.error or "")
    assert any(reason.startswith("the node refused the transaction") for _, reason in bench.alerts)
    assert bench.opened(number) == 0
    assert bench.sent_transactions() == 2


def test_an_empty_transaction_that_was_stored_but_not_sent_goes_out_again(bench: Bench) -> None:
    node = CappedNode(bench, cap=0)
    number = bench.enqueue_open()
    bench.tick(9)  # the node refuses the empty one, too: nothing else is signed
    emptied = bench.get(number)
    assert (emptied.state, len(emptied.replaced)) == (IntentState.SIGNED, 1)
    node.cap = 30_000
    bench.restart()
    bench.tick_until(number, state=IntentState.DEAD)
    assert bench.get(number).raw == emptied.raw
    assert bench.opened(number) == 0


def test_refusals_within_a_moment_give_nothing_up(bench: Bench) -> None:
    CappedNode(bench)
    number = bench.enqueue_open()
    relayer = bench.restart()
    for _ in range(9):
        relayer.tick()
    assert bench.get(number).replaced == ()
    bench.tick()
    assert len(bench.get(number).replaced) == 1


def test_a_refused_replacement_leaves_the_older_one_to_be_mined(bench: Bench) -> None:
    first = bench.pool_open()
    CappedNode(bench)
    bench.restart(IMPATIENT)
    bench.tick(9)
    assert bench.get(first.id).replaced == (first.tx_hash,)  # the pool still holds it
    bench.mine()
    bench.finish(first.id)
    assert bench.get(first.id).mined_hash == first.tx_hash


@pytest.mark.parametrize("words", ["txpool is full", "insufficient funds for gas"])
def test_a_refusal_that_passes_gives_nothing_up(bench: Bench, words: str) -> None:
    node = CappedNode(bench)
    node.words = words
    number = bench.enqueue_open()
    bench.tick(9)
    assert bench.get(number).replaced == ()
    node.cap = 10**9
    bench.finish(number)


def test_an_intent_whose_nonce_a_stranger_used_is_dead_with_an_alert(bench: Bench) -> None:
    def steal(step: str) -> None:
        if step == "stored":
            thief = ChainClient(bench.world.client.rpc_url, 31337)
            thief.transact(bench.signer, FAR_AWAY, value=1)

    bench.failpoint = steal
    number = bench.enqueue_open()
    bench.tick()
    bench.failpoint = None
    bench.restart(RelayerSettings(confirmations=2))
    bench.tick(5)  # the stranger's transaction is not yet final
    assert bench.get(number).state is IntentState.SIGNED
    bench.mine(2)
    for _ in range(3):
        assert bench.get(number).state is IntentState.SIGNED
        bench.tick()
    assert bench.get(number).state is IntentState.DEAD
    assert bench.alerts[-1] == (number, "an unknown transaction used nonce 0")
    assert bench.opened(number) == 0
    bench.restart(DEVNET)
    after = bench.enqueue_open()
    bench.finish(after)
    assert bench.get(after).nonce == 1


def test_an_intent_that_a_reorg_removed_is_sent_again_as_the_same_bytes(bench: Bench) -> None:
    bench.settings = RelayerSettings(confirmations=6)
    number = bench.enqueue_open()
    bench.tick_until(number, state=IntentState.CONFIRMED)
    bench.mine(2)
    before = bench.get(number)
    bench.world.client.rpc("anvil_reorg", 3, [])
    assert bench.opened(number) == 0
    bench.tick()
    assert bench.get(number).state is IntentState.SENT
    bench.tick_until(number, state=IntentState.CONFIRMED)
    between = bench.get(number)
    assert between.block_hash != before.block_hash
    assert between.raw == before.raw
    bench.mine(6)
    bench.finish(number)


def test_final_transactions_that_a_reorg_removed_are_sent_again(bench: Bench) -> None:
    first = bench.enqueue_open()
    bench.tick_until(first)
    bench.world.client.rpc("anvil_reorg", 1, [])
    assert bench.sent_transactions() == 0
    second = bench.enqueue_open()
    bench.tick(2)
    assert [bench.get(number).nonce for number in (first, second)] == [0, 1]
    assert bench.get(second).state is IntentState.FINAL
    assert (bench.opened(first), bench.opened(second)) == (1, 1)


def test_an_intent_that_another_process_signed_is_left_alone(bench: Bench) -> None:
    def be_faster(step: str) -> None:
        if step == "signed" and bench.get(number).state is IntentState.PENDING:
            theirs = (bench.signer.address, 0, b"\x02theirs", "0x" + "11" * 32)
            bench.store.mark_signed(number, *theirs)

    bench.failpoint = be_faster
    number = bench.enqueue_open()
    assert bench.tick().sent == 0
    assert bench.get(number).raw == b"\x02theirs"
    assert bench.sent_transactions() == 0
