"""A job's cgroup on this machine, and the rest of its behaviour on a folder of plain files."""

import os
import subprocess
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from marketplace.agent.errors import StartFailed
from marketplace.agent.meters import CpuMemory
from marketplace.agent.runtime import cgroup
from marketplace.agent.runtime.cgroup import Cgroup, CgroupParent, find_parent
from marketplace.agent.runtime.process import ProcessRuntime
from marketplace.agent.runtime.sandbox import SandboxLimits
from tests.sandboxes import Sandbox, processes_with

LIMITS = SandboxLimits(64, 0, 32, 0, 1500)
EVERYTHING = frozenset({"cpu", "memory", "pids"})


def test_limits_are_written_for_the_controllers_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, str] = {}

    def write(path: Path, text: str) -> bool:
        written[path.name] = text
        return True

    monkeypatch.setattr(cgroup, "_try_write", write)
    Cgroup.create(CgroupParent(tmp_path, frozenset()), "lease_1", LIMITS)
    assert written == {}
    Cgroup.create(CgroupParent(tmp_path, EVERYTHING), "lease_2", LIMITS)
    assert written == {
        "memory.max": str(64 * 1024 * 1024), "memory.swap.max": "0", "memory.oom.group": "1",
        "pids.max": "32", "cpu.weight.nice": "10", "cpu.max": "150000 100000",
    }  # fmt: skip


def test_a_name_that_is_taken_gives_no_group(tmp_path: Path) -> None:
    parent = CgroupParent(tmp_path, frozenset())
    assert Cgroup.create(parent, "lease_1", LIMITS) is not None
    assert Cgroup.create(parent, "lease_1", LIMITS) is None


def test_figures_are_read_without_the_droppable_cache(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 1234567\nuser_usec 1\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 3000\n")
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 1\n")
    group = Cgroup(tmp_path, EVERYTHING)
    assert group.read() == CpuMemory(1234, 2000)
    assert Cgroup(tmp_path, frozenset()).read() == CpuMemory(1234, None)
    assert group.killed_for_memory()


def test_a_group_that_is_gone_has_no_figures(tmp_path: Path) -> None:
    group = Cgroup(tmp_path / "gone", EVERYTHING)
    assert group.read() is None
    assert not group.killed_for_memory()
    assert group.remove()


def test_a_job_that_cannot_be_counted_does_not_start(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    """A plain folder takes no processes: then neither limits nor figures would hold."""
    groups = tmp_path / "groups"
    groups.mkdir()
    unfit = ProcessRuntime(runtime._sandbox, runtime._prefix, CgroupParent(groups, frozenset()))
    marker = f"never-{uuid4()}"
    with pytest.raises(StartFailed) as caught:
        Sandbox(unfit, tmp_path).run(["sh", "-c", f"sleep 100 # {marker}"])
    assert caught.value.reason == "sandbox_failed"
    assert processes_with(marker) == []
    assert list(groups.iterdir()) == []


def test_where_groups_can_be_made_a_job_is_in_one(sandbox: Sandbox) -> None:
    parent = find_parent()
    with sandbox.started(["sleep", "100"]) as running:
        group = running.record["cgroup"]
        if parent is None:
            assert group is None
        else:
            members = Path(group, "cgroup.procs").read_text().split()
            assert str(running.record["pid"]) in members
            assert len(members) == 3  # bubblewrap outside and inside, and the job
    assert group is None or not Path(group).exists()


def test_removing_a_group_kills_what_is_in_it(tmp_path: Path) -> None:
    parent = find_parent()
    if parent is None:  # this machine lets us make none: nothing to remove
        assert Cgroup(tmp_path / "gone", frozenset()).remove()
        return
    group = Cgroup.create(parent, f"test-{tmp_path.name}-{os.getpid()}", LIMITS)
    assert group is not None
    with subprocess.Popen(["sleep", "100"]) as process:
        assert group.add(process.pid)
        thread = threading.Thread(target=process.wait)
        thread.start()
        assert group.remove()
        thread.join(5)
    assert process.returncode == -9
