"""Starting one job: everything is prepared, then one message to the launcher lets the job go."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marketplace.agent.errors import StartFailed
from marketplace.agent.meters import ProcessTable
from marketplace.agent.runtime import bubblewrap, seccomp
from marketplace.agent.runtime.base import WORK, Launch
from marketplace.agent.runtime.cgroup import Cgroup
from marketplace.agent.runtime.priority import LowPriority
from marketplace.limits import MIB

_SETUP_TIMEOUT_S = 15.0
_KILL_WAIT_S = 5.0
# Address space beyond resident memory that an ordinary program maps (libraries, thread stacks).
_ADDRESS_SLACK_MIB = 1024
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_BASE_ENV = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Started:
    """A job that has begun.

    `inner` is the first process of its PID namespace, if it has one; `status` is a descriptor that
    must stay open while it runs, as bubblewrap ends on a pipe that nobody reads.
    """

    process: subprocess.Popen[bytes]
    priority: LowPriority
    inner: int | None = None
    status: int | None = None


class Starting:
    """One start. Raises StartFailed or OSError; `abandon` then leaves nothing of it."""

    def __init__(self, launch: Launch, group: Cgroup | None, table: ProcessTable) -> None:
        self._launch = launch
        self._group = group
        self._table = table
        self._priority = LowPriority()
        self._process: subprocess.Popen[bytes] | None = None

    def bare(self, prefix: Path) -> Started:
        """Start without a sandbox: only the limits hold."""
        work = self._launch.folders.work
        order = _order(self._launch, home=str(work), path=f"{prefix}/bin:{_SYSTEM_PATH}")
        order["alone"] = True
        del order["rlimits"]["RLIMIT_NPROC"]  # it would count the agent's user's other processes
        with ExitStack() as stack:
            pipes = _Pipes(stack)
            launcher = Path(bubblewrap.__file__).with_name("launch.py")
            command = [f"{prefix}/bin/python", "-I", "-S", str(launcher), *pipes.words]
            process = self._spawn(command, pipes.passed, work)
            pipes.close_passed()
            self._let_go(process, order, pipes)
            return Started(process, self._priority)

    def sandboxed(self, sandbox: bubblewrap.Bubblewrap, prefix: Path) -> Started:
        """Start inside bubblewrap."""
        launch = self._launch
        uid = sandbox.uid(launch.slot)
        bubblewrap.write_system_files(launch.folders.run, uid)
        order = _order(launch, home=WORK, path=bubblewrap.PATH)
        if sandbox.as_root:
            order["uid"] = order["gid"] = uid
        with ExitStack() as stack:
            pipes, status = _Pipes(stack), _Pipe(stack)
            passed = [*pipes.passed, status.writer]
            filter_fd = None
            if (filter_program := seccomp.program()) is not None:
                filter_fd = _memory_file(stack, filter_program)
                passed.append(filter_fd)
            options = sandbox.options(launch, prefix, status.writer, filter_fd)
            # By a file, because the job can read the command line of its first process.
            options_fd = _memory_file(stack, b"".join(os.fsencode(o) + b"\0" for o in options))
            passed.append(options_fd)
            command = [sandbox.path, "--args", str(options_fd), "--"]
            command += [f"{bubblewrap.PYTHON}/bin/python", "-I", "-S", bubblewrap.LAUNCHER]
            process = self._spawn([*command, *pipes.words], tuple(passed), Path("/"))
            pipes.close_passed()
            status.close(status.writer)
            inner = self._inner_pid(process, status)
            self._let_go(process, order, pipes)
            return Started(process, self._priority, inner, os.dup(status.reader))

    def abandon(self) -> None:
        """Leave nothing of a start that failed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_KILL_WAIT_S)
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None:
                    stream.close()
        if self._group is not None:
            self._group.remove()

    def _spawn(
        self, command: list[str], passed: tuple[int, ...], folder: Path
    ) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(  # noqa: S603 - no shell; the job's words come later
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=passed,
            env={},
            cwd=folder,
            start_new_session=True,
        )
        return self._process

    def _inner_pid(self, process: subprocess.Popen[bytes], status: _Pipe) -> int:
        """The host's number for the first process of the sandbox's PID namespace."""
        text = status.read_until(b"\n")
        try:
            return int(json.loads(text)["child-pid"])
        except (ValueError, KeyError):
            raise StartFailed("sandbox_failed", self._complaint(process)) from None

    def _let_go(
        self,
        process: subprocess.Popen[bytes],
        order: dict[str, Any],
        pipes: _Pipes,
    ) -> None:
        """Put the job into its cgroup, then let it go and hear whether it could."""
        if pipes.answer.read_until(b"\n") != b"up\n":
            raise StartFailed("sandbox_failed", self._complaint(process))
        # Only now is the launcher there for sure: what it becomes is counted from its first step.
        tree = self._table.tree(process.pid, fresh=True)
        self._priority.apply(tree)
        if self._group is not None:
            if not all([self._group.add(stat.pid) for stat in tree]):
                raise StartFailed("sandbox_failed", "the job cannot be put into its cgroup")
        pipes.order.write_all(json.dumps(order).encode())
        answer = pipes.answer.read_until(None)
        if answer == b"ok":
            return
        detail = answer.removeprefix(b"ok").decode(errors="replace")
        if answer.startswith(b"ok"):
            word = self._launch.argv[0]
            raise StartFailed("command_not_found", f"{word!r} cannot be run: {detail}")
        raise StartFailed("sandbox_failed", detail or self._complaint(process))

    def _complaint(self, process: subprocess.Popen[bytes]) -> str:
        process.kill()
        text = process.stderr.read(2000) if process.stderr is not None else b""
        return text.decode(errors="replace").strip() or "the sandbox ended without a word"


