"""Runs jobs as processes of this machine, in a bubblewrap sandbox or, if told to, without one."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from marketplace.agent.errors import FoldersExposed, RuntimeUnavailable, StartFailed
from marketplace.agent.folders import NOTICE, JobFolders
from marketplace.agent.meters import CpuMemory
from marketplace.agent.runtime import processes, sandbox, seccomp
from marketplace.agent.runtime.cgroup import Cgroup, CgroupParent, find_parent
from marketplace.agent.runtime.processes import KILL_WAIT_S, LowPriority, ProcessTable
from marketplace.agent.runtime.sandbox import OUT, WORK, Bubblewrap, Launch, SandboxLimits
from marketplace.limits import MIB

_PROBE_TIMEOUT_S = 15.0
_SETUP_TIMEOUT_S = 15.0
# Address space beyond resident memory that an ordinary program maps (libraries, thread stacks).
_ADDRESS_SLACK_MIB = 1024
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_BASE_ENV = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
Process = subprocess.Popen[bytes]


class ProcessRuntime:
    """Runs jobs as processes. Without `sandbox` nothing shields the machine from them."""

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
        """Where the job finds COULOMB_WORK, _OUT, _SOCKET, _NOTICE and _HELPER, with PYTHONPATH."""
        places: list[str | Path] = [WORK, OUT, sandbox.SOCKET_FOLDER, sandbox.HELPER]
        if self._sandbox is None:
            places = [folders.work, folders.out, folders.run, sandbox.HELPER_FILE]
        work, out, run, helper = map(str, places)
        return {
            "COULOMB_WORK": work, "COULOMB_OUT": out, "COULOMB_SOCKET": f"{run}/job.sock",
            "COULOMB_NOTICE": f"{run}/{NOTICE}",
            "COULOMB_HELPER": helper, "PYTHONPATH": os.path.dirname(helper),
        }  # fmt: skip

    def probe(self) -> None:
        """Start a trivial program in the sandbox. Raises RuntimeUnavailable if that fails."""
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
            processes.send(record["inner"], record["inner_started_ticks"], signal.SIGKILL)
        processes.send(pid, started_ticks, signal.SIGKILL)
        leader = processes.read_stat(pid)
        if leader is None or leader.started_ticks == started_ticks:
            self._table.kill(pid)
        if record["cgroup"] is not None:
            Cgroup(Path(record["cgroup"]), frozenset()).remove()


class RunningProcess:
    """A started job. Whoever reads `stdout` and `stderr` closes them; `close` ends all the rest."""

    def __init__(self, process: Process, start: "Starting") -> None:
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
            "boot": _boot_id(), "pid": process.pid, "started_ticks": _started(process.pid),
            "inner": inner, "inner_started_ticks": self._inner_started_ticks,
            "cgroup": str(start.group.path) if start.group is not None else None,
        }  # fmt: skip

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
                processes.send(stat.pid, stat.started_ticks, signal.SIGTERM)

    def kill(self) -> None:
        if self._inner is not None:  # with the first process of the namespace all others go
            processes.send(self._inner, self._inner_started_ticks, signal.SIGKILL)
        else:
            self._table.kill(self.pid)
        self._process.kill()

    def close(self) -> None:
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
        if self._group is None or "cpu" not in self._group.controllers:
            self._priority.apply(self._table.tree(self.pid))
        seen = self._group.read() if self._group is not None else None
        if seen is not None and seen.memory_bytes is not None:
            return seen
        return processes.complete(seen, self._table.cpu_memory(self._inner or self.pid))

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
    stat = processes.read_stat(pid)
    return stat.started_ticks if stat is not None else -1


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Starting:
    """One start. Raises StartFailed or OSError; `abandon` then leaves nothing of it."""

    def __init__(self, launch: Launch, group: Cgroup | None, table: ProcessTable) -> None:
        self._launch = launch
        self.group = group
        self.table = table
        self.priority = LowPriority()
        self.inner: int | None = None  # the first process of the job's PID namespace
        self.status: int | None = None  # stays open: bubblewrap ends on a pipe that nobody reads
        self._process: Process | None = None

    def bare(self, prefix: Path) -> Process:
        work = self._launch.folders.work
        wanted = self._wanted(home=str(work), path=f"{prefix}/bin:{_SYSTEM_PATH}")
        wanted["alone"] = True
        del wanted["rlimits"]["RLIMIT_NPROC"]  # it would count the agent's user's other processes
        with ExitStack() as stack:
            line = _Line(stack)
            command = [f"{prefix}/bin/python", "-I", "-S", str(sandbox.LAUNCHER_FILE)]
            process = self._spawn([*command, str(line.end)], [line.end], work)
            self._let_go(process, wanted, line)
            return process

    def sandboxed(self, bubblewrap: Bubblewrap, prefix: Path) -> Process:
        launch = self._launch
        uid = bubblewrap.uid(launch.slot)
        sandbox.write_system_files(launch.folders.run, uid)
        wanted = self._wanted(home=WORK, path=sandbox.PATH)
        if bubblewrap.as_root:
            wanted["uid"] = wanted["gid"] = uid
        with ExitStack() as stack:
            line, status = _Line(stack), _Line(stack)
            program = seccomp.program()
            filter_fd = _memory_file(stack, program) if program is not None else None
            options = bubblewrap.options(launch, prefix, status.end, filter_fd)
            # By a file, because the job can read the command line of its first process.
            options_fd = _memory_file(stack, b"".join(os.fsencode(o) + b"\0" for o in options))
            ends = (line.end, status.end, options_fd, filter_fd)
            passed = [descriptor for descriptor in ends if descriptor is not None]
            command = [bubblewrap.path, "--args", str(options_fd), "--"]
            command += [f"{sandbox.PYTHON}/bin/python", "-I", "-S", sandbox.LAUNCHER]
            process = self._spawn([*command, str(line.end)], passed, Path("/"))
            status.close_end()
            try:  # the host's number for the first process of the sandbox's PID namespace
                self.inner = int(json.loads(status.receive())["child-pid"])
            except (ValueError, KeyError):
                raise StartFailed("sandbox_failed", _complaint(process)) from None
            self._let_go(process, wanted, line)
            self.status = os.dup(status.ours.fileno())
            return process

    def abandon(self) -> None:
        """Leave nothing of a start that failed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(KILL_WAIT_S)
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None:
                    stream.close()
        if self.group is not None:
            self.group.remove()

    def _wanted(self, home: str, path: str) -> dict[str, Any]:
        launch, limits = self._launch, self._launch.limits
        rlimits = {
            "RLIMIT_CORE": 0, "RLIMIT_NPROC": limits.pids, "RLIMIT_CPU": limits.cpu_seconds,
            "RLIMIT_FSIZE": limits.storage_mib * MIB,
        }  # fmt: skip
        if all(gpu.simulated for gpu in launch.gpus):  # CUDA maps far more than it uses
            rlimits["RLIMIT_AS"] = (limits.memory_mib + _ADDRESS_SLACK_MIB) * MIB
        env = {"PATH": path, "HOME": home, **_BASE_ENV, **launch.env}
        nobody = {"uid": None, "gid": None, "alone": False}
        return {"argv": list(launch.argv), "env": env, "rlimits": rlimits, **nobody}

    def _spawn(self, command: list[str], passed: list[int], folder: Path) -> Process:
        self._process = subprocess.Popen(  # noqa: S603 - no shell; the job's words come later
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=passed, env={}, cwd=folder, start_new_session=True,
        )  # fmt: skip
        return self._process

    def _let_go(self, process: Process, wanted: dict[str, Any], line: "_Line") -> None:
        """Put the job into its cgroup, then let it go and hear whether it could."""
        line.close_end()
        if line.receive() != b"up\n":
            raise StartFailed("sandbox_failed", _complaint(process))
        # Only now is the launcher there for sure: what it becomes is counted from its first step.
        tree = self.table.tree(process.pid, fresh=True)
        self.priority.apply(tree)
        if self.group is not None and not all([self.group.add(stat.pid) for stat in tree]):
            raise StartFailed("sandbox_failed", "the job cannot be put into its cgroup")
        line.send(json.dumps(wanted).encode())
        answer = line.receive(whole=True)
        if answer == b"ok":
            return
        detail = answer.removeprefix(b"ok").decode(errors="replace")
        if answer.startswith(b"ok"):
            word = self._launch.argv[0]
            raise StartFailed("command_not_found", f"{word!r} cannot be run: {detail}")
        raise StartFailed("sandbox_failed", detail or _complaint(process))


