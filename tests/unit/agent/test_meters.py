import os
import subprocess
import sys
from pathlib import Path

import pytest

from marketplace.agent.meters import CpuMemory, JobMeter
from marketplace.agent.runtime.processes import ProcessTable, complete, read_stat
from marketplace.limits import MIB
from settlement.usage import UsageVector

MS = 1_000_000  # nanoseconds


class Hands:
    """A clock whose hands we set."""

    def __init__(self) -> None:
        self.ns = 5 * 10**9

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def hands() -> Hands:
    return Hands()


def started(hands: Hands, units_max: int = 0, seen: CpuMemory | None = None) -> JobMeter:
    meter = JobMeter(1000, units_max, hands)
    meter.start(seen, 10_000)
    return meter


def test_time_runs_from_ready_to_stop(hands: Hands) -> None:
    meter = JobMeter(1000, 0, hands)
    hands.ns += 7 * MS
    assert (meter.started, meter.ms) == (False, 0)
    meter.start(None, 10_000)
    hands.ns += 1500 * MS + 999_999
    assert meter.ms == 1500
    meter.stop()
    hands.ns += 5000 * MS
    meter.stop()
    assert meter.ms == 1500


def test_time_ends_at_what_was_sold(hands: Hands) -> None:
    meter = JobMeter(4000, 0, hands)
    meter.start(None, 2_000)
    hands.ns += 9000 * MS
    usage = meter.take(None, 0, 0)
    assert (usage.ms, usage.gpu_ms) == (2_000, 8_000)


def test_time_that_is_bought_later_counts_while_the_job_runs(hands: Hands) -> None:
    meter = started(hands)
    hands.ns += 9_000 * MS
    meter.ms_max = 12_000
    hands.ns += 9_000 * MS
    assert meter.ms == 12_000


def test_processor_time_counts_from_ready_and_never_falls(hands: Hands) -> None:
    meter = started(hands, seen=CpuMemory(400, 0))
    for seen in (CpuMemory(900, 0), CpuMemory(100, 0), None):
        assert meter.take(seen, 0, 0).cpu_core_ms == 500


def test_memory_and_storage_are_integrated_over_running_time(hands: Hands) -> None:
    meter = started(hands)
    meter.take(CpuMemory(0, 10 * MIB - 1), 3, 0)
    hands.ns += 1000 * MS
    meter.take(CpuMemory(0, 20 * MIB), 5, 0)
    hands.ns += 500 * MS
    usage = meter.take(None, 0, 0)
    assert usage.memory_mib_ms == 10 * 1000 + 20 * 500
    assert usage.storage_mib_ms == 3 * 1000 + 5 * 500
    assert meter.memory_mib == 20


def test_the_ready_reading_is_of_no_time_however_long_it_took(hands: Hands) -> None:
    meter = started(hands, 5, CpuMemory(100, 0))
    hands.ns += 31 * MS
    assert meter.take_ready(CpuMemory(120, 10 * MIB), 3) == UsageVector()
    hands.ns += 969 * MS
    usage = meter.take(CpuMemory(600, 0), 3, 2)
    assert (usage.ms, usage.cpu_core_ms, usage.units) == (1000, 500, 2)
    assert usage.memory_mib_ms == 10 * 1000


def test_units_are_capped_and_never_fall(hands: Hands) -> None:
    meter = started(hands, 5)
    assert [meter.take(None, 0, units).units for units in (2, 9, 1)] == [2, 5, 5]


def test_a_clock_that_goes_back_takes_nothing_back(hands: Hands) -> None:
    meter = started(hands)
    hands.ns += 100 * MS
    first = meter.take(None, 0, 0)
    hands.ns -= 1000 * MS
    assert meter.take(None, 0, 0) == first == UsageVector(ms=100, gpu_ms=100)


def test_a_group_without_memory_figures_is_completed_from_the_tree() -> None:
    tree = CpuMemory(1, 77)
    assert complete(CpuMemory(9, None), tree) == CpuMemory(9, 77)
    assert complete(CpuMemory(9, 5), tree) == CpuMemory(9, 5)
    assert complete(None, tree) == CpuMemory(1, 77)
    assert complete(CpuMemory(9, None), None) == CpuMemory(9, 0)
    assert complete(None, None) is None


def write_stat(
    root: Path, pid: int, parent: int, session: int, ticks: int, pages: int, name: str = "job"
) -> None:
    fields = ["S", str(parent), "0", str(session), *["0"] * 7]
    fields += [str(ticks), "0", "0", "0", *["0"] * 4, "123", "0", str(pages), "0"]
    (root / str(pid)).mkdir()
    (root / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")


def test_a_tree_is_descendants_and_session(tmp_path: Path) -> None:
    write_stat(tmp_path, 1, 0, 1, 5, 1)
    write_stat(tmp_path, 10, 1, 10, 7, 2)
    write_stat(tmp_path, 11, 10, 10, 11, 3, name="a) (b 1 2")
    write_stat(tmp_path, 12, 11, 12, 13, 4)  # a session of its own, but a descendant
    write_stat(tmp_path, 13, 1, 10, 17, 5)  # given to init, but of the session
    write_stat(tmp_path, 14, 1, 14, 19, 6)
    table = ProcessTable(root=tmp_path)
    assert sorted(p.pid for p in table.tree(10)) == [10, 11, 12, 13]
    seen = table.cpu_memory(10)
    tick_ms, page = 1000 // os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    assert seen == CpuMemory((7 + 11 + 13 + 17) * tick_ms, (2 + 3 + 4 + 5) * page)
    assert table.cpu_memory(99) is None


def test_the_process_table_is_read_anew_only_when_old_or_wanted_fresh(
    tmp_path: Path, hands: Hands
) -> None:
    table = ProcessTable(hands, tmp_path)
    assert table.tree(10) == []
    write_stat(tmp_path, 10, 1, 10, 7, 2)
    assert table.tree(10) == []
    assert len(table.tree(10, fresh=True)) == 1
    write_stat(tmp_path, 11, 10, 10, 7, 2)
    hands.ns += 51 * MS
    assert len(table.tree(10)) == 2


BURNER = """
import os, sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
pid = os.fork()
if pid == 0:
    burn(0.4)
    os._exit(0)
burn(0.2)
os.waitpid(pid, 0)
print("burnt", flush=True)
sys.stdin.read()
"""


def test_processor_time_of_exited_children_stays_counted() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BURNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        seen = ProcessTable().cpu_memory(process.pid)
        process.stdin.close()
    assert seen is not None
    assert 550 <= seen.cpu_ms <= 900
    assert seen.memory_bytes is not None
    assert seen.memory_bytes > 2 * MIB


def test_a_process_that_is_gone_has_no_stat() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert read_stat(process.pid) is None
    mine = read_stat(os.getpid())
    assert mine is not None
    assert mine.parent == os.getppid()
