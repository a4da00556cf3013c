"""The command line that puts a job into a bubblewrap sandbox.

Inside: own process, mount, network, IPC, host-name and cgroup namespaces; a read-only system, a new
/proc and /dev, a bounded /tmp; /work and /out to write to. No network interface but an unconnected
loopback, no capability, no new privileges, an empty environment.

As root the sandbox is built with root's rights, and the launcher becomes a user id that belongs to
only this job slot before the job starts. An ordinary user's sandbox is in a user namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from marketplace.agent.errors import RuntimeUnavailable
from marketplace.agent.runtime.base import OUT, WORK, Launch
from marketplace.limits import MIB

PYTHON = "/opt/python"
LAUNCHER = "/opt/coulomb/start-job"  # not a name that a job could import by accident
HELPER_FILE = Path(__file__).parent.with_name("helper") / "coulomb_job.py"
HELPER = f"/opt/coulomb/{HELPER_FILE.name}"
SOCKET_FOLDER = "/run/coulomb"
PATH = f"{PYTHON}/bin:/usr/local/bin:/usr/bin:/bin"
# Beyond what distributions and systemd hand out, so no other user of the machine has these ids.
JOB_UID_FIRST = 1_990_000_000
_USER_UID = 1000  # what an ordinary user's job sees itself as
_SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
_GPU_SYSTEM = ("/sys/devices", "/sys/bus/pci")
_HELP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """An installed bubblewrap and what it can do here."""

    path: str
    as_root: bool
    known: frozenset[str]

    @classmethod
    def find(cls) -> Bubblewrap:
        """The one on this machine. Raises RuntimeUnavailable if it is missing or too old."""
        path = shutil.which("bwrap")
        if path is None:
            raise RuntimeUnavailable("bubblewrap is not installed; run: apt-get install bubblewrap")
        result = subprocess.run(  # noqa: S603 - a fixed program
            [path, "--help"], capture_output=True, text=True, timeout=_HELP_TIMEOUT_S, check=False
        )
        words = (result.stdout + result.stderr).split()
        known = frozenset(word for word in words if word.startswith("--"))
        missing = {"--size", "--perms", "--json-status-fd", "--seccomp", "--args"} - known
        if missing:
            raise RuntimeUnavailable(f"bubblewrap is too old: no {', '.join(sorted(missing))}")
        return cls(path, os.geteuid() == 0, known)

    def uid(self, slot: int) -> int:
        """The user id a job sees itself as."""
        return JOB_UID_FIRST + slot if self.as_root else _USER_UID

    def options(
        self, launch: Launch, prefix: Path, status_fd: int, seccomp_fd: int | None
    ) -> list[str]:
        """All options, without the program and the command."""
        words = [*self._namespaces(), "--clearenv", "--chdir", WORK]
        words += ["--json-status-fd", str(status_fd)]
        if seccomp_fd is not None:
            words += ["--seccomp", str(seccomp_fd)]
        words += _system(launch)
        words += ["--bind", str(launch.folders.work), WORK, "--bind", str(launch.folders.out), OUT]
        words += _python(prefix)
        words += _made_folders(SOCKET_FOLDER)
        words += ["--ro-bind", str(launch.folders.run), SOCKET_FOLDER]
        words += _devices(launch)
        words += ["--remount-ro", "/dev", "--remount-ro", "/"]
        return words

    def _namespaces(self) -> list[str]:
        words = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        words += ["--unshare-cgroup-try", "--hostname", "job", "--die-with-parent", "--new-session"]
        words += ["--cap-drop", "ALL"]
        if self.as_root:  # what the launcher needs to take the last rights away
            for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
                words += ["--cap-add", capability]
            return words
        words += ["--unshare-user", "--uid", str(_USER_UID), "--gid", str(_USER_UID)]
        return words + (["--disable-userns"] if "--disable-userns" in self.known else [])


def write_system_files(folder: Path, uid: int) -> None:
    """The few files of /etc that programs look up users and hosts in."""
    (folder / "passwd").write_text(f"job:x:{uid}:{uid}:job:{WORK}:/bin/sh\n")
    (folder / "group").write_text(f"job:x:{uid}:\n")
    (folder / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")


def _system(launch: Launch) -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM_FOLDERS:
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    words += ["--proc", "/proc", "--dev", "/dev", *_made_folders("/etc")]
    for name in ("passwd", "group", "hosts"):
        words += ["--ro-bind", str(launch.folders.run / name), f"/etc/{name}"]
    for file in _SYSTEM_FILES:
        words += ["--ro-bind-try", file, file]
    # Without a memory controller these two are not seen by the memory watch: they are kept small.
    size = max(16, launch.limits.memory_mib // 4) * MIB
    for folder in ("/tmp", "/dev/shm"):  # noqa: S108 - the sandbox's own
        words += ["--perms", "1777", "--size", str(size), "--tmpfs", folder]
    return words


def _python(prefix: Path) -> list[str]:
    """The interpreter under /opt/python, what it stands on, and our two files in /opt/coulomb."""
    words = [*_made_folders(PYTHON), "--ro-bind", str(prefix), PYTHON]
    for base in sorted(bound_bases(prefix)):
        words += [*_made_folders(str(base.parent)), "--ro-bind", str(base.resolve()), str(base)]
    launcher = Path(__file__).with_name("launch.py")
    words += [*_made_folders("/opt/coulomb"), "--ro-bind", str(launcher), LAUNCHER]
    return [*words, "--ro-bind", str(HELPER_FILE), HELPER]


def bound_bases(prefix: Path) -> set[Path]:
    """Installations an environment stands on that are bound as well; /usr always is."""
    return {base for base in _bases(prefix) if not base.is_relative_to("/usr")}


def _bases(prefix: Path) -> set[Path]:
    """Installations that a virtual environment's links and its pyvenv.cfg lead to."""
    found = set()
    config = prefix / "pyvenv.cfg"
    if config.is_file():
        for line in config.read_text().splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "home":
                found.add(Path(value.strip()).parent)
    executable = prefix / "bin" / "python"
    for _ in range(8):  # every step of a chain of links must exist inside as well
        if not executable.is_symlink():
            break
        executable = executable.parent / executable.readlink()
        if not executable.parent.samefile(prefix / "bin"):
            found.add(executable.parent.parent)
    return found


def _devices(launch: Launch) -> list[str]:
    real = [gpu for gpu in launch.gpus if not gpu.simulated]
    if not real:
        return []
    words = []
    for file in (*(f"/dev/nvidia{gpu.minor}" for gpu in real), *_GPU_FILES):
        words += ["--dev-bind-try", file, file]
    for folder in _GPU_SYSTEM:
        words += [*_made_folders(str(Path(folder).parent)), "--ro-bind-try", folder, folder]
    return words


def _made_folders(path: str) -> list[str]:
    """Folders down to `path` that every user may pass; by itself bubblewrap makes them 0700."""
    steps: Iterable[Path] = reversed([Path(path), *Path(path).parents[:-1]])
    return [word for step in steps for word in ("--perms", "0755", "--dir", str(step))]


def default_prefix() -> Path:
    """The Python environment the agent itself runs in."""
    return Path(sys.prefix)
