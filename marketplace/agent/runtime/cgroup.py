"""A cgroup v2 group per job if this machine lets us have one: exact metering, limits, one kill.

The agent makes groups below its own. With systemd, `Delegate=yes` in its unit gives it the memory
and pids controllers; without them a group still counts processor time and kills as one.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from marketplace.agent.meters import CpuMemory
from marketplace.agent.runtime.processes import KILL_WAIT_S, NICE
from marketplace.agent.runtime.sandbox import SandboxLimits
from marketplace.limits import MIB

_CONTROLLERS = frozenset({"cpu", "memory", "pids"})


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
    try:
        # A group that holds processes cannot hand controllers down: we step aside from ours.
        if own.parent != own and (own / "cgroup.procs").read_text().split() == [str(os.getpid())]:
            (own / "agent").mkdir(exist_ok=True)
            (own / "agent" / "cgroup.procs").write_text(str(os.getpid()))
        for controller in sorted(_CONTROLLERS):
            _try_write(own / "cgroup.subtree_control", f"+{controller}")
        granted = frozenset((own / "cgroup.subtree_control").read_text().split())
    except OSError:
        return None
    parent = CgroupParent(own, granted & _CONTROLLERS)
    return parent if _takes_processes(parent) else None


def _takes_processes(parent: CgroupParent) -> bool:
    """Whether a process can be put into a group below. It tries it: permissions are intricate."""
    name = f"probe-{os.getpid()}-{time.monotonic_ns()}"
    group = Cgroup.create(parent, name, SandboxLimits(64, 0, 8, 0, 1000))
    if group is None:
        return False
    idle = [sys.executable, "-I", "-S", "-c", "input()"]
    with subprocess.Popen(idle, stdin=subprocess.PIPE) as process:  # noqa: S603 - a fixed program
        taken = group.add(process.pid)
        process.kill()
    return group.remove() and taken


class Cgroup:
    def __init__(self, path: Path, controllers: frozenset[str]) -> None:
        self.path = path
        self.controllers = controllers

    @classmethod
    def create(cls, parent: CgroupParent, name: str, limits: SandboxLimits) -> "Cgroup | None":
        """A fresh group with the limits its controllers allow; None if it cannot be made."""
        path = parent.path / f"coulomb-{name}"
        try:
            path.mkdir()
        except OSError:
            return None
        wanted = {
            "memory.max": str(limits.memory_mib * MIB), "memory.swap.max": "0",
            "memory.oom.group": "1", "pids.max": str(limits.pids), "cpu.weight.nice": str(NICE),
        }  # fmt: skip
        if limits.cpu_milli:
            wanted["cpu.max"] = f"{limits.cpu_milli * 100} 100000"
        for file, text in wanted.items():
            if file.partition(".")[0] in parent.controllers:
                _try_write(path / file, text)
        return cls(path, parent.controllers)

    def add(self, pid: int) -> bool:
        return _try_write(self.path / "cgroup.procs", str(pid))

    def read(self) -> CpuMemory | None:
        """Processor time, and memory without the file cache that the kernel can drop at once."""
        try:
            cpu_ms = self._figures("cpu.stat")["usage_usec"] // 1000
            if "memory" not in self.controllers:
                return CpuMemory(cpu_ms, None)
            current = int((self.path / "memory.current").read_text())
            return CpuMemory(cpu_ms, current - self._figures("memory.stat")["inactive_file"])
        except (OSError, ValueError, KeyError):
            return None

    def killed_for_memory(self) -> bool:
        try:
            return self._figures("memory.events").get("oom_kill", 0) > 0
        except (OSError, ValueError):
            return False

    def _figures(self, file: str) -> dict[str, int]:
        words = (self.path / file).read_text().split()
        return dict(zip(words[::2], map(int, words[1::2]), strict=True))

    def remove(self) -> bool:
        """Kill whatever is left in the group and remove the group; return whether it is gone."""
        deadline = time.monotonic() + KILL_WAIT_S
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


def _try_write(path: Path, text: str) -> bool:
    try:  # the kernel's files: none is made by writing
        with os.fdopen(os.open(path, os.O_WRONLY), "w") as file:
            file.write(text)
    except OSError:
        return False
    return True
