"""Starting one job: everything is prepared, then one message to the launcher lets the job go."""

import json
import os
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from marketplace.agent.errors import StartFailed
from marketplace.agent.runtime import sandbox, seccomp
from marketplace.agent.runtime.cgroup import Cgroup
from marketplace.agent.runtime.processes import KILL_WAIT_S, LowPriority, ProcessTable
from marketplace.limits import MIB

_SETUP_TIMEOUT_S = 15.0
# Address space beyond resident memory that an ordinary program maps (libraries, thread stacks).
_ADDRESS_SLACK_MIB = 1024
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_BASE_ENV = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
Process = subprocess.Popen[bytes]


class Starting:
    """One start. Raises StartFailed or OSError; `abandon` then leaves nothing of it.

    `inner` is the first process of the job's PID namespace, if it has one; `status` is a descriptor
    that must stay open while it runs, as bubblewrap ends on a pipe that nobody reads.
    """

    def __init__(self, launch: sandbox.Launch, group: Cgroup | None, table: ProcessTable) -> None:
        self._launch = launch
        self.group = group
        self.table = table
        self.priority = LowPriority()
        self.inner: int | None = None
        self.status: int | None = None
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

    def sandboxed(self, bubblewrap: sandbox.Bubblewrap, prefix: Path) -> Process:
        launch = self._launch
        uid = bubblewrap.uid(launch.slot)
        sandbox.write_system_files(launch.folders.run, uid)
        wanted = self._wanted(home=sandbox.WORK, path=sandbox.PATH)
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
                self.inner = int(json.loads(status.receive(b"\n"))["child-pid"])
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
            "RLIMIT_CORE": 0,
            "RLIMIT_NPROC": limits.pids,
            "RLIMIT_FSIZE": limits.storage_mib * MIB,
            "RLIMIT_CPU": limits.cpu_seconds,
        }
        if all(gpu.simulated for gpu in launch.gpus):  # CUDA maps far more than it uses
            rlimits["RLIMIT_AS"] = (limits.memory_mib + _ADDRESS_SLACK_MIB) * MIB
        env = {"PATH": path, "HOME": home, **_BASE_ENV, **launch.env}
        nobody = {"uid": None, "gid": None, "alone": False}
        return {"argv": list(launch.argv), "env": env, "rlimits": rlimits, **nobody}

    def _spawn(self, command: list[str], passed: list[int], folder: Path) -> Process:
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

    def _let_go(self, process: Process, wanted: dict[str, Any], line: "_Line") -> None:
        """Put the job into its cgroup, then let it go and hear whether it could."""
        line.close_end()
        if line.receive(b"\n") != b"up\n":
            raise StartFailed("sandbox_failed", _complaint(process))
        # Only now is the launcher there for sure: what it becomes is counted from its first step.
        tree = self.table.tree(process.pid, fresh=True)
        self.priority.apply(tree)
        if self.group is not None and not all([self.group.add(stat.pid) for stat in tree]):
            raise StartFailed("sandbox_failed", "the job cannot be put into its cgroup")
        line.send(json.dumps(wanted).encode())
        answer = line.receive()
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
    """A line to what is started, which has the other end. All is closed with the stack."""

    def __init__(self, stack: ExitStack) -> None:
        self.ours, self._theirs = socket.socketpair()
        stack.enter_context(self.ours)
        stack.enter_context(self._theirs)
        self.end = self._theirs.fileno()

    def close_end(self) -> None:
        """Close our copy of the other end, so that we hear when it is closed over there."""
        self._theirs.close()

    def send(self, data: bytes) -> None:
        """Send everything and say that it was all; that nobody listens shows in the answer."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.ours.sendall(data)
            self.ours.shutdown(socket.SHUT_WR)

    def receive(self, last: bytes | None = None) -> bytes:
        """What comes up to `last`, or for None until the other side closes; at most for a while."""
        data = b""
        deadline = time.monotonic() + _SETUP_TIMEOUT_S
        while last is None or last not in data:
            self.ours.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                chunk = self.ours.recv(4096)
            except ConnectionResetError:
                break
            except TimeoutError:
                raise StartFailed("sandbox_failed", "the sandbox did not come up") from None
            if not chunk:
                break
            data += chunk
        return data


def _memory_file(stack: ExitStack, content: bytes) -> int:
    descriptor = os.memfd_create("coulomb")
    stack.callback(os.close, descriptor)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
