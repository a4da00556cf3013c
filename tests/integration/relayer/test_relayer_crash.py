"""kill -9 at every step of the relayer: after a restart each intent has exactly one effect."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marketplace.db.outbox import SqlOutbox
from marketplace.db.store import Database
from settlement.events import Closed, Opened, Settled
from settlement.leases import replay
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
        database = Database(f"sqlite:///{db}")
        for i, match in enumerate(self.matches):
            payload = world.escrow.calls.payload(world.escrow.calls.open(match))
            SqlOutbox(database).enqueue(IntentKind.OPEN, f"open-{i}", payload)
        database.close()

    def start(self, **more: Any) -> None:
        self.killable.start(
            rpc_url=self.world.client.rpc_url,
            escrow=self.world.escrow.address,
            db=str(self.db),
            key=self.signer.secret().hex(),
            **more,
        )

    def finish(self) -> None:
        """One relayer that nobody kills; then everything must be final, once."""
        self.start()
        assert self.killable.wait() == 0
        self.assert_each_effect_once()

    def assert_each_effect_once(self) -> None:
        database = Database(f"sqlite:///{self.db}")
        intents = SqlOutbox(database).recent(100)
        database.close()
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
def run(
    world: World, killable: Killable, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Run]:
    with world.chain.put_back():
        yield Run(world, killable, tmp_path / "outbox.db", request.node.name)


@pytest.mark.parametrize(
    ("step", "nth"), [*((step, 1) for step in FAILPOINTS), ("stored", 2), ("broadcast", 3)]
)
def test_killed_at_a_step_and_restarted_has_one_effect(run: Run, step: str, nth: int) -> None:
    run.start(kill_at=step, nth=nth)
    assert os.WTERMSIG(run.killable.wait()) == signal.SIGKILL
    run.finish()


def test_killed_at_every_step_one_after_another_has_one_effect(run: Run) -> None:
    for step in FAILPOINTS:
        run.start(kill_at=step)
        assert os.WTERMSIG(run.killable.wait()) == signal.SIGKILL, step
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
    leases = {
        e.event.bid_hash: e.event
        for e in world.escrow.events(run.first, world.client.head().number)
        if isinstance(e.event, Opened)
    }
    opened = [Lease(world, match, leases[match.bid.struct_hash()]) for match in run.matches]
    database = Database(f"sqlite:///{run.db}")
    store = SqlOutbox(database)
    calls = world.escrow.calls
    settle = calls.payload(calls.settle([lease.voucher(50_000) for lease in opened]))
    store.enqueue(IntentKind.SETTLE, "settle", settle)
    store.enqueue(IntentKind.CLOSE, "close", calls.payload(opened[0].close(60_000)))
    database.close()
    for step in ("stored", "broadcast", "receipt_seen", "final_due"):
        run.start(kill_at=step)
        assert os.WTERMSIG(run.killable.wait()) == signal.SIGKILL, step
    run.start()
    assert run.killable.wait() == 0
    logged = world.escrow.events(run.first, world.client.head().number)
    kinds = [type(e.event) for e in logged]
    assert (kinds.count(Settled), kinds.count(Closed)) == (1, 1)
    events = world.escrow.events(0, world.client.head().number)
    state = replay((e.event for e in events), world.escrow.params())
    provider = world.provider.address
    assert world.escrow.balance_of(provider) == state.balances[provider]
    assert world.token.balance_of(world.escrow.address) == state.held()
