"""The processes of this machine: read from /proc, signalled, and lowered in priority."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from marketplace.agent.meters import CpuMemory

# It gives a tenth of the usual weight. At the lowest priority a busy machine would starve jobs.
NICE = 10  # launch.py, which stands alone, says the same to kernels without autogroups
KILL_WAIT_S = 5.0
_TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TABLE_NS = 50_000_000  # how old a process table may be: jobs of one node share it
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One process as /proc shows it; `cpu_ticks` includes children it has waited for."""

    pid: int
    parent: int
    session: int
    cpu_ticks: int
    started_ticks: int
    memory_bytes: int
    zombie: bool = False


def read_stat(pid: int, root: Path = _PROC) -> ProcessStat | None:
    """One line of /proc/PID/stat, or None once the process is gone. Source: proc(5)."""
    try:
        text = (root / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name may hold spaces and brackets
    return ProcessStat(
        pid=pid, parent=int(fields[1]), session=int(fields[3]), started_ticks=int(fields[19]),
        cpu_ticks=sum(int(ticks) for ticks in fields[11:15]),
        memory_bytes=int(fields[21]) * _PAGE_BYTES, zombie=fields[0] in ("Z", "X"),
    )  # fmt: skip


def send(pid: int, started_ticks: int | None, what: signal.Signals) -> None:
    """Signal a process unless its number belongs to another one by now."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        stat = read_stat(pid)
        if stat is not None and stat.started_ticks == started_ticks:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, what)
    finally:
        os.close(descriptor)


class ProcessTable:
    """All processes of the machine, read at most every 50 ms. `clock`: monotonic nanoseconds."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns, root: Path = _PROC) -> None:
        self._clock = clock
        self._root = root
        self._read_at: int | None = None
        self._processes: dict[int, ProcessStat] = {}
        self._lock = threading.Lock()

    def tree(self, root_pid: int, fresh: bool = False) -> list[ProcessStat]:
        """A process, its descendants, and everything in its session; `fresh`: as of right now."""
        processes = self._current(fresh)
        children: dict[int, list[int]] = {}
        for process in processes.values():
            children.setdefault(process.parent, []).append(process.pid)
        found: dict[int, ProcessStat] = {}
        queue = [p.pid for p in processes.values() if root_pid in (p.pid, p.session)]
        while queue:
            pid = queue.pop()
            if pid not in found:
                found[pid] = processes[pid]
                queue += children.get(pid, [])
        return list(found.values())

    def cpu_memory(self, root_pid: int) -> CpuMemory | None:
        """Processor time and memory of a tree; None if it is gone. Shared pages count each time."""
        tree = self.tree(root_pid)
        if not tree:
            return None
        ticks = sum(process.cpu_ticks for process in tree)
        return CpuMemory(ticks * _TICK_MS, sum(process.memory_bytes for process in tree))

    def kill(self, root_pid: int) -> None:
        deadline = time.monotonic() + KILL_WAIT_S
        while time.monotonic() < deadline:
            tree = self.tree(root_pid, fresh=True)
            alive = [stat for stat in tree if stat.pid != os.getpid() and not stat.zombie]
            if not alive:
                return
            for stat in alive:
                send(stat.pid, stat.started_ticks, signal.SIGKILL)
            time.sleep(0.005)

    def _current(self, fresh: bool) -> dict[int, ProcessStat]:
        with self._lock:
            now = self._clock()
            if fresh or self._read_at is None or now - self._read_at > _TABLE_NS:
                pids = [int(name) for name in os.listdir(self._root) if name.isdigit()]
                stats = (read_stat(pid, self._root) for pid in pids)
                self._processes = {stat.pid: stat for stat in stats if stat is not None}
                self._read_at = now
            return self._processes


def complete(group: CpuMemory | None, tree: CpuMemory | None) -> CpuMemory | None:
    """A cgroup's figures; what it does not count is taken from the process tree."""
    if group is None or group.memory_bytes is not None:
        return group or tree
    return replace(group, memory_bytes=(tree.memory_bytes if tree else 0))


class LowPriority:
    """The sessions of one job; each is lowered once, so that agent and server can watch and answer.

    A kernel with autogroups weighs sessions, whatever their processes' nice values. Source:
    sched(7), "The autogroup feature".
    """

    def __init__(self, root: Path = _PROC) -> None:
        self._root = root
        self._lowered: set[int] = set()

    def apply(self, processes: Iterable[ProcessStat]) -> None:
        members = {process.session: process.pid for process in processes if not process.zombie}
        members.pop(os.getsid(0), None)
        self._lowered &= members.keys()
        for session in members.keys() - self._lowered:
            if self._lower(members[session]):
                self._lowered.add(session)

    def _lower(self, pid: int) -> bool:
        """Lower a session's priority; False if it is to be tried again, because the kernel takes
        only ten such requests a second from a process without rights."""
        try:
            file = os.open(self._root / str(pid) / "autogroup", os.O_WRONLY)
            with os.fdopen(file, "w") as autogroup:
                autogroup.write(str(NICE))
        except BlockingIOError:
            return False
        except OSError:  # no autogroups here, none that is ours to change, or the process is gone
            pass
        return True