def _complaint(process: Process) -> str:
    process.kill()
    text = process.stderr.read(2000) if process.stderr is not None else b""
    return text.decode(errors="replace").strip() or "the sandbox ended without a word"


class _Line:
    """A connection to the launched process, which has the other end. The stack closes both."""

    def __init__(self, stack: ExitStack) -> None:
        self.ours, self._theirs = map(stack.enter_context, socket.socketpair())
        self.ours.settimeout(_SETUP_TIMEOUT_S)
        self._heard = stack.enter_context(self.ours.makefile("rb"))
        self.end = self._theirs.fileno()

    def close_end(self) -> None:
        """Close our copy of the other end, so that we hear when it is closed over there."""
        self._theirs.close()

    def send(self, data: bytes) -> None:
        """Send everything and close this side. If nobody listens, the answer shows it."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.ours.sendall(data)
            self.ours.shutdown(socket.SHUT_WR)

    def receive(self, whole: bool = False) -> bytes:
        """The next line, or (`whole`) all that comes; empty if the connection broke off."""
        try:
            return self._heard.read() if whole else self._heard.readline()
        except ConnectionResetError:
            return b""
        except TimeoutError:
            raise StartFailed("sandbox_failed", "the sandbox did not come up") from None


def _memory_file(stack: ExitStack, content: bytes) -> int:
    descriptor = os.memfd_create("coulomb")
    stack.callback(os.close, descriptor)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
