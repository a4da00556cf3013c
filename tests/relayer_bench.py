"""A relayer at work on a real escrow, and what a test may do to it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from marketplace.db.outbox import SqlOutbox
from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow
from settlement.events import Opened
from settlement.ports import Intent, IntentKind, IntentState
from settlement.relayer import Relayer, RelayerSettings, RelayerTick
from settlement.signing import LocalSigner
from tests.escrow_world import World, eventually

KEYS = count()
FAR_AWAY = "0x" + "77" * 20
DEVNET = RelayerSettings(confirmations=0)


@dataclass
class Bench:
    """A world, a relayer with a new key and an empty store, and the alerts it raised."""

    world: World
    signer: LocalSigner
    store: SqlOutbox
    settings: RelayerSettings = DEVNET
    client: ChainClient | None = None
    failpoint: Callable[[str], None] | None = None
    alerts: list[tuple[int | None, str]] = field(default_factory=list)
    now: float = 0.0
    _bids: dict[int, bytes] = field(default_factory=dict)
    _relayer: Relayer | None = None

    def restart(self, settings: RelayerSettings | None = None) -> Relayer:
        """Replace the relayer with one that knows only what the store knows."""
        self.settings = settings or self.settings
        escrow = Escrow(self.client or self.world.client, self.world.escrow.address)
        self._relayer = Relayer(
            self.store,
            escrow,
            self.signer,
            self.settings,
            alert=lambda intent, reason: self.alerts.append((intent and intent.id, reason)),
            failpoint=self.failpoint,
            clock=lambda: self.now,
        )
        return self._relayer

    def tick(self, times: int = 1) -> RelayerTick:
        """RelayerTick once a minute; what the last tick did."""
        for _ in range(times):
            self.now += 60
            done = (self._relayer or self.restart()).tick()
        return done

    def tick_until(self, *numbers: int, state: IntentState = IntentState.FINAL) -> None:
        """RelayerTick until these intents are in a state: Anvil mines a moment after it answers."""

        def reached() -> bool:
            self.tick()
            return {self.get(number).state for number in numbers} == {state}

        eventually(reached)

    def finish(self, *numbers: int) -> None:
        """RelayerTick until these intents are final; each must have opened exactly one lease."""
        self.tick_until(*numbers)
        assert [self.opened(number) for number in numbers] == [1] * len(numbers)

    def enqueue(self, kind: IntentKind, data: bytes) -> int:
        payload = self.world.escrow.calls.payload(data)
        return self.store.enqueue(kind, f"{kind}-{next(KEYS)}", payload).id

    def enqueue_open(self) -> int:
        """An intent that opens a new lease."""
        match = self.world.match()
        number = self.enqueue(IntentKind.OPEN, self.world.escrow.calls.open(match))
        self._bids[number] = match.bid.struct_hash()
        return number

    def pool_open(self) -> Intent:
        """An intent that opens a new lease, sent but not mined."""
        self.automine(False)
        number = self.enqueue_open()
        self.tick()
        return self.get(number)

    def get(self, number: int) -> Intent:
        return self.store.get(number)

    def opened(self, number: int) -> int:
        """How many leases an opening intent opened on chain."""
        opened = (event for event in self.world.events() if isinstance(event, Opened))
        return sum(event.bid_hash == self._bids[number] for event in opened)

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