class _Pipe:
    """A pipe whose ends are closed at the latest with its stack."""

    def __init__(self, stack: ExitStack) -> None:
        self.reader, self.writer = os.pipe()
        self._open = {self.reader, self.writer}
        stack.callback(lambda: self.close(*self._open))

    def close(self, *ends: int) -> None:
        """Close ends that are still open."""
        for end in ends:
            if end in self._open:
                self._open.remove(end)
                os.close(end)

    def write_all(self, data: bytes) -> None:
        """Write everything and close; that a reader is gone shows elsewhere."""
        with suppress(BrokenPipeError):
            view = memoryview(data)
            while view:
                view = view[os.write(self.writer, view) :]
        self.close(self.writer)

    def read_until(self, end: bytes | None) -> bytes:
        """Read up to `end` or, for None, until the other side closes; at most for a while."""
        poller = select.poll()
        poller.register(self.reader, select.POLLIN | select.POLLHUP)
        data = b""
        deadline = time.monotonic() + _SETUP_TIMEOUT_S
        while (left := deadline - time.monotonic()) > 0:
            if not poller.poll(left * 1000):
                break
            chunk = os.read(self.reader, 4096)
            data += chunk
            if not chunk or (end is not None and end in data):
                return data
        raise StartFailed("sandbox_failed", "the sandbox did not come up in time")


class _Pipes:
    """The launcher's two: its order comes by one, its answers go by the other."""

    def __init__(self, stack: ExitStack) -> None:
        self.order, self.answer = _Pipe(stack), _Pipe(stack)
        self.passed = (self.order.reader, self.answer.writer)
        self.words = [str(end) for end in self.passed]

    def close_passed(self) -> None:
        """Close our copies of the ends that the launcher has."""
        self.order.close(self.order.reader)
        self.answer.close(self.answer.writer)


def _order(launch: Launch, home: str, path: str) -> dict[str, Any]:
    return {
        "argv": list(launch.argv),
        "env": {"PATH": path, "HOME": home, **_BASE_ENV, **launch.env},
        "uid": None,
        "gid": None,
        "rlimits": _rlimits(launch),
        "alone": False,
    }


def _rlimits(launch: Launch) -> dict[str, int]:
    limits = launch.limits
    found = {
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": limits.pids,
        "RLIMIT_FSIZE": limits.storage_mib * MIB,
        "RLIMIT_CPU": limits.cpu_seconds,
    }
    if all(gpu.simulated for gpu in launch.gpus):  # CUDA maps far more than it uses
        found["RLIMIT_AS"] = (limits.memory_mib + _ADDRESS_SLACK_MIB) * MIB
    return found


def _memory_file(stack: ExitStack, content: bytes) -> int:
    descriptor = os.memfd_create("coulomb")
    stack.callback(os.close, descriptor)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
