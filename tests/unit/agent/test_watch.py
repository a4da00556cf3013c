"""A watched job on clocks a test turns: no process, no server."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from marketplace.agent.channel import JobChannel
from marketplace.agent.inventory import Grant
from marketplace.agent.journal import Ending
from marketplace.agent.meters import CpuMemory
from marketplace.agent.run import JobWatch
from settlement.orders import FLAG_INTERRUPTIBLE
from tests.fakes_agent import ONE_GPU, Desk

GRACE_MS = 20_000
STEP_MS = 250
Witness = Callable[[int], int]  # from the time to the ms it has countersigned by then


class Sleeper:
    """A job that does nothing for ever: waiting for it is what moves the clock."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench
        self._code: int | None = None

    def wait(self, _timeout_s: float) -> int | None:
        self._bench.now_ms += STEP_MS
        self._bench.lease.cover(self._bench.witness(self._bench.now_ms))
        return self._code

    def terminate(self) -> None:
        self._code = 143

    def kill(self) -> None:
        self._code = self._code or 137

    close = kill

    def read(self) -> CpuMemory | None:
        return None

    def out_of_memory(self) -> bool:
        return False

    def hidden_bytes(self, _device: int) -> int:
        return 0


class Bench(Desk):
    """One job and its witness."""

    def __init__(self, folder: Path, **lease: Any) -> None:
        self.now_ms = 0
        super().__init__(folder, lambda: self.now_ms / 1000, paid_seconds=60, **lease)

    @property
    def row(self) -> dict[str, Any]:
        """The lease on the market."""
        return self.market.leases[self.id]

    def run(self, witness: Witness) -> tuple[Ending, int]:
        """How the job ended and the ms its meter signed last."""
        self.witness = witness
        self.lease.heed(self.shown)
        self.running: Any = Sleeper(self)
        watch = JobWatch(
            self.lease, self.job, Grant(ONE_GPU.gpus, 1000, 0), self.running,
            JobChannel(self.folders.run, self.logs, 0), lambda: self.now_ms * 1_000_000,
        )  # fmt: skip
        return watch.to_the_end(), self.pen.final()[0].ms


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def one_old_reading_every_13_s(now_ms: int) -> int:
    return now_ms // 13_000 * 1_000


def keeping_up(now_ms: int) -> int:
    return max(0, now_ms - 1_000) // 1_000 * 1_000


def test_a_witness_that_falls_behind_gets_no_more_than_the_grace_unsigned(bench: Bench) -> None:
    ending, ms = bench.run(one_old_reading_every_13_s)
    assert (ending.outcome, ending.reason, ending.signs_stop) == ("failed", "witness_silent", True)
    assert ms - one_old_reading_every_13_s(bench.now_ms) <= GRACE_MS + STEP_MS


def test_a_witness_that_says_nothing_ends_the_job_after_the_grace(bench: Bench) -> None:
    ending, ms = bench.run(lambda _: 0)
    assert (ending.reason, ms) == ("witness_silent", GRACE_MS + STEP_MS)


def test_a_witness_that_keeps_up_lets_the_job_run_to_its_limit(bench: Bench) -> None:
    ending, ms = bench.run(keeping_up)
    assert (ending.reason, ms) == ("max_duration", 60_000)


@pytest.mark.parametrize(
    ("limited", "expected"),
    [(False, ("failed", "max_duration")), (True, ("over_budget", "budget"))],
    ids=["by its duration", "by its budget"],
)
def test_a_top_up_extends_a_job_that_runs(
    bench: Bench, limited: bool, expected: tuple[str, str]
) -> None:
    bench.job = replace(bench.job, budget_limited=limited)

    def topping_up(now_ms: int) -> int:
        if now_ms == 45_000:
            bench.row["terms"]["paid_seconds"] = 90
            bench.lease.heed(bench.shown)
        return keeping_up(now_ms)

    ending, ms = bench.run(topping_up)
    assert (ending.outcome, ending.reason) == expected
    assert ms == 90_000


def noticed(bench: Bench, at_ms: int) -> Witness:
    """A witness that keeps up, while the market shows from some time on that notice was given."""

    def passing(now_ms: int) -> int:
        if now_ms >= at_ms:
            bench.row["notice_at"] = "2026-01-01T00:00:00Z"
        bench.lease.heed(bench.shown)
        return keeping_up(now_ms)

    return passing


@pytest.fixture
def on_notice(tmp_path: Path) -> Iterator[Bench]:
    """A job on a node that may be taken back 20 s after notice."""
    bench = Bench(tmp_path, ask={"flags": FLAG_INTERRUPTIBLE, "notice_seconds": 20})
    yield bench
    bench.close()


def test_a_job_is_told_of_the_notice_at_once_and_ended_when_it_is_over(on_notice: Bench) -> None:
    before = time.time()
    ending, ms = on_notice.run(noticed(on_notice, 10_000))
    assert (ending.outcome, ending.reason, ms) == ("lost", "taken_back", 30_000)
    told = int((on_notice.folders.run / "notice").read_text())
    assert before + 18 < told < time.time() + 22
    assert (on_notice.folders.logs / "agent").read_text().count("takes this node back in 20s") == 1


def test_a_job_that_ends_badly_after_notice_has_left_the_node(on_notice: Bench) -> None:
    def leaving(now_ms: int) -> int:
        if now_ms == 12_000:
            on_notice.running.terminate()
        return noticed(on_notice, 10_000)(now_ms)

    ending, _ = on_notice.run(leaving)
    assert (ending.outcome, ending.reason, ending.exit_code) == ("lost", "exit_code", 143)


def test_a_job_that_ends_badly_before_any_notice_has_failed(on_notice: Bench) -> None:
    def failing(now_ms: int) -> int:
        if now_ms == 12_000:
            on_notice.running.terminate()
        return keeping_up(now_ms)

    ending, _ = on_notice.run(failing)
    assert (ending.outcome, ending.reason) == ("failed", "exit_code")


def test_notice_on_a_lease_that_is_not_interruptible_ends_nothing(bench: Bench) -> None:
    ending, ms = bench.run(noticed(bench, 10_000))
    assert (ending.reason, ms) == ("max_duration", 60_000)
    assert not (bench.folders.run / "notice").exists()


def test_paid_time_that_is_said_to_shrink_takes_nothing_from_a_job(bench: Bench) -> None:
    def shrinking(now_ms: int) -> int:
        if now_ms == 30_000:
            bench.row["terms"]["paid_seconds"] = 10
            bench.lease.heed(bench.shown)
        return keeping_up(now_ms)

    ending, ms = bench.run(shrinking)
    assert (ending.reason, ms) == ("max_duration", 60_000)
