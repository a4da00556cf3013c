"""A relayer at work on a real escrow, and what a test may do to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from marketplace.db.outbox import SqlOutbox
from settlement.chain.client import ChainClient
from settlement.events import Opened
from settlement.ports import Intent, IntentKind, IntentState
from settlement.relayer import Relayer, RelayerSettings, Tick
from settlement.signing import LocalSigner
from settlement.vetting import Vetting
from tests.escrow_world import World, eventually

KEYS = count()
GWEI = 10**9
FAR_AWAY = "0x" + "77" * 20
DEVNET = RelayerSettings(confirmations=0)


@dataclass
class Bench:
    """A world, a relayer with a fresh key and store, and what it was told."""

    world: World
    signer: LocalSigner
    store: SqlOutbox
    settings: RelayerSettings = DEVNET
    client: ChainClient | None = None
    failpoint: Callable[[str], None] | None = None
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
