"""A watched job on clocks a test turns: no process, no server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from marketplace.agent.channel import JobChannel
from marketplace.agent.folders import make_folders
from marketplace.agent.inventory import Grant
from marketplace.agent.journal import AgentJournal, Ending
from marketplace.agent.meters import CpuMemory
from marketplace.agent.node import HeldLease
from marketplace.agent.run import JobWatch
from settlement.signing import LocalSigner
from tests.fakes_agent import ONE_GPU, FakeMarket

GRACE_MS = 20_000
STEP_MS = 250
TERMS = {"max_seconds": 60}
Witness = Callable[["Bench"], int]


class Sleeper:
    """A job that does nothing for ever: waiting for it is what moves the clock."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench
        self._code: int | None = None

    def wait(self, _timeout_s: float) -> int | None:
        self._bench.go(STEP_MS)
        return self._code

    def terminate(self) -> None:
        self._code = 143

    def kill(self) -> None:
        self._code = self._code or 137

    def close(self) -> None:
        self.kill()

    def read(self) -> CpuMemory | None:
        return None

    def hidden_bytes(self, _device: int) -> int:
        return 0

    def out_of_memory(self) -> bool:
        return False


class Bench:
    """One job and its witness, a function from the bench to the ms it has countersigned by now."""

    def __init__(self, folder: Path, witness: Witness) -> None:
        self.now_ms = 0
        self.witness = witness
        market = FakeMarket(LocalSigner(b"\3" * 32))
        self.journal = AgentJournal(folder / "journal.db")
        node = market.node(self.journal, folder)
        self.job = market.assignment(node, market.open_lease(["true"], terms=TERMS))
        self.lease = HeldLease(node, self.job.entry, lambda: self.now_ms / 1000)
        make_folders(self.lease.folders)
        self.logs = self.lease.open_logs()

    def go(self, ms: int) -> None:
        self.now_ms += ms
        self.lease.cover(self.witness(self))

    def run(self) -> tuple[Ending, int]:
        """How the job ended and the ms its meter signed last."""
        self.journal.begin(self.job.entry)
        grant = Grant(ONE_GPU.gpus, 1000, 0)
        running: Any = Sleeper(self)
        channel = JobChannel(self.lease.folders.run, self.logs, 0)
        clock_ns = lambda: self.now_ms * 1_000_000  # noqa: E731
        ending = JobWatch(self.lease, self.job, grant, running, channel, clock_ns).to_the_end()
        return ending, self.lease.attestor.final()[0].ms

    def close(self) -> None:
        self.logs.close()
        self.journal.close()


@pytest.fixture
def bench_of(tmp_path: Path) -> Iterator[Callable[[Witness], Bench]]:
    benches: list[Bench] = []

    def make(witness: Witness) -> Bench:
        benches.append(Bench(tmp_path, witness))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


def one_old_reading_every_13_s(bench: Bench) -> int:
    return bench.now_ms // 13_000 * 1_000


def all_but_the_last_second(bench: Bench) -> int:
    return max(0, bench.now_ms - 1_000) // 1_000 * 1_000


def nothing(_bench: Bench) -> int:
    return 0


def test_a_witness_that_falls_behind_gets_no_more_than_the_grace_unsigned(
    bench_of: Callable[[Witness], Bench],
) -> None:
    bench = bench_of(one_old_reading_every_13_s)
    ending, ms = bench.run()
    assert (ending.outcome, ending.reason, ending.stop) == ("failed", "witness_silent", True)
    assert ms - one_old_reading_every_13_s(bench) <= GRACE_MS + STEP_MS


def test_a_witness_that_says_nothing_ends_the_job_after_the_grace(
    bench_of: Callable[[Witness], Bench],
) -> None:
    ending, ms = bench_of(nothing).run()
    assert (ending.reason, ms) == ("witness_silent", GRACE_MS + STEP_MS)


def test_a_witness_that_keeps_up_lets_the_job_run_to_its_limit(
    bench_of: Callable[[Witness], Bench],
) -> None:
    ending, ms = bench_of(all_but_the_last_second).run()
    assert (ending.reason, ms) == ("max_duration", 60_000)
