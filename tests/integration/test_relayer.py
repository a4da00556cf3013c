"""The relayer against Anvil: whatever happens to an intent, it has one effect or a told reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest

from settlement.chain.client import ChainClient
from settlement.chain.deploy import EscrowSettings
from settlement.chain.devnet import dev_account
from settlement.errors import ChainUnavailable, WrongChain
from settlement.events import Closed, Opened, Settled
from settlement.fees import FeePolicy
from settlement.leases import LeaseStatus
from settlement.ports import Intent, IntentKind, IntentState
from settlement.relayer import Relayer, RelayerSettings, Tick
from settlement.signing import LocalSigner
from settlement.vetting import NOTHING_TO_SETTLE, Vetting
from tests.escrow_world import SETTINGS, TOKEN, Lease, World, anvil, eventually, found, key
from tests.fakes_settlement import MemoryOutbox
from tests.rpc_proxy import RpcProxy, rpc_proxy

KEYS = count()
GWEI = 10**9
FAR_AWAY = "0x" + "77" * 20
DEVNET = RelayerSettings(confirmations=0)


@dataclass
class Bench:
    """A world, a relayer with a fresh key and store, and what it was told."""

    world: World
    signer: LocalSigner
    settings: RelayerSettings = DEVNET
    client: ChainClient | None = None
    failpoint: Callable[[str], None] | None = None
    store: MemoryOutbox = field(default_factory=MemoryOutbox)
    alerts: list[tuple[int | None, str]] = field(default_factory=list)
    now: float = 0.0
    _relayer: Relayer | None = None

    def restart(self) -> Relayer:
        """A relayer that knows only what the store knows."""
        client = self.client or self.world.client
        escrow = self.world.deployment.open(client)[0]
        self._relayer = Relayer(
            self.store,
            client,
            self.signer,
            Vetting(escrow, self.signer.address),
            self.settings,
            alert=self.heard,
            failpoint=self.failpoint,
            clock=lambda: self.now,
        )
        return self._relayer

    def heard(self, intent: Intent | None, reason: str) -> None:
        self.alerts.append((None if intent is None else intent.id, reason))

    def tick(self) -> Tick:
        self.now += 60
        return (self._relayer or self.restart()).tick()

    def tick_until(self, *numbers: int, state: IntentState = IntentState.FINAL) -> None:
        """Tick until these intents are in a state: Anvil mines a moment after it answers."""

        def reached() -> bool:
            self.tick()
            return {self.state(number) for number in numbers} == {state}

        eventually(reached)

    def enqueue(self, kind: IntentKind, data: bytes) -> int:
        payload = self.world.escrow.calls.payload(data)
        return self.store.enqueue(kind, f"{kind}-{next(KEYS)}", payload).id

    def enqueue_open(self) -> tuple[int, bytes]:
        """An intent that opens a new lease, and the hash of its bid."""
        match = self.world.match()
        number = self.enqueue(IntentKind.OPEN, self.world.escrow.calls.open(match))
        return number, match.bid.struct_hash()

    def state(self, number: int) -> IntentState:
        return self.store.get(number).state

    def opened(self, bid_hash: bytes) -> int:
        """How many leases the bid opened on chain."""
        events = self.world.escrow.events(0, self.world.client.head().number)
        return sum(isinstance(e.event, Opened) and e.event.bid_hash == bid_hash for e in events)

    def sent_transactions(self) -> int:
        return self.world.client.nonce(self.signer.address)

    def mine(self, blocks: int = 1) -> None:
        self.world.client.rpc("anvil_mine", hex(blocks))

    def base_fee(self, wei: int) -> None:
        """Mine a block with this base fee."""
        self.world.client.rpc("anvil_setNextBlockBaseFeePerGas", hex(wei))
        self.mine()

    def automine(self, on: bool) -> None:
        self.world.client.rpc("evm_setAutomine", on)


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
    with world.chain.put_back():
        world.client.rpc("anvil_setBalance", signer.address, hex(100 * TOKEN))
        yield Bench(world, signer)
        world.client.rpc("evm_setAutomine", True)
    world.client.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))  # a revert leaves it


@pytest.fixture
def proxy(bench: Bench) -> Iterator[RpcProxy]:
    with rpc_proxy(bench.world.client.rpc_url) as proxy:
        bench.client = ChainClient(proxy.url, bench.world.client.chain_id, timeout_seconds=1.0)
        yield proxy


def test_open_settle_close_each_become_final_with_one_effect(bench: Bench) -> None:
    match = bench.world.match()
    opening = bench.enqueue(IntentKind.OPEN, bench.world.escrow.calls.open(match))
    assert bench.tick().sent == 1
    bench.tick_until(opening)
    (opened,) = (
        e.event
        for e in bench.world.escrow.events(0, bench.world.client.head().number)
        if isinstance(e.event, Opened) and e.event.bid_hash == match.bid.struct_hash()
    )
    lease = Lease(bench.world, match, opened)
    bench.world.chain.warp(60)
    settling = bench.enqueue(
        IntentKind.SETTLE, bench.world.escrow.calls.settle([lease.voucher(30_000)])
    )
    bench.tick_until(settling)
    closing = bench.enqueue(IntentKind.CLOSE, lease.close(40_000))
    bench.tick_until(closing)
    view = lease.view()
    assert (view.status, view.used_ms) == (LeaseStatus.CLOSED, 40_000)
    assert bench.sent_transactions() == 3
    assert bench.alerts == []


def test_an_intent_is_final_only_below_its_confirmations(bench: Bench) -> None:
    bench.settings = RelayerSettings(confirmations=3)
    number, _ = bench.enqueue_open()
    bench.tick_until(number, state=IntentState.CONFIRMED)
    bench.mine(2)
    bench.tick()
    assert bench.state(number) is IntentState.CONFIRMED
    bench.mine(1)
    bench.tick_until(number)


def test_a_certain_revert_is_dead_with_its_error_and_costs_nothing(bench: Bench) -> None:
    match = bench.world.match(bench.world.ask(expiry=1))
    number = bench.enqueue(IntentKind.OPEN, bench.world.escrow.calls.open(match))
    healthy, bid_hash = bench.enqueue_open()
    assert bench.tick().dead == 1
    intent = bench.store.get(number)
    assert intent.state is IntentState.DEAD
    assert intent.nonce is None
    assert (intent.error or "").startswith("OrderExpired(1, ")
    assert bench.alerts == [(number, intent.error)]
    bench.tick_until(healthy)
    assert bench.opened(bid_hash) == 1
    assert bench.sent_transactions() == 1


def test_a_malformed_intent_is_dead_and_blocks_nobody(bench: Bench) -> None:
    bad = bench.store.enqueue(IntentKind.STOP, "bad", {"to": "nowhere", "data": "0x"})
    odd = bench.enqueue(IntentKind.SETTLE, b"\x01\x02\x03\x04")
    cut = bench.enqueue(IntentKind.SETTLE, bench.world.escrow.calls.withdraw(FAR_AWAY, 1)[:20])
    healthy, _ = bench.enqueue_open()
    bench.tick_until(bad.id, odd, cut, state=IntentState.DEAD)
    bench.tick_until(healthy)


def test_a_revert_after_broadcast_is_dead_with_its_error(bench: Bench) -> None:
    lease = bench.world.open()
    bench.world.chain.warp(10)
    number = bench.enqueue(IntentKind.CLOSE, lease.close(5_000))
    bench.automine(False)
    bench.tick()
    assert bench.state(number) is IntentState.SENT
    rival = dev_account(5)  # pays more, so it is mined first
    fields = {
        "type": 2, "chainId": 31337, "to": bench.world.escrow.address, "data": lease.close(6_000),
        "value": 0, "gas": 300_000, "maxFeePerGas": 100 * GWEI, "maxPriorityFeePerGas": 90 * GWEI,
        "nonce": bench.world.client.nonce(rival.address),
    }  # fmt: skip
    bench.world.client.send_raw(rival.sign_transaction(fields)[0])
    bench.mine()
    bench.tick()
    intent = bench.store.get(number)
    assert intent.state is IntentState.DEAD
    assert (intent.error or "").startswith("LeaseNotOpen(")
    assert bench.alerts == [(number, intent.error)]
    assert lease.view().used_ms == 6_000
    bench.automine(True)
    after, _ = bench.enqueue_open()  # the nonce was used up, the next one follows
    bench.tick_until(after)


def test_settle_drops_stale_vouchers_and_sends_early_ones_later(bench: Bench) -> None:
    world = bench.world
    stale, fresh, early = (world.open() for _ in range(3))
    world.chain.warp(100)
    world.send(world.relayer, world.escrow.calls.settle([stale.voucher(50_000)]))
    vouchers = [
        stale.voucher(50_000),
        fresh.voucher(20_000),
        fresh.voucher(20_000),
        early.voucher(400_000),
        fresh.voucher(30_000, signer=world.stranger),
    ]
    number = bench.enqueue(IntentKind.SETTLE, world.escrow.calls.settle(vouchers))
    bench.tick_until(number)
    intent = bench.store.get(number)
    data = bytes.fromhex(intent.payload["data"][2:])
    assert world.escrow.calls.vouchers(data) == (vouchers[1],)
    (later,) = bench.store.pending(10)
    assert later.key == f"{intent.key}/later"
    assert fresh.view().used_ms == 20_000
    assert early.view().used_ms == 0
    world.chain.warp(400)
    bench.tick_until(later.id)
    assert early.view().used_ms == 400_000
    assert bench.sent_transactions() == 2


def test_settle_metered_that_is_early_waits_with_its_counted_figures(bench: Bench) -> None:
    world = bench.world
    lease = world.open(world.match(bid=world.metered_bid()))
    world.chain.warp(10)
    voucher = lease.metered(50_000, 100, 7)
    number = bench.enqueue(IntentKind.SETTLE_METERED, world.escrow.calls.settle_metered([voucher]))
    assert bench.tick().held == 1
    assert bench.state(number) is IntentState.PENDING
    world.chain.warp(50)
    bench.tick_until(number)
    counted = world.escrow.counted(lease.ref)
    assert (counted.egress_mib, counted.units) == (100, 7)


def test_settle_of_stale_vouchers_alone_has_nothing_to_do(bench: Bench) -> None:
    lease = bench.world.open()
    bench.world.chain.warp(100)
    calls = bench.world.escrow.calls
    bench.world.send(bench.world.relayer, calls.settle([lease.voucher(50_000)]))
    number = bench.enqueue(IntentKind.SETTLE, calls.settle([lease.voucher(40_000)]))
    bench.tick()
    assert bench.store.get(number).error == NOTHING_TO_SETTLE
    assert bench.sent_transactions() == 0


def test_a_close_ahead_of_the_clock_waits_for_it(bench: Bench) -> None:
    lease = bench.world.open()
    number = bench.enqueue(IntentKind.CLOSE, lease.close(200_000))
    assert bench.tick().held == 1
    assert bench.tick().held == 1
    bench.world.chain.warp(200)
    bench.tick_until(number)
    assert lease.view().used_ms == 200_000


def test_a_refund_too_early_waits_and_is_not_given_up(bench: Bench) -> None:
    lease = bench.world.open(bench.world.match(bid=bench.world.bid(max_seconds=60)))
    number = bench.enqueue(IntentKind.REFUND, bench.world.escrow.calls.refund(lease.ref))
    for _ in range(5):
        assert bench.tick().held == 1
    bench.world.chain.warp(60 + SETTINGS.settle_window + 1)
    bench.tick_until(number)
    assert lease.view().status is LeaseStatus.CLOSED


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
    bench.tick_until(*bench.store.intents)
    assert [i.nonce for i in bench.store.intents.values()] == [0, 1, 2]
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


def test_many_intents_have_one_nonce_each(bench: Bench) -> None:
    bench.settings = RelayerSettings(confirmations=0, max_in_flight=4)
    bids = [bench.enqueue_open()[1] for _ in range(7)]  # the node sells eight
    assert bench.tick().sent == 4
    bench.tick_until(*bench.store.intents)
    intents = [bench.store.get(n) for n in bench.store.intents]
    assert sorted(i.nonce or 0 for i in intents) == list(range(7))
    assert [bench.opened(bid) for bid in bids] == [1] * 7


def test_a_store_that_moved_on_is_left_alone(bench: Bench) -> None:
    rival = MemoryOutbox.mark_signed

    def faster(step: str) -> None:
        if step == "signed" and bench.state(number) is IntentState.PENDING:
            rival(bench.store, number, bench.signer.address, 0, b"\x02theirs", "0x" + "11" * 32)

    bench.failpoint = faster
    number, _ = bench.enqueue_open()
    assert bench.tick().sent == 0
    assert bench.store.get(number).raw == b"\x02theirs"
    assert bench.sent_transactions() == 0


def test_events_of_a_relayed_life_add_up(bench: Bench) -> None:
    world = bench.world
    lease = world.open()
    world.chain.warp(30)
    first = world.client.head().number + 1
    calls = world.escrow.calls
    bench.tick_until(bench.enqueue(IntentKind.SETTLE, calls.settle([lease.voucher(10_000)])))
    bench.tick_until(bench.enqueue(IntentKind.CLOSE, lease.close(20_000)))
    events = [e.event for e in world.escrow.events(first, world.client.head().number)]
    assert [type(e) for e in events] == [Settled, Closed]


def test_settings_of_the_world_are_those_deployed(world: World) -> None:
    config = world.escrow.config()
    assert (
        EscrowSettings(
            config.fee_bps,
            config.fee_recipient.lower(),
            config.settle_window,
            config.dispute_window,
            config.ruling_window,
        )
        == SETTINGS
    )
