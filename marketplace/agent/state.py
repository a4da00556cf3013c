"""The agent's state folder: its journal, its jobs' folders, and the lock that keeps it to one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from marketplace.agent.errors import StateLocked


class StateFolder:
    """Held by one agent at a time: two with one journal could sign two values for one reading."""

    def __init__(self, path: Path) -> None:
        """Take the folder, which is made if need be. Raises StateLocked."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        self.jobs = path / "jobs"  # the folder of the jobs' folders
        self._lock_fd = os.open(path / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_fd)
            raise StateLocked(f"another agent works on {path}") from None
        os.ftruncate(self._lock_fd, 0)
        os.write(self._lock_fd, str(os.getpid()).encode())

    def close(self) -> None:
        """Let the folder go."""
        os.ftruncate(self._lock_fd, 0)
        os.close(self._lock_fd)


def journal_of(path: Path) -> Path:
    """The journal's file in a state folder."""
    return path / "journal.db"


def running_pid(path: Path) -> int | None:
    """The process id of the agent that holds a state folder, or None if none does."""
    try:
        lock_fd = os.open(path / "agent.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(lock_fd, 32).decode(errors="replace")
        return int(text) if text.isdigit() else None
    finally:
        os.close(lock_fd)
    return None
