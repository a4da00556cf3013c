"""A cgroup v2 group per job if this machine lets us have one: exact metering, limits, one kill.

The agent makes groups below its own. With systemd, `Delegate=yes` in its unit gives it the memory
and pids controllers; without them a group still counts processor time and kills as one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from marketplace.agent.meters import CpuMemory
from marketplace.agent.runtime.priority import NICE
from marketplace.limits import MIB

_CONTROLLERS = ("cpu", "memory", "pids")
_KILL_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class CgroupParent:
    """The group below which jobs get theirs, and the controllers that they get."""

    path: Path
    controllers: frozenset[str]


def find_parent() -> CgroupParent | None:
    """The agent's own group if groups can be made below it, else None."""
    own = _own_group()
    if own is None or not os.access(own, os.W_OK):
        return None
    # A group that holds processes cannot hand controllers down: we step aside from ours.
    if own.parent != own and _pids(own) == [os.getpid()]:
        aside = own / "agent"
        try:
            aside.mkdir(exist_ok=True)
            (aside / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            return None
    for controller in _CONTROLLERS:
        _try_write(own / "cgroup.subtree_control", f"+{controller}")
    try:
        granted = frozenset((own / "cgroup.subtree_control").read_text().split())
    except OSError:
        return None
    parent = CgroupParent(own, granted & frozenset(_CONTROLLERS))
    return parent if _takes_processes(parent) else None


def _takes_processes(parent: CgroupParent) -> bool:
    """Whether a process can be put into a group below: permissions on groups are intricate."""
    group = Cgroup.create(parent, f"probe-{os.getpid()}-{time.monotonic_ns()}", 64, 8, 1000)
    if group is None:
        return False
    idle = [sys.executable, "-I", "-S", "-c", "input()"]
    with subprocess.Popen(  # noqa: S603 - a fixed program
        idle, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        taken = group.add(process.pid)
        process.kill()
    return group.remove() and taken


class Cgroup:
    """One job's group."""

    def __init__(self, path: Path, controllers: frozenset[str]) -> None:
        self.path = path
        self.controllers = controllers

    @classmethod
    def create(
        cls, parent: CgroupParent, name: str, memory_mib: int, pids: int, cpu_milli: int
    ) -> Cgroup | None:
        """A fresh group with the limits its controllers allow; None if it cannot be made."""
        path = parent.path / f"coulomb-{name}"
        try:
            path.mkdir()
        except OSError:
            return None
        group = cls(path, parent.controllers)
        if "memory" in group.controllers:
            _try_write(path / "memory.max", str(memory_mib * MIB))
            _try_write(path / "memory.swap.max", "0")
            _try_write(path / "memory.oom.group", "1")
        if "pids" in group.controllers:
            _try_write(path / "pids.max", str(pids))
        if "cpu" in group.controllers:
            _try_write(path / "cpu.weight.nice", str(NICE))
            if cpu_milli:
                _try_write(path / "cpu.max", f"{cpu_milli * 100} 100000")
        return group

    def add(self, pid: int) -> bool:
        """Put a process in; what it starts later is in as well."""
        return _try_write(self.path / "cgroup.procs", str(pid))

    def read(self) -> CpuMemory | None:
        """Processor time and memory so far; memory is None without the memory controller."""
        try:
            lines = (self.path / "cpu.stat").read_text().splitlines()
            usage = dict(line.split() for line in lines)
            memory: int | None = None
            if "memory" in self.controllers:
                memory = self._working_set()
            return CpuMemory(int(usage["usage_usec"]) // 1000, memory)
        except (OSError, ValueError, KeyError):
            return None

    def _working_set(self) -> int:
        """Memory in use without the file cache the kernel can drop at once."""
        lines = (self.path / "memory.stat").read_text().splitlines()
        stat = dict(line.split() for line in lines)
        return int((self.path / "memory.current").read_text()) - int(stat["inactive_file"])

    def killed_for_memory(self) -> bool:
        """Whether the kernel ended a process of the group for want of memory."""
        try:
            lines = (self.path / "memory.events").read_text().splitlines()
            return int(dict(line.split() for line in lines).get("oom_kill", "0")) > 0
        except (OSError, ValueError):
            return False

    def remove(self) -> bool:
        """Kill whatever is left in the group and take the group away; whether it is gone."""
        deadline = time.monotonic() + _KILL_WAIT_S
        while self.path.exists():
            _try_write(self.path / "cgroup.kill", "1")
            try:
                self.path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
        return True


def _own_group() -> Path | None:
    """The folder of this process's cgroup v2 group, wherever the hierarchy is mounted."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    relative = next((line[3:] for line in lines if line.startswith("0::")), None)
    for line in mounts:
        left, _, right = line.partition(" - ")
        if relative is not None and right.split(" ", 1)[0] == "cgroup2":
            root, point = left.split(" ")[3:5]
            inside = relative.removeprefix(root) if root != "/" else relative
            return Path(point) / inside.lstrip("/")
    return None


def _pids(group: Path) -> list[int]:
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except (OSError, ValueError):
        return []


def _try_write(path: Path, text: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY)  # the kernel's files: none is made by writing
    except OSError:
        return False
    try:
        os.write(descriptor, text.encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
