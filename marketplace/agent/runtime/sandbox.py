"""What a job gets to see: the command line that puts it into a bubblewrap sandbox.

Inside: own process, mount, network, IPC, host-name and cgroup namespaces; a read-only system, a new
/proc and /dev, a bounded /tmp; /work and /out to write to. No network interface but an unconnected
loopback, no capability, no new privileges, an empty environment.

As root the sandbox is built with root's rights, and the launcher becomes a user id that belongs to
only this job slot before the job starts. An ordinary user's sandbox is in a user namespace.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from marketplace.agent.errors import FoldersExposed, RuntimeUnavailable
from marketplace.agent.folders import JobFolders
from marketplace.agent.inventory import InstalledGpu
from marketplace.limits import MIB
from marketplace.sdk.profile import config_dir, state_dir

WORK, OUT, SOCKET_FOLDER = "/work", "/out", "/run/coulomb"
PYTHON = "/opt/python"
LAUNCHER_FILE = Path(__file__).with_name("launch.py")
LAUNCHER = "/opt/coulomb/start-job"  # not a name that a job could import by accident
HELPER_FILE = Path(__file__).parent.with_name("helper") / "coulomb_job.py"
HELPER = f"/opt/coulomb/{HELPER_FILE.name}"
PATH = f"{PYTHON}/bin:/usr/local/bin:/usr/bin:/bin"
# Beyond what distributions and systemd hand out, so no other user of the machine has these ids.
JOB_UID_FIRST = 1_990_000_000
_USER_UID = 1000  # what an ordinary user's job sees itself as
_NEEDED = {"--size", "--perms", "--json-status-fd", "--seccomp", "--args"}
_SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
_GPU_SYSTEM = ("/sys/devices", "/sys/bus/pci")
_NAMESPACES = (
    "--unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try --hostname job"
    " --die-with-parent --new-session --cap-drop ALL"
)
_HELP_TIMEOUT_S = 10.0
Words = list[str]


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    memory_mib: int
    storage_mib: int
    pids: int
    cpu_seconds: int
    cpu_milli: int = 0  # 0: no limit but the machine's


@dataclass(frozen=True, slots=True)
class Launch:
    lease_id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    folders: JobFolders
    limits: SandboxLimits
    gpus: tuple[InstalledGpu, ...]
    slot: int  # unique among the jobs that run on this node now


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    path: str
    as_root: bool
    known: frozenset[str]

    @classmethod
    def find(cls) -> "Bubblewrap":
        """The one on this machine. Raises RuntimeUnavailable if it is missing or too old."""
        path = shutil.which("bwrap")
        if path is None:
            raise RuntimeUnavailable("bubblewrap is not installed; run: apt-get install bubblewrap")
        result = subprocess.run(  # noqa: S603 - a fixed program
            [path, "--help"], capture_output=True, text=True, timeout=_HELP_TIMEOUT_S, check=False
        )
        words = (result.stdout + result.stderr).split()
        known = frozenset(word for word in words if word.startswith("--"))
        if missing := _NEEDED - known:
            raise RuntimeUnavailable(f"bubblewrap is too old: no {', '.join(sorted(missing))}")
        return cls(path, os.geteuid() == 0, known)

    def uid(self, slot: int) -> int:
        return JOB_UID_FIRST + slot if self.as_root else _USER_UID

    def options(self, launch: Launch, prefix: Path, status_fd: int, filter_fd: int | None) -> Words:
        folders = launch.folders
        words = [*_NAMESPACES.split(), *self._rights(), "--clearenv", "--chdir", WORK]
        words += ["--json-status-fd", str(status_fd)]
        if filter_fd is not None:
            words += ["--seccomp", str(filter_fd)]
        words += _system(launch)
        words += ["--bind", str(folders.work), WORK, "--bind", str(folders.out), OUT]
        words += _python(prefix)
        words += _made_folders(SOCKET_FOLDER) + _read_only(folders.run, SOCKET_FOLDER)
        words += _devices(launch)
        return [*words, "--remount-ro", "/dev", "--remount-ro", "/"]

    def _rights(self) -> Words:
        if self.as_root:  # what the launcher needs to take the last rights away
            needed = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
            return [word for capability in needed for word in ("--cap-add", capability)]
        words = ["--unshare-user", "--uid", str(_USER_UID), "--gid", str(_USER_UID)]
        return words + (["--disable-userns"] if "--disable-userns" in self.known else [])


def write_system_files(folder: Path, uid: int) -> None:
    """The few files of /etc that programs look up users and hosts in."""
    (folder / "passwd").write_text(f"job:x:{uid}:{uid}:job:{WORK}:/bin/sh\n")
    (folder / "group").write_text(f"job:x:{uid}:\n")
    (folder / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")


def _system(launch: Launch) -> Words:
    words = _read_only("/usr", "/usr")
    for name in _SYSTEM_FOLDERS:
        path = Path(name)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            words += _read_only(name, name)
    words += ["--proc", "/proc", "--dev", "/dev", *_made_folders("/etc")]
    for name in ("passwd", "group", "hosts"):
        words += _read_only(launch.folders.run / name, f"/etc/{name}")
    for file in _SYSTEM_FILES:
        words += ["--ro-bind-try", file, file]
    # Without a memory controller these two are not seen by the memory watch: they are kept small.
    size = max(16, launch.limits.memory_mib // 4) * MIB
    for folder in ("/tmp", "/dev/shm"):  # noqa: S108 - the sandbox's own
        words += ["--perms", "1777", "--size", str(size), "--tmpfs", folder]
    return words


def _python(prefix: Path) -> Words:
    """The interpreter under /opt/python, what it stands on, and our two files in /opt/coulomb."""
    words = _made_folders(PYTHON) + _read_only(prefix, PYTHON)
    for base in sorted(bound_bases(prefix)):
        words += _made_folders(str(base.parent)) + _read_only(base.resolve(), str(base))
    words += _made_folders("/opt/coulomb") + _read_only(LAUNCHER_FILE, LAUNCHER)
    return words + _read_only(HELPER_FILE, HELPER)


def _devices(launch: Launch) -> Words:
    words: Words = []
    real = [f"/dev/nvidia{gpu.minor}" for gpu in launch.gpus if not gpu.simulated]
    if not real:
        return words
    for file in (*real, *_GPU_FILES):
        words += ["--dev-bind-try", file, file]
    for folder in _GPU_SYSTEM:
        words += [*_made_folders(str(Path(folder).parent)), "--ro-bind-try", folder, folder]
    return words


def _read_only(source: Path | str, place: str) -> Words:
    return ["--ro-bind", str(source), place]


def _made_folders(path: str) -> Words:
    """Folders down to `path` that every user may pass; by itself bubblewrap makes them 0700."""
    steps = reversed([Path(path), *Path(path).parents[:-1]])
    return [word for step in steps for word in ("--perms", "0755", "--dir", str(step))]


def bound_bases(prefix: Path) -> set[Path]:
    """Installations outside /usr, which an environment's links and pyvenv.cfg lead to."""
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
    return {base for base in found if not base.is_relative_to("/usr")}


def refuse_exposed(prefix: Path, private: Iterable[Path]) -> None:
    """Raise FoldersExposed if a bound base holds a home folder, its .local, or a private folder.

    An environment made from a link such as ~/.local/bin/python3.12 names ~/.local as its base, and
    with it come other programs, their state and their keys.
    """
    homes = {Path.home()}
    for uid in (os.geteuid(), prefix.stat().st_uid):  # who runs this, who owns the environment
        with suppress(KeyError):  # a user without an entry
            homes.add(Path(pwd.getpwuid(uid).pw_dir))
    usual = (*homes, *(home / ".local" for home in homes), config_dir(), state_dir())
    kept = sorted({path.resolve() for path in (*usual, *private)})
    for base in sorted(bound_bases(prefix)):
        shown = next((path for path in kept if path.is_relative_to(base.resolve())), None)
        if shown is not None:
            interpreter = (prefix / "bin" / "python").resolve()
            raise FoldersExposed(
                f"jobs would see {base}, and with it {shown}: {prefix} was made from a link; make"
                f" the environment from the interpreter's own path: {interpreter} -m venv {prefix}"
            )
