"""Jobs in the real sandbox, and a whole node over a market in memory."""

import io
import os
import subprocess
import tarfile
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from marketplace.agent.folders import JobFolders, give_to, make_folders, remove_tree
from marketplace.agent.inventory import Inventory, simulated_gpus
from marketplace.agent.journal import AgentJournal, Ending
from marketplace.agent.runtime.process import ProcessRuntime, RunningProcess
from marketplace.agent.runtime.sandbox import Launch, SandboxLimits
from marketplace.agent.supervisor import Supervisor
from settlement.attestation import Close
from settlement.signing import LocalSigner
from settlement.usage import UsageVector
from tests.fakes_agent import PATIENCE_S, FakeMarket, until

LIMITS = SandboxLimits(memory_mib=512, storage_mib=64, pids=128, cpu_seconds=60)
INVENTORY = Inventory(simulated_gpus("2xH100", "tests"), 8_000, 4_096, 4_096)


@dataclass(frozen=True)
class Ran:
    """What a job left to see."""

    code: int | None
    out: str
    err: str


@dataclass(frozen=True)
class Sandbox:
    """A runtime and a folder to run jobs in."""

    runtime: ProcessRuntime
    root: Path

    @contextmanager
    def started(
        self, argv: list[str], env: Mapping[str, str] | None = None, limits: SandboxLimits = LIMITS
    ) -> Iterator[RunningProcess]:
        """A job in its folders; at the end nothing of it is left."""
        folders = JobFolders(self.root / "job")
        make_folders(folders)
        give_to(folders, self.runtime.owner(0))
        name = f"test-{os.getpid()}-{time.monotonic_ns()}"
        launch = Launch(name, tuple(argv), env or {}, folders, limits, (), 0)
        running = self.runtime.start(launch)
        try:
            yield running
        finally:
            running.close()
            os.close(running.stdout)
            os.close(running.stderr)
            remove_tree(folders.root)

    def run(self, argv: list[str], env: Mapping[str, str] | None = None) -> Ran:
        """Run a short job (with little output) to its end."""
        with self.started(argv, env) as running:
            code = running.wait(PATIENCE_S)
            return Ran(code, _text(running.stdout), _text(running.stderr))

    def python(self, code: str, **env: str) -> Ran:
        """Run a short program to its end."""
        return self.run(["python", "-c", textwrap.dedent(code)], env)


def _text(descriptor: int) -> str:
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, 65536).decode()
    except BlockingIOError:
        return ""


class Bench:
    """A node with two simulated GPUs whose supervisor runs on a thread."""

    def __init__(self, runtime: ProcessRuntime, root: Path, interval_ms: int = 250) -> None:
        self.market = FakeMarket(LocalSigner(b"\7" * 32), interval_ms)
        self.root = root
        self.runtime = runtime
        self.stopping = threading.Event()
        self.journal = AgentJournal(root / "journal.db")
        self.node = self.market.node(
            self.journal, root, runtime=runtime, inventory=INVENTORY, shared=True,
            stop_grace_s=1.0, pids_max=64,
        )  # fmt: skip
        self.supervisor = Supervisor(self.node)
        self.thread = threading.Thread(target=self.supervisor.run, args=(self.stopping,))

    def __enter__(self) -> "Bench":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self.journal.close()

    def leave(self) -> None:
        """Stop the supervisor as SIGTERM does, and wait until it has let go."""
        self.stopping.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()

    def ending(self, lease_id: str) -> Ending | None:
        """How the agent decided that a job ended."""
        entry = self.journal.lease(lease_id)
        return entry.ending if entry is not None else None

    def finished(self, lease_id: str) -> dict[str, Any]:
        """The report of a job's end."""
        until(lambda: lease_id in self.market.finished, lease_id)
        return self.market.finished[lease_id]

    def ended(self, lease_id: str) -> tuple[object, object]:
        """Outcome and reason of a job's end."""
        report = self.finished(lease_id)
        return report["outcome"], report["reason"]

    def closed_at(self, lease_id: str) -> UsageVector:
        """The last usage of a job that has ended, which its Close states."""
        close = Close.from_message(self.finished(lease_id)["close"]["message"])
        final = self.market.taken(lease_id)[-1]
        same = (final.ms, final.egress_mib, final.units)
        assert (close.ms, close.egress_mib, close.units) == same
        return final.usage()

    def survives(self) -> None:
        """The node takes up and ends a job as it should, and nothing of the others is left."""
        after = self.market.open_lease(["true"])
        assert self.ended(after) == ("succeeded", "completed")
        until(lambda: list((self.root / "jobs").iterdir()) == [], what="folders left")

    def sleeping(self) -> str:
        """A lease whose job runs and does nothing."""
        lease_id = self.market.open_lease(["sleep", "100"])
        until(lambda: self.market.taken(lease_id))
        return lease_id

    def lease(self, code: str, **changes: object) -> str:
        """A lease for a program in Python."""
        command = ["python", "-c", textwrap.dedent(code)]
        return self.market.open_lease(command, **changes)


def marked_seconds(whole: int = 7919) -> str:
    """Seconds to sleep, as text that no other process of this machine has in its command line."""
    return f"{whole}.{uuid4().int % 10**12:012}"


def processes_with(marker: str) -> list[int]:
    """Processes of the machine whose command line holds a text, this one aside.

    Others may run the same tests at the same time: a marker has to be made for one run.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in line:
                found.append(int(entry.name))
    return found


def names_in(archive: bytes) -> list[str]:
    """Names of an archive's members."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def mounts() -> set[str]:
    """Mount points of this process's namespace."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split(" ")[4] for line in lines}


# An ordinary user who can reach this Python even where it is installed in root's home.
_AS_USER = """
home="$1"; shift
if [ -n "$home" ]; then
    hold=$(mktemp -d)
    mount --bind "$home" "$hold"
    mount -t tmpfs -o mode=755 none /root
    mkdir -p "$home"
    mount --bind "$hold" "$home"
    umount "$hold"
    rmdir "$hold"
fi
exec setpriv --reuid 4242 --regid 4242 --clear-groups --inh-caps=-all --bounding-set=-all "$@"
"""


def as_ordinary_user(command: list[str], python_home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without rights: root does so in a mount namespace of its own."""
    if os.geteuid() == 0:
        hidden = str(python_home) if python_home.is_relative_to("/root") else ""
        command = ["unshare", "-m", "sh", "-e", "-c", _AS_USER, "sh", hidden, *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
