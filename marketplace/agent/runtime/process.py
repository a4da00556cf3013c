"""Jobs as processes of this machine: in a bubblewrap sandbox, or bare if the provider insists."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from marketplace.agent.errors import FoldersExposed, RuntimeUnavailable, StartFailed
from marketplace.agent.meters import CpuMemory, ProcessTable, completed, read_stat
from marketplace.agent.runtime import bubblewrap
from marketplace.agent.runtime.base import OUT, WORK, JobFolders, Launch, SandboxLimits
from marketplace.agent.runtime.cgroup import Cgroup, CgroupParent, find_parent
from marketplace.agent.runtime.exposure import refuse_exposed
from marketplace.agent.runtime.spawn import Started, Starting

_PROBE_TIMEOUT_S = 15.0
_KILL_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """How a later agent recognises the processes of a job."""

    boot: str
    pid: int
    started_ticks: int
    inner: int | None
    inner_started_ticks: int | None
    cgroup: str | None


class ProcessRuntime:
    """Runs jobs as processes; see `Runtime`.

    Without `sandbox` they are bare: only for machines one gives away.
    """

    def __init__(
        self,
        sandbox: bubblewrap.Bubblewrap | None,
        prefix: Path,
        cgroups: CgroupParent | None,
    ) -> None:
        self._sandbox = sandbox
        self._prefix = prefix
        self._cgroups = cgroups
        self._table = ProcessTable()

    @classmethod
    def open(
        cls, allow_unsandboxed: bool, prefix: Path | None = None, private: Iterable[Path] = ()
    ) -> ProcessRuntime:
        """The runtime of this machine, tried out once.

        Raises RuntimeUnavailable if no sandbox works, unless jobs may run without one, and if a
        working one would show jobs a home folder or a `private` one.
        """
        place = prefix or bubblewrap.default_prefix()
        cgroups = find_parent()
        try:
            runtime = cls(bubblewrap.Bubblewrap.find(), place, cgroups)
            refuse_exposed(place, bubblewrap.bound_bases(place), private)
            runtime.probe()
            return runtime
        except FoldersExposed:
            raise
        except RuntimeUnavailable:
            if allow_unsandboxed:
                return cls(None, place, cgroups)
            raise

    name = "process"

    @property
    def sandboxed(self) -> bool:
        """Whether jobs run in a sandbox."""
        return self._sandbox is not None

    def owner(self, slot: int) -> tuple[int, int] | None:
        if self._sandbox is None or not self._sandbox.as_root:
            return None
        return self._sandbox.uid(slot), self._sandbox.uid(slot)

    def environment(self, folders: JobFolders) -> dict[str, str]:
        work, out, run, helper = WORK, OUT, bubblewrap.SOCKET_FOLDER, bubblewrap.HELPER
        if self._sandbox is None:
            work, out, run = str(folders.work), str(folders.out), str(folders.run)
            helper = str(bubblewrap.HELPER_FILE)
        return {
            "COULOMB_WORK": work,
            "COULOMB_OUT": out,
            "COULOMB_SOCKET": f"{run}/job.sock",
            "COULOMB_HELPER": helper,
            "PYTHONPATH": os.path.dirname(helper),
        }

    def probe(self) -> None:
        """Start nothing much in the sandbox. Raises RuntimeUnavailable if that fails."""
        with tempfile.TemporaryDirectory(prefix="coulomb-probe-") as folder:
            folders = JobFolders(Path(folder))
            for path in (folders.work, folders.out, folders.run):
                path.mkdir()
            limits = SandboxLimits(memory_mib=256, storage_mib=16, pids=16, cpu_seconds=10)
            launch = Launch("probe", ("python", "-c", ""), {}, folders, limits, (), 0)
            try:
                running = self.start(launch)
            except StartFailed as error:
                raise RuntimeUnavailable(f"the sandbox does not work here: {error}") from error
            code = running.wait(_PROBE_TIMEOUT_S)
            complaint = b"" if code is None else os.read(running.stderr, 500)
            running.close()
            os.close(running.stdout)
            os.close(running.stderr)
            if code != 0:
                detail = complaint.decode(errors="replace").strip() or f"exit code {code}"
                raise RuntimeUnavailable(f"the sandbox does not work here: {detail}")

    def start(self, launch: Launch) -> RunningProcess:
        group = None
        if self._cgroups is not None:
            limits = launch.limits
            group = Cgroup.create(
                self._cgroups, launch.lease_id, limits.memory_mib, limits.pids, limits.cpu_milli
            )
        starting = Starting(launch, group, self._table)
        try:
            if self._sandbox is None:
                started = starting.bare(self._prefix)
            else:
                started = starting.sandboxed(self._sandbox, self._prefix)
            return RunningProcess(started, group, self._table)
        except OSError as error:
            starting.abandon()
            raise StartFailed("sandbox_failed", f"the job could not be started: {error}") from error
        except StartFailed:
            starting.abandon()
            raise

    def reap(self, record: Mapping[str, Any]) -> None:
        known = ProcessRecord(**record)
        if known.boot != _boot_id():
            return
        for pid, started in (
            (known.inner, known.inner_started_ticks),
            (known.pid, known.started_ticks),
        ):
            stat = read_stat(pid) if pid is not None else None
            if stat is not None and stat.started_ticks == started:
                _send(stat.pid, started, signal.SIGKILL)
        leader = read_stat(known.pid)
        if leader is None or leader.started_ticks == known.started_ticks:
            _kill_tree(known.pid, self._table)
        if known.cgroup is not None:
            Cgroup(Path(known.cgroup), frozenset()).remove()


class RunningProcess:
    """A started job and the handles by which to watch and end it; see `Running`."""

    def __init__(self, started: Started, group: Cgroup | None, table: ProcessTable) -> None:
        self._process = process = started.process
        self._inner = inner = started.inner
        self._status = started.status
        self._priority = started.priority
        self._group = group
        self._table = table
        # Descriptors outlive the streams they come from: whoever reads them closes them.
        self.stdout = _detached(process.stdout)
        self.stderr = _detached(process.stderr)
        self.pid = process.pid  # of the outermost process of the job
        self._pidfd = os.pidfd_open(process.pid)
        self._record = ProcessRecord(
            boot=_boot_id(),
            pid=process.pid,
            started_ticks=_started(process.pid),
            inner=inner,
            inner_started_ticks=_started(inner) if inner is not None else None,
            cgroup=str(group.path) if group is not None else None,
        )

    def wait(self, timeout_s: float) -> int | None:
        if self._process.returncode is None and timeout_s > 0:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            poller.poll(timeout_s * 1000)
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def terminate(self) -> None:
        # Not bubblewrap's own processes: they follow the last one of the job.
        own = {self.pid, self._inner} if self._inner is not None else set()
        for stat in self._table.tree(self.pid, fresh=True):
            if stat.pid not in own:
                _send(stat.pid, stat.started_ticks, signal.SIGTERM)

    def kill(self) -> None:
        if self._inner is not None:  # with the first process of the namespace all others go
            _send(self._inner, self._record.inner_started_ticks, signal.SIGKILL)
        else:
            _kill_tree(self.pid, self._table)
        self._process.kill()

    def close(self) -> None:
        self.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it dies when it wakes
            self._process.wait(_KILL_WAIT_S)
        if self._inner is None:
            _kill_tree(self.pid, self._table)
        if self._group is not None:
            self._group.remove()
        os.close(self._pidfd)
        if self._status is not None:
            os.close(self._status)

    def read(self) -> CpuMemory | None:
        if self._group is None or "cpu" not in self._group.controllers:
            self._priority.apply(self._table.tree(self.pid))
        seen = self._group.read() if self._group is not None else None
        if seen is not None and seen.memory_bytes is not None:
            return seen
        return completed(seen, self._table.cpu_memory(self._inner or self.pid))

    def hidden_bytes(self, device: int) -> int:
        sizes: dict[int, int] = {}
        for process in self._table.tree(self.pid):
            for status in _open_files(process.pid):
                if status.st_dev == device and status.st_nlink == 0:
                    sizes[status.st_ino] = status.st_blocks * 512
        return sum(sizes.values())

    def out_of_memory(self) -> bool:
        return self._group is not None and self._group.killed_for_memory()

    def record(self) -> dict[str, Any]:
        return asdict(self._record)


def _detached(stream: IO[bytes] | None) -> int:
    if stream is None:
        raise StartFailed("sandbox_failed", "the job has no output")
    with stream:
        return os.dup(stream.fileno())


def _open_files(pid: int) -> Iterator[os.stat_result]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:  # the process is gone
        return
    for name in names:
        with suppress(OSError):  # closed in the meantime
            yield os.stat(f"{folder}/{name}")


def _kill_tree(pid: int, table: ProcessTable) -> None:
    """Kill a session and its descendants until none is left, or we give up waiting."""
    deadline = time.monotonic() + _KILL_WAIT_S
    while time.monotonic() < deadline:
        alive = [s for s in table.tree(pid, fresh=True) if s.pid != os.getpid() and not s.zombie]
        if not alive:
            return
        for stat in alive:
            _send(stat.pid, stat.started_ticks, signal.SIGKILL)
        time.sleep(0.005)


def _send(pid: int, started_ticks: int | None, what: signal.Signals) -> None:
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


def _started(pid: int) -> int:
    stat = read_stat(pid)
    return stat.started_ticks if stat is not None else -1


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
