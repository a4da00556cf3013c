"""The relayer is killed with SIGKILL at every step: restarted, each intent has one effect."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from marketplace.db.outbox import SqlOutbox
from marketplace.db.store import Database
from settlement.events import Closed, Opened, Settled
from settlement.ports import IntentKind, IntentState
from settlement.relayer import FAILPOINTS
from settlement.signing import LocalSigner
from tests.databases import empty_database
from tests.escrow_world import TOKEN, Lease, World, key

ROOT = Path(__file__).resolve().parents[3]
LEASES = 3


class Killable:
    """The process that forks relayers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.relayer_process"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, **request: Any) -> None:
        """Fork a relayer."""
        assert self._process.stdin is not None
        defaults = {"kill_at": None, "nth": 1, "kill_after": None}
        self._process.stdin.write(json.dumps(defaults | request) + "\n")
        self._process.stdin.flush()

    def wait(self) -> int:
        """The relayer's wait status."""
        assert self._process.stdout is not None
        return int(json.loads(self._process.stdout.readline())["status"])

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(10)


@pytest.fixture(scope="module")
def killable() -> Iterator[Killable]:
    killable = Killable()
    yield killable
    killable.close()


class Run:
    """One outbox, one relayer key, a few leases to open, settle and close."""

    def __init__(self, world: World, killable: Killable, db: Path, name: str) -> None:
        self.world, self.killable, self.db = world, killable, db
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

    def start(self, **more: Any) -> None:
        self.killable.start(
            rpc_url=self.world.client.rpc_url,
            escrow=self.world.escrow.address,
            db=str(self.db),
            key=self.signer.secret().hex(),
            **more,
        )

    def killed_at(self, step: str, nth: int = 1) -> None:
        """Start a relayer that kills itself when it passes a step for the nth time."""
        self.start(kill_at=step, nth=nth)
        assert os.WTERMSIG(self.killable.wait()) == signal.SIGKILL, step

    def finish(self) -> None:
        """Run a relayer that nobody kills; then everything must be final, once."""
        self.start()
        assert self.killable.wait() == 0
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
def run(world: World, killable: Killable, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    return Run(world, killable, tmp_path / "outbox.db", request.node.name)


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
        run.start(kill_after=rng.uniform(0.005, 0.12))
        killed += os.WIFSIGNALED(run.killable.wait())
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
    run.start()
    assert run.killable.wait() == 0
    kinds = [type(event) for event in world.events(run.first)]
    assert (kinds.count(Settled), kinds.count(Closed)) == (1, 1)
    state, provider = world.state(), world.provider.address
    assert world.escrow.balance_of(provider) == state.balances[provider]
    assert world.token.balance_of(world.escrow.address) == state.held()
