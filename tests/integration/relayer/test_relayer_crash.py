"""The relayer is killed with SIGKILL at every step: restarted, each intent has one effect."""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from marketplace.db.outbox import SqlOutbox
from marketplace.db.store import Database
from settlement.events import Closed, Opened, Settled
from settlement.ports import IntentKind, IntentState
from settlement.relayer import FAILPOINTS
from settlement.signing import LocalSigner
from tests.databases import empty_database
from tests.escrow_world import TOKEN, Lease, World, key
from tests.forked import fork
from tests.programs import PATIENCE_S
from tests.relayer_process import work

LEASES = 3


class Run:
    """One outbox, one relayer key, a few leases to open, settle and close."""

    def __init__(self, world: World, db: Path, name: str) -> None:
        self.world, self.db = world, db
        self.signer: LocalSigner = key(f"killed relayer {name}")
        world.client.rpc("anvil_setBalance", self.signer.address, hex(TOKEN))
        self.first = world.client.head().number + 1
        ask = world.ask()
        self.matches = [world.match(ask, world.bid()) for _ in range(LEASES)]
        db.write_bytes(empty_database())
        for i, match in enumerate(self.matches):
            self.enqueue(IntentKind.OPEN, f"open-{i}", world.escrow.calls.open(match))

    def enqueue(self, kind: IntentKind, key: str, data: bytes) -> None:
        with self.outbox() as outbox:
            outbox.enqueue(kind, key, self.world.escrow.calls.payload(data))

    @contextmanager
    def outbox(self) -> Iterator[SqlOutbox]:
        database = Database(f"sqlite:///{self.db}")
        yield SqlOutbox(database)
        database.close()

    def relayer(
        self, kill_at: str | None = None, nth: int = 1, kill_after: float | None = None
    ) -> int:
        """Run a relayer to its end; its exit code, negative where a signal ended it."""
        world, secret = self.world, self.signer.secret()
        args = (
            self.db,
            world.client.rpc_url,
            world.escrow.address,
            secret,
            kill_at,
            nth,
            kill_after,
        )
        log = self.db.with_suffix(".log")
        process = fork(work, args, os.environ, log, log)
        process.join(PATIENCE_S)
        assert process.exitcode is not None, log.read_text()
        return process.exitcode

    def killed_at(self, step: str, nth: int = 1) -> None:
        """Run a relayer that kills itself when it passes a step for the nth time."""
        assert self.relayer(step, nth) == -signal.SIGKILL, step

    def finish(self) -> None:
        """Run a relayer that nobody kills; then everything must be final, once."""
        assert self.relayer() == 0
        self.assert_each_effect_once()

    def assert_each_effect_once(self) -> None:
        with self.outbox() as outbox:
            intents = outbox.recent(100)
        assert [i.state for i in intents] == [IntentState.FINAL] * LEASES
        assert sorted(i.nonce or 0 for i in intents) == list(range(LEASES))
        assert self.world.client.nonce(self.signer.address) == LEASES
        logged = self.world.escrow.events(self.first, self.world.client.head().number)
        opened = [e for e in logged if isinstance(e.event, Opened)]
        assert sorted(e.event.bid_hash for e in opened if isinstance(e.event, Opened)) == sorted(
            match.bid.struct_hash() for match in self.matches
        )
        assert {e.tx_hash for e in opened} == {i.mined_hash for i in intents}


@pytest.fixture
def run(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    return Run(world, tmp_path / "outbox.db", request.node.name)


@pytest.mark.parametrize(
    ("step", "nth"), [*((step, 1) for step in FAILPOINTS), ("stored", 2), ("broadcast", 3)]
)
def test_killed_at_a_step_and_restarted_has_one_effect(run: Run, step: str, nth: int) -> None:
    run.killed_at(step, nth)
    run.finish()


def test_killed_at_every_step_one_after_another_has_one_effect(run: Run) -> None:
    for step in FAILPOINTS:
        run.killed_at(step)
    run.finish()


def test_killed_at_random_moments_has_one_effect(run: Run) -> None:
    rng, killed = random.Random(7), 0  # noqa: S311 - moments, not secrets
    for _ in range(8):
        killed += run.relayer(kill_after=rng.uniform(0.005, 0.12)) == -signal.SIGKILL
    assert killed > 0
    run.finish()


def test_a_killed_settlement_pays_once(run: Run) -> None:
    run.finish()
    world = run.world
    world.chain.warp(100)
    events = [event for event in world.events(run.first) if isinstance(event, Opened)]
    opened = {event.bid_hash: event for event in events}
    leases = [Lease(world, match, opened[match.bid.struct_hash()]) for match in run.matches]
    settle = world.escrow.calls.settle([lease.voucher(50_000) for lease in leases])
    run.enqueue(IntentKind.SETTLE, "settle", settle)
    run.enqueue(IntentKind.CLOSE, "close", leases[0].close(60_000))
    for step in ("stored", "broadcast", "receipt_seen", "final_due"):
        run.killed_at(step)
    assert run.relayer() == 0
    kinds = [type(event) for event in world.events(run.first)]
    assert (kinds.count(Settled), kinds.count(Closed)) == (1, 1)
    state, provider = world.state(), world.provider.address
    assert world.escrow.balance_of(provider) == state.balances[provider]
    assert world.token.balance_of(world.escrow.address) == state.held()
