"""Jobs as processes of this machine: in a bubblewrap sandbox, or bare if the provider insists."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from marketplace.agent.errors import FoldersExposed, RuntimeUnavailable, StartFailed
from marketplace.agent.folders import JobFolders
from marketplace.agent.meters import CpuMemory
from marketplace.agent.runtime import sandbox
from marketplace.agent.runtime.cgroup import Cgroup, CgroupParent, find_parent
from marketplace.agent.runtime.processes import KILL_WAIT_S, ProcessTable, complete, read_stat, send
from marketplace.agent.runtime.sandbox import OUT, WORK, Bubblewrap, Launch, SandboxLimits
from marketplace.agent.runtime.spawn import Process, Starting

_PROBE_TIMEOUT_S = 15.0


class ProcessRuntime:
    """Runs jobs as processes. Without `sandbox` they are bare: only for machines one gives away."""

    name = "process"  # what the node is listed with

    def __init__(
        self, sandbox: Bubblewrap | None, prefix: Path, cgroups: CgroupParent | None
    ) -> None:
        self._sandbox = sandbox
        self._prefix = prefix
        self._cgroups = cgroups
        self._table = ProcessTable()

    @classmethod
    def open(
        cls, allow_unsandboxed: bool, prefix: Path | None = None, private: Iterable[Path] = ()
    ) -> "ProcessRuntime":
        """The runtime of this machine, tried out once.

        Raises RuntimeUnavailable if no sandbox works, unless jobs may run without one, and if a
        working one would show jobs a home folder or a `private` one.
        """
        prefix = prefix or Path(sys.prefix)
        cgroups = find_parent()
        try:
            runtime = cls(Bubblewrap.find(), prefix, cgroups)
            sandbox.refuse_exposed(prefix, private)
            runtime.probe()
            return runtime
        except FoldersExposed:
            raise
        except RuntimeUnavailable:
            if allow_unsandboxed:
                return cls(None, prefix, cgroups)
            raise

    @property
    def sandboxed(self) -> bool:
        return self._sandbox is not None

    def owner(self, slot: int) -> tuple[int, int] | None:
        """The user and group that must own the folders of a job in this slot; None: the agent's."""
        if self._sandbox is None or not self._sandbox.as_root:
            return None
        return self._sandbox.uid(slot), self._sandbox.uid(slot)

    def environment(self, folders: JobFolders) -> dict[str, str]:
        """Where the job finds COULOMB_WORK, _OUT, _SOCKET and _HELPER; PYTHONPATH to the last."""
        places: list[str | Path] = [WORK, OUT, sandbox.SOCKET_FOLDER, sandbox.HELPER]
        if self._sandbox is None:
            places = [folders.work, folders.out, folders.run, sandbox.HELPER_FILE]
        work, out, run, helper = map(str, places)
        return {
            "COULOMB_WORK": work, "COULOMB_OUT": out, "COULOMB_SOCKET": f"{run}/job.sock",
            "COULOMB_HELPER": helper, "PYTHONPATH": os.path.dirname(helper),
        }  # fmt: skip

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

    def start(self, launch: Launch) -> "RunningProcess":
        """Start a job. Raises StartFailed; then nothing of it runs."""
        group = None
        if self._cgroups is not None:
            group = Cgroup.create(self._cgroups, launch.lease_id, launch.limits)
        starting = Starting(launch, group, self._table)
        try:
            if self._sandbox is None:
                process = starting.bare(self._prefix)
            else:
                process = starting.sandboxed(self._sandbox, self._prefix)
            return RunningProcess(process, starting)
        except OSError as error:
            starting.abandon()
            raise StartFailed("sandbox_failed", f"the job could not be started: {error}") from error
        except StartFailed:
            starting.abandon()
            raise

    def reap(self, record: Mapping[str, Any]) -> None:
        """End what a dead agent left running under this record, if anything."""
        if record["boot"] != _boot_id():
            return
        pid, started_ticks = record["pid"], record["started_ticks"]
        if record["inner"] is not None:
            send(record["inner"], record["inner_started_ticks"], signal.SIGKILL)
        send(pid, started_ticks, signal.SIGKILL)
        leader = read_stat(pid)
        if leader is None or leader.started_ticks == started_ticks:
            self._table.kill(pid)
        if record["cgroup"] is not None:
            Cgroup(Path(record["cgroup"]), frozenset()).remove()


class RunningProcess:
    """A started job and the handles by which to watch and end it.

    Whoever reads `stdout` and `stderr` closes them. After `close` nothing is left but its folders.
    """

    def __init__(self, process: Process, start: Starting) -> None:
        self._process = process
        self._inner = inner = start.inner
        self._status = start.status
        self._priority = start.priority
        self._group = start.group
        self._table = start.table
        self.stdout = _detached(process.stdout)
        self.stderr = _detached(process.stderr)
        self.pid = process.pid  # of the outermost process of the job
        self._pidfd = os.pidfd_open(process.pid)
        self._inner_started_ticks = _started(inner) if inner is not None else None
        # What a later agent needs to find and end it: see `ProcessRuntime.reap`.
        self.record = {
            "boot": _boot_id(),
            "pid": process.pid,
            "started_ticks": _started(process.pid),
            "inner": inner,
            "inner_started_ticks": self._inner_started_ticks,
            "cgroup": str(start.group.path) if start.group is not None else None,
        }

    def wait(self, timeout_s: float) -> int | None:
        """The exit code (128 + signal) as soon as there is one, None after the timeout."""
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
                send(stat.pid, stat.started_ticks, signal.SIGTERM)

    def kill(self) -> None:
        if self._inner is not None:  # with the first process of the namespace all others go
            send(self._inner, self._inner_started_ticks, signal.SIGKILL)
        else:
            self._table.kill(self.pid)
        self._process.kill()

    def close(self) -> None:
        """Make sure that nothing of the job is left."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it dies when it wakes
            self._process.wait(KILL_WAIT_S)
        if self._inner is None:
            self._table.kill(self.pid)
        if self._group is not None:
            self._group.remove()
        os.close(self._pidfd)
        if self._status is not None:
            os.close(self._status)

    def read(self) -> CpuMemory | None:
        """Processor time and memory of all its processes."""
        if self._group is None or "cpu" not in self._group.controllers:
            self._priority.apply(self._table.tree(self.pid))
        seen = self._group.read() if self._group is not None else None
        if seen is not None and seen.memory_bytes is not None:
            return seen
        return complete(seen, self._table.cpu_memory(self._inner or self.pid))

    def hidden_bytes(self, device: int) -> int:
        """Bytes on a device in files that its processes hold open although they are deleted."""
        sizes: dict[int, int] = {}
        for process in self._table.tree(self.pid):
            folder = f"/proc/{process.pid}/fd"
            with suppress(OSError):  # the process is gone
                for name in os.listdir(folder):
                    with suppress(OSError):  # closed in the meantime
                        status = os.stat(f"{folder}/{name}")
                        if status.st_dev == device and status.st_nlink == 0:
                            sizes[status.st_ino] = status.st_blocks * 512
        return sum(sizes.values())

    def out_of_memory(self) -> bool:
        return self._group is not None and self._group.killed_for_memory()


def _detached(stream: IO[bytes] | None) -> int:
    """A descriptor that outlives the stream it comes from."""
    if stream is None:
        raise StartFailed("sandbox_failed", "the job has no output")
    with stream:
        return os.dup(stream.fileno())


def _started(pid: int) -> int:
    stat = read_stat(pid)
    return stat.started_ticks if stat is not None else -1


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
